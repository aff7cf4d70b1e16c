from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_painter import RECORDS

from geneval_reward.callback import GenEvalCallback
from geneval_reward.callback.plan import balanced, chunks, plan_jobs, share, waves
from geneval_reward.errors import SpecError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts import official_suite, read_prompts


def test_balanced_order() -> None:
    specs = balanced(official_suite(), 0)
    assert set(specs) == set(official_suite())
    assert len(specs) == 553
    for end in (6, 60, 480):  # up to the shortest task's 80 prompts
        assert set(Counter(spec.tag for spec in specs[:end]).values()) == {end // 6}
    assert balanced(official_suite(), 1) != specs
    assert balanced(official_suite()[::-1], 0) == specs


@pytest.mark.parametrize(("prompts", "number"), [(12, 12), ("2/task", 12), (7, 7), ("suite", 553), (RECORDS, 8)])
def test_the_callback_reads_prompts_as_every_room_does(prompts: Any, number: int) -> None:
    callback = GenEvalCallback("lite", prompts, every_n_epochs=1, seed=7)
    assert set(callback.specs) == set(read_prompts(prompts, seed=7))
    assert len(callback.specs) == number


def test_a_prompt_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="each record once"):
        GenEvalCallback("lite", [RECORDS[0], RECORDS[0]], every_n_epochs=1)


def test_jobs_have_their_seeds_and_shown_pictures() -> None:
    jobs = plan_jobs(balanced(read_prompts(RECORDS), 0), 2, 5, 3)
    assert [job.number for job in jobs] == list(range(16))
    assert all(job.seed == seed_for(5, job.spec.prompt, job.index) for job in jobs)
    assert [job.number for job in jobs if job.shown] == [0, 2, 4]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 7), st.integers(1, 5))
def test_waves_and_shares_keep_every_job_once(per_tag: int, images: int, wave: int, world: int, batch: int) -> None:
    jobs = plan_jobs(balanced(read_prompts(f"{per_tag}/task"), 0), images, 0, 0)
    split = waves(jobs, images, wave)
    assert [job for part in split for job in part] == jobs
    for part in split:
        counts = Counter(job.spec.tag for job in part)
        assert len(set(counts.values())) == 1, "a wave has equally many prompts of every tag"
        shares = [share(part, rank, world) for rank in range(world)]
        assert sorted(job.number for own in shares for job in own) == sorted(job.number for job in part)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert all([job for chunk in chunks(own, batch) for job in chunk] == own for own in shares)
