"""`RewardBins`: quantiles, values, ties, edges, JSON."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.errors import FileError, UsageError
from geneval_reward.train import RewardBins

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def test_a_verdict_has_one_bin_per_value():
    bins = RewardBins.fit({"geneval": [0.0, 1.0, None, 1.0]})
    assert bins.kinds == {"geneval": "values"}
    assert bins.index("geneval", [0.0, 1.0, None, float("nan")]).tolist() == [0, 1, -1, -1]
    levels = bins.levels({"geneval": [0.0, 1.0, None]})
    assert levels[:2, 0].tolist() == [0.0, 1.0]
    assert np.isnan(levels[2, 0])


def test_levels_of_values_count_bins_and_not_distances():
    bins = RewardBins.fit({"partial": [0.0, 1 / 3, 0.5, 1.0]})
    assert bins.levels({"partial": [0.0, 1 / 3, 0.5, 1.0]})[:, 0] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_value_that_was_not_fitted_belongs_to_the_nearest_and_a_tie_to_the_lower():
    bins = RewardBins.fit({"partial": [0.0, 0.5, 1.0]})
    assert bins.index("partial", [-3.0, 0.2, 0.25, 0.3, 0.75, 0.8, 7.0]).tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_quantiles_hold_equally_many_samples():
    bins = RewardBins.fit({"aesthetic": np.random.default_rng(0).normal(size=6400)}, bins=64)
    assert bins.count("aesthetic") == 64
    values = np.random.default_rng(0).normal(size=6400)
    assert set(np.bincount(bins.index("aesthetic", values)).tolist()) == {100}


def test_ties_stay_together_and_leave_no_bin_empty():
    values = np.concatenate([np.zeros(70), np.arange(1, 31)])
    bins = RewardBins.fit({"clip": values}, bins=10)
    index = bins.index("clip", values)
    assert set(index[:70].tolist()) == {0}
    assert np.bincount(index, minlength=bins.count("clip")).min() > 0
    assert bins.count("clip") == 4  # one for the zeros, three for the rest


def test_outer_bins_take_in_what_lies_beyond():
    bins = RewardBins.fit({"clip": np.arange(100.0)}, bins=4)
    assert bins.index("clip", [-1e9, 1e9]).tolist() == [0, 3]
    assert bins.levels({"clip": [-1e9, 1e9]})[:, 0].tolist() == [0.0, 1.0]


def test_a_continuous_reward_with_one_heavy_value_still_has_two_bins():
    values = [1.0] * 99 + [2.0 + i / 100 for i in range(20)]
    assert RewardBins.fit({"clip": values}, bins=2, kinds={"clip": "quantile"}).count("clip") == 2


@given(st.lists(NUMBERS, min_size=2, max_size=80).filter(lambda found: len(set(found)) > 1), st.integers(2, 70))
def test_bins_rise_with_the_reward_and_are_never_empty(values, bins):
    found = RewardBins.fit({"r": values}, bins=bins)
    index = found.index("r", sorted(values))
    assert (np.diff(index) >= 0).all()
    assert set(index.tolist()) == set(range(found.count("r")))
    levels = found.levels({"r": values})
    assert levels.min() == 0
    assert levels.max() == 1
    assert RewardBins.from_json(found.to_json()) == found


def test_a_constant_reward_is_refused():
    with pytest.raises(
        UsageError, match=r"rewards\['geneval'\]: expected at least two distinct values, got 1 in 2 samples of 3"
    ):
        RewardBins.fit({"geneval": [1.0, 1.0, None]})


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, float("inf")], r"rewards\['r'\]\[1\]: expected a finite number"),
        ([1.0, "good"], r"rewards\['r'\]: expected numbers"),
    ],
)
def test_other_values_are_refused(column, message):
    with pytest.raises(UsageError, match=message):
        RewardBins.fit({"r": column})


def test_samples_need_all_rewards_in_equal_number():
    bins = RewardBins.fit({"a": [0, 1], "b": [0, 1]})
    with pytest.raises(UsageError, match="got none named 'b'"):
        bins.levels({"a": [0]})
    with pytest.raises(UsageError, match="expected as many values of each"):
        bins.levels({"a": [0], "b": [0, 1]})
    with pytest.raises(UsageError, match="expected one of a, b, got 'c'"):
        bins.count("c")


def test_settings_out_of_range_are_refused():
    with pytest.raises(UsageError, match="bins: expected an integer >= 2, got 1"):
        RewardBins.fit({"a": [0, 1]}, bins=1)
    with pytest.raises(UsageError, match="kinds: expected names of a, got 'z'"):
        RewardBins.fit({"a": [0, 1]}, kinds={"z": "values"})
    with pytest.raises(UsageError, match=r"edges\['a'\]: expected at least 2 finite numbers in rising order"):
        RewardBins({"a": "values"}, {"a": (1.0, 0.0)})
    with pytest.raises(UsageError, match=r"kinds\['a'\]: expected quantile or values, got 'uniform'"):
        RewardBins({"a": "uniform"}, {"a": (1.0, 2.0)})


@pytest.mark.parametrize("text", ["[]", "{", '{"a": {"kind": "values"}}', '{"a": {"kind": "values", "edges": ["x"]}}'])
def test_a_damaged_file_is_named(text):
    with pytest.raises((FileError, UsageError), match="expected"):
        RewardBins.from_json(text)
