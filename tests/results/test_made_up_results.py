"""Made-up results are judged as asked."""

import pytest
from made_up_results import synthetic_rows, write_synthetic
from simulated_runs import SUITE_PROMPTS, simulate_runs

from geneval_reward.results import read_results


@pytest.mark.parametrize("run", [0, 1])
def test_verdicts_are_those_of_the_run(run):
    half = dict.fromkeys(SUITE_PROMPTS, 0.5)
    runs = simulate_runs([half, half], images_per_prompt=1, seed=2)
    rows = list(synthetic_rows(runs, run))
    assert [row.correct for row in rows] == runs.correct[run].tolist()
    assert all(bool(row.reason) != row.correct for row in rows)
    assert all(0 <= row.credits["dense"] <= 1 for row in rows)


def test_the_file_covers_the_suite(tmp_path):
    path = write_synthetic(tmp_path / "a.jsonl", simulate_runs(images_per_prompt=1), fingerprint="x")
    results = read_results(path)
    assert len(results.records) == 553
    assert results.identity.fingerprint == "x"


def test_more_prompts_than_the_suite_has():
    runs = simulate_runs([{"colors": 0.5}], prompts={"colors": 95}, images_per_prompt=1)
    with pytest.raises(ValueError, match="at most 94 prompts of colors"):
        list(synthetic_rows(runs))
