from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_painter import RECORDS

from geneval_reward.callback.plan import chunks, ordered_prompts, plan_jobs, share, waves
from geneval_reward.errors import SpecError, UsageError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts import TAGS, PromptSpec, official_suite


def test_suite_in_balanced_order() -> None:
    specs = ordered_prompts("suite", 0)
    assert set(specs) == set(official_suite())
    assert len(specs) == 553
    for end in (6, 60, 480):  # up to the shortest task's 80 prompts
        assert set(Counter(spec.tag for spec in specs[:end]).values()) == {end // 6}
    assert ordered_prompts("suite", 1) != specs


@pytest.mark.parametrize("prompts", [18, "18", "3/tag"])
def test_a_number_is_spread_over_tasks(prompts: Any) -> None:
    specs = ordered_prompts(prompts, 7)
    assert Counter(spec.tag for spec in specs) == dict.fromkeys(TAGS, 3)
    assert set(specs) <= set(ordered_prompts(24, 7)), "more prompts keep the ones that were there"


def test_file_and_list(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join([*(json.dumps(record) for record in RECORDS), "", "a photo of a bench"]))
    specs = ordered_prompts(str(file), 0)
    assert set(specs) == set(ordered_prompts([*RECORDS, "a photo of a bench"], 0))
    assert ordered_prompts([PromptSpec.parse(RECORDS[0])], 0)[0].prompt == "a photo of a dog"


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a photo of a bench", "a photo of nonsense"], r"prompts\[1\]: prompt: expected a prompt text"),
        ([RECORDS[0], {"tag": "colours"}], r"prompts\[1\]: tag: expected one of"),
        ([RECORDS[0], RECORDS[0]], r"prompts\[1\]: expected each record once"),
        ([], "at least one"),
        (0, "a number of prompts >= 1, got 0"),
        (5, r"6 \(one per task\) to 553 prompts in all, got 5; for 5 of each task write 5/tag"),
        (2.5, "got float"),
        (True, "got bool"),
        ("nowhere.jsonl", "a file with one record per line, got 'nowhere.jsonl'"),
    ],
)
def test_bad_prompts_are_named(prompts: Any, message: str) -> None:
    with pytest.raises((SpecError, UsageError), match=message):
        ordered_prompts(prompts, 0)


def test_bad_line_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("a photo of a bench\n{broken\n")
    with pytest.raises(SpecError, match=r"prompts\.jsonl line 2: record: expected JSON"):
        ordered_prompts(str(file), 0)


def test_jobs_have_their_seeds_and_shown_pictures() -> None:
    jobs = plan_jobs(ordered_prompts(RECORDS, 0), 2, 5, 3)
    assert [job.number for job in jobs] == list(range(16))
    assert all(job.seed == seed_for(5, job.spec.prompt, job.index) for job in jobs)
    assert [job.number for job in jobs if job.shown] == [0, 2, 4]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 7), st.integers(1, 5))
def test_waves_and_shares_keep_every_job_once(per_tag: int, images: int, wave: int, world: int, batch: int) -> None:
    jobs = plan_jobs(ordered_prompts(f"{per_tag}/tag", 0), images, 0, 0)
    split = waves(jobs, images, wave)
    assert [job for part in split for job in part] == jobs
    for part in split:
        counts = Counter(job.spec.tag for job in part)
        assert len(set(counts.values())) == 1, "a wave has equally many prompts of every tag"
        shares = [share(part, rank, world) for rank in range(world)]
        assert sorted(job.number for own in shares for job in own) == sorted(job.number for job in part)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert all([job for chunk in chunks(own, batch) for job in chunk] == own for own in shares)
