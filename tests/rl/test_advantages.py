import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.rl import gdpo_advantages, group_advantages

REWARDS = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.none(), st.floats(-100, 100, width=32))), min_size=1, max_size=40
).filter(lambda rows: any(reward is not None for _, reward in rows))
STD = st.sampled_from(["global", "group", "none"])


def test_by_hand_with_the_released_setting():
    result = group_advantages([1.0, 0.0, 0.0, 0.5], ["a", "a", "b", "b"])
    std = np.std([1.0, 0.0, 0.0, 0.5]) + 1e-4
    assert result.advantages.tolist() == pytest.approx([0.5 / std, -0.5 / std, -0.25 / std, 0.25 / std])
    assert result.reward_std_mean == pytest.approx((0.5 + 0.25) / 2)
    assert (result.reward_mean, result.num_groups, result.group_size) == (0.375, 2, 2.0)


def test_std_of_the_own_group_and_no_std():
    rewards, groups = [1.0, 0.0, 0.0, 0.5], [7, 7, 3, 3]
    own = group_advantages(rewards, groups, std="group")
    assert own.advantages.tolist() == pytest.approx([0.5 / 0.5001, -0.5 / 0.5001, -0.25 / 0.2501, 0.25 / 0.2501])
    assert group_advantages(rewards, groups, std="none").advantages.tolist() == [0.5, -0.5, -0.25, 0.25]


@settings(deadline=None, max_examples=50)
@given(REWARDS, STD)
def test_each_group_sums_to_zero(rows, std):
    groups, rewards = zip(*rows, strict=True)
    result = group_advantages(rewards, groups, std=std, clip=None)
    for group in range(result.num_groups):
        mine = result.advantages[result.group == group].double()
        # float32 storage rounds every term
        assert abs(mine.sum()) <= 1e-5 * (1 + mine.abs().sum())


@settings(deadline=None, max_examples=50)
@given(REWARDS, STD, st.floats(0.1, 10))
def test_clip_bounds(rows, std, clip):
    groups, rewards = zip(*rows, strict=True)
    assert group_advantages(rewards, groups, std=std, clip=clip).advantages.abs().max() <= clip * (1 + 1e-6)


@settings(deadline=None, max_examples=50)
@given(REWARDS, STD, st.integers(0, 1000))
def test_permutation_equivariant(rows, std, seed):
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    groups, rewards = zip(*rows, strict=True)
    first = group_advantages(rewards, groups, std=std)
    second = group_advantages([rewards[i] for i in order], [groups[i] for i in order], std=std)
    torch.testing.assert_close(second.advantages, first.advantages[order], rtol=1e-4, atol=1e-4)
    assert torch.equal(second.weight, first.weight[order])
    assert (second.num_zero_std, second.num_unscored) == (first.num_zero_std, first.num_unscored)


@settings(deadline=None, max_examples=50)
@given(REWARDS)
def test_unscored_samples_do_not_move_the_others(rows):
    scored = [(g, r) for g, r in rows if r is not None]
    full = group_advantages([r for _, r in rows], [g for g, _ in rows])
    only = group_advantages([r for _, r in scored], [g for g, _ in scored])
    assert torch.equal(full.advantages[full.weight > 0], only.advantages)
    assert full.num_unscored == len(rows) - len(scored)
    assert full.num_zero_std == only.num_zero_std


def test_unscored_have_weight_zero_and_are_counted():
    result = group_advantages([1.0, None, 0.0, float("nan"), None], ["a", "a", "a", "a", "b"])
    assert result.weight.tolist() == [1, 0, 1, 0, 0]
    assert result.advantages[[1, 3, 4]].tolist() == [0, 0, 0]
    assert (result.num_unscored, result.num_empty, result.num_zero_std) == (3, 1, 0)
    assert result.zero_std_ratio == 0.0
    assert result.trainable.tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("std", ["global", "group", "none"])
def test_rounding_noise_is_not_blown_up(std):
    noisy = [0.1 + 0.2, 0.3, 0.3 + 1e-9]
    result = group_advantages([*noisy, 0.0, 1.0], [0, 0, 0, 1, 1], std=std, eps=0.0)
    assert result.advantages[:3].tolist() == [0, 0, 0]
    assert result.advantages[3:].abs().min() > 0.4
    assert (result.num_zero_std, result.zero_std_ratio) == (1, 0.5)


def test_all_equal_rewards_teach_nothing():
    result = group_advantages([1.0] * 8, [0] * 4 + [1] * 4)
    assert not result.advantages.any()
    assert not result.trainable.any()
    assert result.zero_std_ratio == 1.0


def test_single_sample_group_is_flat():
    result = group_advantages([1.0, 0.0, 1.0], ["a", "b", "b"])
    assert result.advantages[0] == 0
    assert result.num_zero_std == 1


def test_tensors_keep_their_device_and_lists_agree():
    rewards = torch.tensor([1.0, float("nan"), 0.0, 0.5], dtype=torch.float16)
    by_tensor = group_advantages(rewards, torch.tensor([5, 5, 5, 9]))
    by_list = group_advantages([1.0, None, 0.0, 0.5], ["x", "x", "x", "y"])
    by_array = group_advantages(np.array([1.0, np.nan, 0.0, 0.5]), np.array([0, 0, 0, 1]))
    assert torch.equal(by_tensor.advantages, by_list.advantages)
    assert torch.equal(by_array.advantages, by_list.advantages)
    assert by_tensor.advantages.dtype == torch.float32
    assert torch.isnan(rewards).sum() == 1


def test_large_offset_does_not_cancel():
    small = group_advantages([0.0, 1.0, 0.0, 3.0], [0, 0, 1, 1], std_floor=0.0)
    large = group_advantages([1e8, 1e8 + 1, 1e8, 1e8 + 3], [0, 0, 1, 1], std_floor=0.0)
    torch.testing.assert_close(large.advantages, small.advantages, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rewards", "groups", "options", "message"),
    [
        ([1.0, 2.0], [0], {}, "groups: expected one key per reward, 2, got 1"),
        ([1.0, math.inf], [0, 0], {}, r"rewards\[1\]: expected a finite reward"),
        ([None, None], [0, 0], {}, "at least one scored sample, got 2"),
        ([], [], {}, "rewards: expected one number per sample"),
        (torch.zeros(2, 2), [0, 0], {}, r"got shape \(2, 2\)"),
        ([1.0], [0], {"std": "batch"}, "std: expected 'global', 'group' or 'none'"),
        ([1.0], [0], {"clip": 0.0}, "clip > 0 or None"),
    ],
)
def test_bad_input(rewards, groups, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, groups, **options)


def test_log_dict_names():
    assert set(group_advantages([0.0, 1.0], [0, 0]).log_dict()) == {
        "group_size",
        "zero_std_ratio",
        "reward_std_mean",
        "reward_mean",
        "reward_std",
        "unscored",
    }


def test_gdpo_keeps_apart_what_a_sum_confuses():
    # Summed raw rewards give samples 0 and 1 the same advantage although 1 solves the rarer task.
    easy, rare = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    summed = group_advantages([a + b for a, b in zip(easy, rare, strict=True)], [0] * 6).advantages
    combined, each = gdpo_advantages({"easy": easy, "rare": rare}, [0] * 6)
    assert summed[0] == summed[1]
    assert combined.advantages[1] > combined.advantages[0] + 0.5
    assert set(each) == {"easy", "rare"}


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 1000))
def test_gdpo_does_not_care_about_scale(factor):
    a, b = [1.0, 0.0, 0.3, 0.9], [0.1, 0.7, 0.2, 0.4]
    first, _ = gdpo_advantages({"a": a, "b": b}, [0, 0, 1, 1], eps=0.0)
    second, _ = gdpo_advantages({"a": [factor * x for x in a], "b": b}, [0, 0, 1, 1], eps=0.0)
    torch.testing.assert_close(first.advantages, second.advantages, rtol=1e-4, atol=1e-5)


def test_gdpo_weights_and_missing():
    a, b = [1.0, 0.0, 0.0, None], [0.0, 1.0, None, 1.0]
    combined, each = gdpo_advantages({"a": a, "b": b}, [0] * 4, weights={"b": 0.0})
    assert combined.weight.tolist() == [1, 1, 0, 0]
    assert each["a"].num_unscored == 2
    assert combined.advantages[0] > 0 > combined.advantages[1]
    with pytest.raises(ValueError, match="weights: expected names among a, b, got c"):
        gdpo_advantages({"a": a, "b": b}, [0] * 4, weights={"c": 1.0})
    with pytest.raises(ValueError, match="equal length"):
        gdpo_advantages({"a": a, "b": b[:3]}, [0] * 4)
    with pytest.raises(ValueError, match="at least one named reward"):
        gdpo_advantages({}, [0] * 4)
