"""Intervals of one run: the benchmark's scores, laws, and simulated truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_runs import SUITE_PROMPTS, simulate_runs

from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.stats import clustered_bootstrap
from geneval_reward.stats.sums import mean_of_task_means, sum_by_prompt


def test_scores_are_those_of_the_benchmark():
    # Two tags of unequal size and unequal images per prompt, worked out by hand.
    correct = [1, 0, 1, 1, 0, 0, 0, 1, 1]
    prompts = [0, 0, 1, 1, 2, 2, 3, 4, 4]
    tags = ["colors"] * 4 + ["counting"] * 5
    scores = clustered_bootstrap(correct, prompts, tags)
    assert list(scores.tags) == ["counting", "colors"]  # the benchmark's order
    assert scores.tags["colors"].value == pytest.approx(3 / 4)
    assert scores.tags["counting"].value == pytest.approx(2 / 5)
    assert scores.overall.value == pytest.approx((3 / 4 + 2 / 5) / 2)
    assert scores.micro.value == pytest.approx(5 / 9)
    assert scores.pass_any.value == pytest.approx(3 / 5)
    assert list(scores.pass_at_k) == [1]
    assert scores.pass_at_k[1].value == pytest.approx(np.mean([0.5, 1, 0, 0, 1]))
    assert (scores.tags["counting"].images, scores.tags["counting"].prompts) == (5, 3)


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_order_of_images_is_irrelevant(data):
    runs = simulate_runs(prompts=dict.fromkeys(SUITE_PROMPTS, 12), seed=data.draw(st.integers(0, 99)))
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(runs.prompt))
    one = clustered_bootstrap(runs.correct[0], runs.prompt, runs.tag, draws=200)
    other = clustered_bootstrap(runs.correct[0][order], runs.prompt[order], runs.tag[order], draws=200)
    assert other.overall.interval.low == pytest.approx(one.overall.interval.low, abs=1e-12)
    assert other.pass_any.value == pytest.approx(one.pass_any.value)
    assert other.tags["colors"].interval.high == pytest.approx(one.tags["colors"].interval.high)


def test_standard_error_is_that_of_the_prompt_means():
    runs = simulate_runs(seed=4)
    scores = clustered_bootstrap(runs.correct[0], runs.prompt, runs.tag)
    rows = runs.tag == "position"
    means = runs.correct[0][rows].reshape(-1, 4).mean(axis=1)
    assert scores.tags["position"].standard_error == pytest.approx(means.std(ddof=1) / math.sqrt(len(means)))


def test_bootstrap_reproduces_the_standard_error():
    runs = simulate_runs(seed=5)
    overall = clustered_bootstrap(runs.correct[0], runs.prompt, runs.tag, draws=40_000).overall
    assert overall.interval.half_width == pytest.approx(1.96 * overall.standard_error, rel=0.03)
    few = simulate_runs(prompts=dict.fromkeys(SUITE_PROMPTS, 5), seed=5)
    overall = clustered_bootstrap(few.correct[0], few.prompt, few.tag, draws=40_000, method="bootstrap").overall
    # With five prompts a tag, drawing five of five would give a width too small by 10 %.
    assert overall.interval.half_width == pytest.approx(1.96 * overall.standard_error, rel=0.04)


def test_an_all_correct_tag_has_no_point_interval():
    scores = clustered_bootstrap([1] * 40, [i // 4 for i in range(40)], ["colors"] * 40)
    found = scores.tags["colors"]
    assert found.value == 1.0
    assert found.interval.method.startswith("wilson")
    assert found.interval.low < 0.8  # ten prompts, whatever the number of images
    assert found.interval.high == 1.0


def test_a_single_prompt_is_wide_and_not_an_error():
    scores = clustered_bootstrap([1, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1], ["colors"] * 3 + ["counting"] * 3)
    assert scores.overall.interval.half_width > 0.3
    graded = clustered_bootstrap([0.5, 0.2, 0.1], [0, 0, 0], ["colors"] * 3)
    assert math.isnan(graded.overall.interval.low)
    assert "single prompt" in graded.overall.interval.method


def test_graded_scores_have_intervals_but_no_pass():
    runs = simulate_runs(seed=6)
    graded = runs.correct[0] * 0.5 + 0.25
    one = clustered_bootstrap(graded, runs.prompt, runs.tag)
    whole = clustered_bootstrap(runs.correct[0], runs.prompt, runs.tag)
    assert one.pass_any is None
    assert one.pass_at_k == {}
    assert one.overall.interval.low == pytest.approx(whole.overall.interval.low / 2 + 0.25)
    with pytest.raises(ValueError, match="pass_k"):
        clustered_bootstrap(graded, runs.prompt, runs.tag, pass_k=[1])
    with pytest.raises(ValueError, match="method"):
        clustered_bootstrap(graded, runs.prompt, runs.tag, method="wilson")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": []}, "correct|scores: expected a vector"),
        ({"correct": [1, math.nan, 0, 1]}, r"scores\[1\]: expected a finite number"),
        ({"correct": ["a", "b", "c", "d"]}, "dtype"),
        ({"prompt_ids": [0, 0, 1]}, r"prompt_ids: expected one per score \(4\), got 3"),
        ({"tags": ["colors", "counting", "colors", "colors"]}, "one tag per prompt"),
        ({"draws": 10}, "draws"),
        ({"level": 95}, "did you mean 0.95"),
        ({"method": "magic"}, "method"),
        ({"pass_k": [3]}, "k: expected 1..2"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"correct": [1, 0, 1, 1], "prompt_ids": [0, 0, 1, 1], "tags": ["colors"] * 4, **change}
    with pytest.raises(ValueError, match=message):
        clustered_bootstrap(**arguments)


@pytest.mark.parametrize("icc", [0.1, 0.4, 0.7])
def test_intraclass_correlation_is_recovered(icc):
    # Accuracies that differ by tag must not count as correlation of prompts.
    runs = simulate_runs(icc=icc, prompts=dict.fromkeys(SUITE_PROMPTS, 1500), seed=7)
    scores = clustered_bootstrap(runs.correct[0], runs.prompt, runs.tag, draws=100)
    assert scores.icc == pytest.approx(icc, abs=0.03)


def test_rerun_error_is_the_spread_of_reruns_on_the_same_prompts():
    rng = np.random.default_rng(0)
    runs = simulate_runs(seed=8)
    share = rng.beta(1.0, 1.0, size=553)
    found, estimated = [], []
    for _ in range(100):
        correct = rng.random((553, 4)) < share[:, None]
        scores = clustered_bootstrap(correct.ravel(), runs.prompt, runs.tag, draws=100)
        found.append(scores.overall.value)
        estimated.append(scores.rerun_standard_error)
    assert np.mean(estimated) == pytest.approx(np.std(found), rel=0.2)


SATURATED = {
    "single_object": 1.0,
    "two_object": 0.99,
    "counting": 0.95,
    "colors": 0.92,
    "position": 0.99,
    "color_attr": 0.86,
}


def coverage(accuracy, icc, repeats, prompts=SUITE_PROMPTS, **options):
    """Share of intervals that hold the truth: overall, and each tag."""
    overall, tags = 0, dict.fromkeys(accuracy, 0)
    for seed in range(repeats):
        runs = simulate_runs([accuracy], icc=icc, prompts=prompts, seed=seed)
        scores = clustered_bootstrap(runs.correct[0], runs.prompt, runs.tag, draws=1000, seed=seed, **options)
        overall += runs.truth[0] in scores.overall.interval
        for name, estimate in scores.tags.items():
            tags[name] += accuracy[name] in estimate.interval
    return overall / repeats, {name: hits / repeats for name, hits in tags.items()}


@pytest.mark.slow
@pytest.mark.parametrize("icc", [0.2, 0.6])
@pytest.mark.parametrize("accuracy", [TYPICAL_ACCURACY, SATURATED], ids=["typical", "saturated"])
def test_coverage_is_nominal(accuracy, icc):
    overall, tags = coverage(accuracy, icc, repeats=400)
    assert 0.93 <= overall <= 0.97
    # Six intervals at once: a wider band, but no tag falls through at either end of the scale.
    assert all(0.93 <= share <= 1.0 for share in tags.values()), tags


def test_coverage_is_nominal_quick():
    overall, tags = coverage(TYPICAL_ACCURACY, 0.4, repeats=60)
    assert 0.90 <= overall <= 0.99
    assert np.mean(list(tags.values())) >= 0.93


def test_ignoring_the_prompt_would_under_cover():
    hits = 0
    for seed in range(60):
        runs = simulate_runs(icc=0.6, seed=seed)
        hits += (
            runs.truth[0]
            in clustered_bootstrap(runs.correct[0], np.arange(len(runs.prompt)), runs.tag, draws=200).overall.interval
        )
    assert hits / 60 < 0.88


def test_the_mean_of_task_means_is_the_same_everywhere():
    runs = simulate_runs(prompts=dict.fromkeys(SUITE_PROMPTS, 3), seed=11)
    sums = sum_by_prompt(runs.correct[0], runs.prompt, runs.tag)
    scores = clustered_bootstrap(runs.correct[0], runs.prompt, runs.tag, draws=100)
    images = np.bincount(sums.tag, sums.images)
    total = np.bincount(sums.tag, sums.total)
    assert float(mean_of_task_means(total, images)) == pytest.approx(scores.overall.value)
    # A task without images has no part in it, and without any images there is no score.
    assert float(mean_of_task_means([3, 1, 0], [4, 4, 0])) == 0.5
    assert np.isnan(mean_of_task_means([0, 0], [0, 0]))
    assert mean_of_task_means([[1, 2], [2, 2]], [2, 2]).tolist() == [0.75, 1.0]
