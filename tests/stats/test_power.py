"""Planning: what a measurement can show, and how many images it takes."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_runs import SUITE_PROMPTS, simulate_runs

from geneval_reward.generate.subset import TYPICAL_ACCURACY
from geneval_reward.stats import (
    VarianceComponents,
    assumed_components,
    compare_paired,
    minimum_detectable_difference,
    required_images,
    variance_components,
)


@given(st.floats(0.001, 0.1), st.floats(0.7, 0.99), st.floats(0.9, 0.99))
def test_power_at_the_detectable_difference_is_the_power_asked_for(error, power, level):
    difference = minimum_detectable_difference(error, power=power, level=level)
    critical, shift = NormalDist().inv_cdf(0.5 + level / 2), difference / error
    shown = NormalDist().cdf(shift - critical) + NormalDist().cdf(-shift - critical)
    assert shown == pytest.approx(power, abs=0.005)


def test_few_degrees_of_freedom_need_a_larger_difference():
    assert minimum_detectable_difference(0.01, df=5) > 1.2 * minimum_detectable_difference(0.01)


def test_components_are_recovered():
    runs = simulate_runs(
        [dict.fromkeys(SUITE_PROMPTS, 0.5)], icc=0.4, prompts=dict.fromkeys(SUITE_PROMPTS, 1500), seed=1
    )
    parts = variance_components(runs.correct[0], runs.prompt, runs.tag)
    assert parts.between == pytest.approx(0.4 * 0.25, rel=0.05)
    assert parts.within == pytest.approx(0.6 * 0.25, rel=0.05)


def test_planned_error_is_that_of_a_comparison():
    runs = simulate_runs([TYPICAL_ACCURACY] * 2, prompts=dict.fromkeys(SUITE_PROMPTS, 90), seed=2)
    found = compare_paired(*runs.correct, runs.prompt, runs.tag)
    parts = variance_components(runs.correct[1].astype(float) - runs.correct[0], runs.prompt, runs.tag)
    assert parts.standard_error(540, 4) == pytest.approx(found.overall.standard_error, rel=0.03)


@given(
    difference=st.floats(0.005, 0.2),
    between=st.floats(0.0, 0.2),
    within=st.floats(0.01, 0.4),
    images=st.integers(1, 16),
)
def test_the_smallest_plan_suffices_and_one_prompt_less_does_not(difference, between, within, images):
    parts = VarianceComponents(between, within)
    plan = required_images(difference, parts, images_per_prompt=images)
    assert plan.detectable <= difference * (1 + 1e-6)
    if plan.prompts > 1:
        error = parts.standard_error(plan.prompts - 1, images)
        assert minimum_detectable_difference(error) > difference * (1 - 1e-6)
    assert plan.images == plan.prompts * plan.images_per_prompt


def test_more_images_do_not_help_where_prompts_differ():
    parts = assumed_components(0.6, 0.5, prompt_correlation=0.5)
    with pytest.raises(ValueError, match="add prompts or accept a larger difference") as error:
        required_images(0.01, parts, prompts=553)
    least = int(str(error.value).split("more than ")[1].split()[0])
    assert required_images(0.01, parts, prompts=least + 1).images_per_prompt >= 1
    with pytest.raises(ValueError, match="add prompts"):
        required_images(0.01, parts, prompts=least)


def test_a_plan_delivers_its_power():
    accuracy = dict.fromkeys(SUITE_PROMPTS, 0.6)
    better = dict.fromkeys(SUITE_PROMPTS, 0.66)
    pilot = simulate_runs([accuracy] * 2, icc=0.4, prompts=dict.fromkeys(SUITE_PROMPTS, 400), seed=3)
    parts = variance_components(pilot.correct[1].astype(float) - pilot.correct[0], pilot.prompt, pilot.tag)
    plan = required_images(0.06, parts, images_per_prompt=4)
    prompts = dict.fromkeys(SUITE_PROMPTS, math.ceil(plan.prompts / 6))
    shown = 0
    for seed in range(60):
        runs = simulate_runs([accuracy, better], icc=0.4, prompts=prompts, seed=seed)
        shown += compare_paired(*runs.correct, runs.prompt, runs.tag, draws=200).overall.p_value <= 0.05
    assert 0.65 <= shown / 60 <= 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: required_images(2.0, VarianceComponents(0.1, 0.1), prompts=9), "one point is 0.01"),
        (lambda: required_images(0.1, VarianceComponents(0.1, 0.1)), "exactly one"),
        (lambda: required_images(0.1, VarianceComponents(0.1, 0.1), prompts=1, images_per_prompt=1), "exactly one"),
        (lambda: required_images(0.1, VarianceComponents(0.1, 0.1), prompts=0), "prompts: expected an integer >= 1"),
        (lambda: VarianceComponents(-0.1, 0.1), "between"),
        (lambda: assumed_components(60, 0.5), "accuracy"),
        (lambda: assumed_components(0.6, 0.5, prompt_correlation=2), "prompt_correlation"),
        (lambda: minimum_detectable_difference(math.nan), "standard_error"),
        (lambda: variance_components([1, 0], [0, 1], ["colors"] * 2), "two images of a prompt"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_simulation_has_the_moments_it_promises():
    runs = simulate_runs([TYPICAL_ACCURACY] * 2, icc=0.3, prompts=dict.fromkeys(SUITE_PROMPTS, 2000), seed=4)
    for verdicts in runs.correct:
        for tag, share in TYPICAL_ACCURACY.items():
            assert verdicts[runs.tag == tag].mean() == pytest.approx(share, abs=0.02)
    same = simulate_runs([TYPICAL_ACCURACY] * 2, prompt_correlation=1.0, noise_correlation=1.0)
    assert np.array_equal(*same.correct)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"icc": 0}, "icc"),
        ({"noise_correlation": 1.2}, "noise_correlation"),
        ({"accuracies": [{"colors": 0.5}, {"counting": 0.5}]}, r"accuracies\[1\]"),
        ({"accuracies": [{"colors": 50}]}, "shares in"),
        ({"accuracies": [{"colours": 0.5}]}, "number of prompts"),
    ],
)
def test_simulation_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_runs(**options)
