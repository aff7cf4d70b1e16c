import pytest
import torch

from geneval_reward.rl import Slot
from geneval_reward.train import Conditions, Samples, deal_advantages, split_evenly, velocity_norm


def samples(size):
    conditions = Conditions(torch.zeros(size, 1, 1), torch.zeros(size, 1))
    return Samples([], [Slot(0, 0, n) for n in range(size)], conditions, [], torch.zeros(size, 1, 2, 2))


def test_each_batch_gets_its_own_advantages_and_the_count_of_all_ranks():
    batches = [samples(2), samples(3)]
    deal_advantages(batches, torch.arange(5.0), torch.tensor([True, False, False, True, True]))
    assert [batch.advantages.tolist() for batch in batches] == [[0.0, 1.0], [2.0, 3.0, 4.0]]
    assert [batch.rows.tolist() for batch in batches] == [[0], [1, 2]]
    assert [batch.total for batch in batches] == [1, 2]


def test_each_rank_takes_its_share(monkeypatch):
    from geneval_reward.train import epoch

    monkeypatch.setattr(epoch, "world_size", lambda: 2)
    monkeypatch.setattr(epoch, "rank", lambda: 1)
    batches = [samples(1), samples(1)]
    deal_advantages(batches, torch.arange(4.0), torch.tensor([True, False, True, False]))
    assert [batch.advantages.tolist() for batch in batches] == [[2.0], [3.0]]
    assert [batch.total for batch in batches] == [2, 0]


def test_samples_with_nan_latents_are_left_out():
    batch = samples(3)
    batch.latents[1, 0, 0, 0] = torch.nan
    assert batch.finite_rows() == [0, 2]


def test_velocity_norm_is_a_root_mean_square_per_sample():
    velocity = torch.stack([torch.full((2, 3, 3), 3.0), torch.full((2, 3, 3), -4.0)])
    assert float(velocity_norm(velocity)) == pytest.approx(7.0)


def test_parts_are_equal_or_refused():
    batches = [samples(1) for _ in range(4)]
    assert split_evenly(batches, 2) == [batches[:2], batches[2:]]
    with pytest.raises(ValueError, match="divisor of the 3 batches"):
        split_evenly(batches[:3], 2)
