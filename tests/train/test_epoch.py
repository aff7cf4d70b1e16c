import math

import pytest
import torch

from geneval_reward.rl import gdpo_advantages
from geneval_reward.train.epoch import epoch_advantages, reward_metrics, split_evenly, velocity_norm

SHARES = [
    {
        "groups": [0, 0, 1],
        "tags": ["colors", "colors", "counting"],
        "credits": {"official": [1.0, 0.0, 1.0], "partial": [1.0, 0.5, 1.0]},
    },
    {"groups": [1, 0, 1], "tags": ["counting", "colors", "counting"], "credits": {}},
]
EVERYONE = [1.0, 0.0, 1.0, math.nan, math.nan, math.nan]


def test_gdpo_takes_credits_apart_and_leaves_out_what_has_none():
    weights = {"official": 1.0, "partial": 2.0}
    found = epoch_advantages(SHARES, EVERYONE, "gdpo", 5.0, reward=None, credit=weights)
    columns = {name: SHARES[0]["credits"][name] + [math.nan] * 3 for name in weights}
    expected, _ = gdpo_advantages(columns, [0, 0, 1, 1, 0, 1], weights=weights)
    assert torch.equal(found.advantages, expected.advantages)
    assert found.weight.tolist() == [1, 1, 1, 0, 0, 0]
    assert found.advantages[0] > 0 > found.advantages[1]


def test_gdpo_asks_a_composite_for_its_own_weights():
    class Composite:
        def advantages(self, columns, groups, *, clip):
            assert list(columns["official"][:3]) == [1.0, 0.0, 1.0]
            return gdpo_advantages({"official": columns["official"]}, groups, clip=clip)

    found = epoch_advantages(SHARES, EVERYONE, "gdpo", 5.0, reward=Composite(), credit="official")
    assert found.advantages[0] > 0 > found.advantages[1]


def test_gdpo_of_one_reward_is_refused():
    with pytest.raises(ValueError, match="for gdpo, got one reward; use global"):
        epoch_advantages(SHARES, EVERYONE, "gdpo", 5.0, reward=len, credit="official")
    with pytest.raises(ValueError, match="credits that the reward tells, got dense"):
        epoch_advantages(SHARES, EVERYONE, "gdpo", 5.0, reward=len, credit={"dense": 1.0})


def test_metrics_leave_out_what_is_missing():
    groups = epoch_advantages(SHARES, EVERYONE, "global", 5.0, reward=None, credit="official")
    metrics = reward_metrics(SHARES, EVERYONE, groups)
    assert metrics["reward/colors"] == 0.5
    assert metrics["reward/counting"] == 1.0
    assert metrics["reward/partial"] == pytest.approx(2.5 / 3)
    assert metrics["mean_reward_100"] == 0.75
    assert metrics["mean_reward_50"] == 1.0


def test_velocity_norm_is_a_root_mean_square_a_sample():
    velocity = torch.stack([torch.full((2, 3, 3), 3.0), torch.full((2, 3, 3), -4.0)])
    assert float(velocity_norm(velocity)) == pytest.approx(7.0)


def test_parts_are_equal_or_refused():
    assert [list(part) for part in split_evenly(4, 2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="divisor of the 3 batches"):
        split_evenly(3, 2)
