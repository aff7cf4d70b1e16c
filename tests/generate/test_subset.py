import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_runs import simulate_runs

from geneval_reward.generate import stratified_subset, subset_standard_error
from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.pocket import pocket_suite
from geneval_reward.prompts import TAGS, official_suite
from geneval_reward.stats import VarianceComponents

SUITE = official_suite()


@given(st.integers(6, 553), st.integers(0, 5))
def test_even_deterministic_and_nested(size, seed) -> None:
    subset = stratified_subset(SUITE, size, seed=seed)
    counts = subset.prompts_per_tag
    assert len(subset.specs) == len(set(subset.specs)) == size
    assert [SUITE[number] for number in subset.numbers] == list(subset.specs)
    assert list(subset.numbers) == sorted(subset.numbers)
    full = {tag: sum(spec.tag == tag for spec in SUITE) for tag in TAGS}
    open_tags = [counts[tag] for tag in TAGS if counts[tag] < full[tag]]
    assert not open_tags or max(counts.values()) - min(open_tags) <= 1
    assert set(subset.specs) <= set(stratified_subset(SUITE, min(553, size + 7), seed=seed).specs)
    assert subset == stratified_subset(SUITE, size, seed=seed)


def test_per_task_and_other_seeds() -> None:
    subset = stratified_subset(pocket_suite(), "3/task")
    assert subset.prompts_per_tag == dict.fromkeys(TAGS, 3)
    assert subset.whole == 200
    assert set(subset.specs) != set(stratified_subset(pocket_suite(), "3/task", seed=1).specs)


@pytest.mark.parametrize("each", [1, 4])
def test_the_stated_standard_error_is_the_spread_of_scores(each) -> None:
    """Overall scores of 60 random prompts of simulated runs, against the formula."""
    sizes = dict.fromkeys(TYPICAL_ACCURACY, 10)
    scores = []
    for seed in range(300):
        runs = simulate_runs(prompts=sizes, images_per_prompt=each, icc=0.4, seed=seed)
        scores.append(np.mean([runs.correct[0][runs.tag == tag].mean() for tag in TAGS]))
    stated = subset_standard_error(sizes, each)
    assert np.std(scores) == pytest.approx(stated, rel=0.13)


def test_measured_components_are_used() -> None:
    assert subset_standard_error({"colors": 25}, 1, VarianceComponents(0.1, 0.15)) == pytest.approx(0.1)
    assert subset_standard_error({"colors": 25, "counting": 25}, 1, VarianceComponents(0.1, 0.15)) == pytest.approx(
        0.1 / 2**0.5
    )


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (5, r"expected 6 \(one per task\) to 553 prompts"),
        (554, "got 554"),
        ("ten", "expected a number of prompts such as 60, or 10/task, got 'ten'"),
        ("81/task", "at most 80 prompts of single_object"),
        ("0/task", "got '0/task'"),
        (True, "got True"),
    ],
)
def test_bad_sizes(size, message) -> None:
    with pytest.raises(ValueError, match=message):
        stratified_subset(SUITE, size)


def test_bad_counts() -> None:
    with pytest.raises(ValueError, match="expected numbers >= 1"):
        subset_standard_error({"colors": 3}, 0)
    with pytest.raises(ValueError, match="expected numbers >= 1"):
        subset_standard_error({}, 1)
