"""Comparison of two runs: known values, laws, level and power."""

import numpy as np
import pytest
from simulated_runs import SUITE_PROMPTS, simulate_runs

from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.stats import compare_by_prompt, compare_paired, compare_unpaired, mcnemar

SMALL = dict.fromkeys(SUITE_PROMPTS, 20)


def lifted(points: float) -> dict[str, float]:
    return {tag: min(share + points / 100, 1.0) for tag, share in TYPICAL_ACCURACY.items()}


def test_difference_counts_and_direction():
    a = [1, 0, 0, 0, 1, 1, 0, 0]
    b = [1, 1, 1, 0, 0, 1, 1, 0]
    result = compare_paired(a, b, [0, 0, 1, 1, 2, 2, 3, 3], ["colors"] * 4 + ["counting"] * 4)
    assert result.pairing == "image"
    assert result.tags["colors"].value == pytest.approx(0.5)
    assert result.tags["counting"].value == pytest.approx(0.0)
    assert result.overall.value == pytest.approx(0.25)
    counts = result.overall.counts
    assert (counts.both, counts.only_a, counts.only_b, counts.neither) == (2, 1, 3, 2)
    assert result.overall.p_mcnemar == pytest.approx(mcnemar(1, 3))


def test_swapping_the_runs_changes_the_sign_only():
    runs = simulate_runs([TYPICAL_ACCURACY, lifted(3)], seed=1)
    one = compare_paired(*runs.correct, runs.prompt, runs.tag)
    other = compare_paired(*runs.correct[::-1], runs.prompt, runs.tag)
    assert other.overall.value == pytest.approx(-one.overall.value)
    assert other.overall.standard_error == pytest.approx(one.overall.standard_error)
    assert other.overall.p_value == pytest.approx(one.overall.p_value, abs=0.02)
    assert other.overall.interval.low == pytest.approx(-one.overall.interval.high, abs=0.002)


def test_equal_runs_show_nothing_and_do_not_claim_to_have_seen_all():
    runs = simulate_runs(prompts=SMALL, seed=2)
    same = compare_paired(runs.correct[0], runs.correct[0], runs.prompt, runs.tag)
    assert same.overall.p_value == 1.0
    assert not same.overall.shown
    assert same.overall.detectable > 0
    assert 0 in same.overall.interval
    assert same.overall.interval.half_width > 0


def test_pairing_narrows():
    runs = simulate_runs([TYPICAL_ACCURACY] * 2, prompt_correlation=0.95, noise_correlation=0.6, seed=3)
    paired = compare_paired(*runs.correct, runs.prompt, runs.tag)
    loose = compare_unpaired(runs.correct[0], runs.prompt, runs.tag, runs.correct[1], runs.prompt, runs.tag)
    assert paired.overall.standard_error < 0.7 * loose.overall.standard_error
    assert paired.unpaired_standard_error == pytest.approx(loose.overall.standard_error, rel=0.01)
    assert loose.overall.value == pytest.approx(paired.overall.value)


def test_by_prompt_takes_other_numbers_of_images_in_any_order():
    runs = simulate_runs([TYPICAL_ACCURACY] * 2, prompts=SMALL, images_per_prompt=6, seed=4)
    rng = np.random.default_rng(0)
    first = runs.index < 2
    order = rng.permutation(len(runs.prompt))
    result = compare_by_prompt(
        runs.correct[0][first], runs.prompt[first], runs.tag[first],
        runs.correct[1][order], runs.prompt[order], runs.tag[order],
    )  # fmt: skip
    assert result.pairing == "prompt"
    assert result.overall.counts is None
    means = [
        np.mean([verdicts[keep & (runs.tag == tag)].mean() for tag in SMALL])
        for verdicts, keep in ((runs.correct[0], first), (runs.correct[1], np.ones_like(first)))
    ]
    assert result.overall.value == pytest.approx(means[1] - means[0])


def test_by_prompt_equals_paired_when_the_images_do_pair():
    runs = simulate_runs([TYPICAL_ACCURACY, lifted(4)], seed=5)
    paired = compare_paired(*runs.correct, runs.prompt, runs.tag)
    by_prompt = compare_by_prompt(runs.correct[0], runs.prompt, runs.tag, runs.correct[1], runs.prompt, runs.tag)
    assert by_prompt.overall.interval == paired.overall.interval
    assert by_prompt.overall.p_value == paired.overall.p_value


@pytest.mark.parametrize("compare", ["paired", "by_prompt", "unpaired"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_nothing_is_said_of_shares_that_shares_cannot_be(compare, scale):
    """Two prompts of a task: a t interval on so few would reach far beyond -100 and +100 points."""
    prompts, tags = [0, 0, 1, 1, 2, 2, 3, 3], ["colors"] * 4 + ["counting"] * 4
    a, b = scale * np.array([0, 1, 0, 0, 1, 1, 0, 0]), scale * np.array([1, 1, 0, 1, 1, 0, 1, 1])

    def run(a, b):
        if compare == "paired":
            return compare_paired(a, b, prompts, tags, draws=200)
        function = compare_by_prompt if compare == "by_prompt" else compare_unpaired
        return function(a, prompts, tags, b, prompts, tags)

    for one in run(a, b).figures().values():
        assert -1 <= one.interval.low <= one.value <= one.interval.high <= 1
        assert one.detectable <= 1 or np.isinf(one.detectable)
    assert any(np.isinf(one.detectable) for one in run(a, b).tags.values())
    # A credit without bounds, as Flow-GRPO's, keeps its interval.
    wide = run(a - 14, b).figures().values()
    assert all(one.interval.high > 1 and np.isfinite(one.detectable) for one in wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": [1, 0]}, r"b: expected as many scores as a \(4\), got 2"),
        ({"a": [1, 0, np.inf, 1]}, r"a\[2\]: expected a finite"),
        ({"prompt_ids": [0, 0, 0, 0]}, "at least two prompts of 'colors'"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"a": [1, 0, 1, 1], "b": [1, 1, 1, 0], "prompt_ids": [0, 0, 1, 1], "tags": ["colors"] * 4, **change}
    with pytest.raises(ValueError, match=message):
        compare_paired(**arguments)


def test_by_prompt_refuses_other_prompts():
    with pytest.raises(ValueError, match="same prompts in both runs, got 'c'"):
        compare_by_prompt([1, 0], ["a", "b"], ["colors"] * 2, [1, 0, 1], ["a", "b", "c"], ["colors"] * 3)


def rejections(second, repeats, *, draws=400, **options):
    """Share of repeats in which the paired test, the unpaired test and McNemar say "different"."""
    found = np.zeros(3)
    covered = 0
    for seed in range(repeats):
        runs = simulate_runs([TYPICAL_ACCURACY, second], seed=seed, **options)
        paired = compare_paired(*runs.correct, runs.prompt, runs.tag, draws=draws, seed=seed)
        loose = compare_unpaired(runs.correct[0], runs.prompt, runs.tag, runs.correct[1], runs.prompt, runs.tag)
        found += [paired.overall.p_value <= 0.05, loose.overall.p_value <= 0.05, paired.overall.p_mcnemar <= 0.05]
        covered += runs.truth[1] - runs.truth[0] in paired.overall.interval
    return found / repeats, covered / repeats


@pytest.mark.slow
@pytest.mark.parametrize("icc", [0.2, 0.6])
def test_paired_test_holds_its_level_and_its_coverage(icc):
    share, covered = rejections(TYPICAL_ACCURACY, 400, icc=icc)
    assert 0.025 <= share[0] <= 0.075
    assert 0.93 <= covered <= 0.97


@pytest.mark.slow
def test_paired_test_beats_the_unpaired_in_power():
    share, covered = rejections(lifted(3), 250, icc=0.5, prompt_correlation=0.9)
    assert share[0] > share[1] + 0.25
    assert 0.91 <= covered <= 0.98


def test_level_and_power_quick():
    quiet, _ = rejections(TYPICAL_ACCURACY, 80, draws=200, prompts=SMALL)
    assert quiet[0] <= 0.12
    loud, _ = rejections(lifted(9), 40, draws=200, prompts=SMALL, icc=0.5, prompt_correlation=0.95)
    assert loud[0] > loud[1]


def test_holm_keeps_false_alarms_over_tags_rare():
    alarms = 0
    for seed in range(100):
        runs = simulate_runs([TYPICAL_ACCURACY] * 2, prompts=SMALL, seed=seed)
        result = compare_paired(*runs.correct, runs.prompt, runs.tag, draws=300, seed=seed)
        alarms += any(difference.shown for difference in result.tags.values())
    assert alarms <= 12
