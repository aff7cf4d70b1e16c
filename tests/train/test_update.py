from types import SimpleNamespace

import pytest
import torch

from geneval_reward.support import ranks
from geneval_reward.train import MetricSums, clip_gradients, errors_together


def test_errors_are_raised_at_once_where_others_may_wait_in_a_weight(monkeypatch):
    monkeypatch.setattr(ranks, "gather", lambda item: pytest.fail("waits for ranks that wait for this one"))
    trainer = SimpleNamespace(strategy=SimpleNamespace(strategy_name="fsdp2"))
    with pytest.raises(OSError, match="gone"), errors_together("rollout", trainer):
        raise OSError("gone")


def test_an_error_of_another_rank_is_raised_here(monkeypatch):
    monkeypatch.setattr(ranks, "gather", lambda item: [item, "OSError: gone"])
    with (
        pytest.raises(RuntimeError, match="update: failed on another process; rank 1: OSError: gone"),
        errors_together("update"),
    ):
        pass


def test_numbers_are_averaged_over_steps_and_kept_on_their_device():
    sums = MetricSums()
    for _ in range(2):
        sums.add({"loss": torch.tensor(1.0, requires_grad=True), "kl": torch.tensor(0.5)})
        sums.add({"loss": torch.tensor(2.0)})
        sums.count_step()
    assert sums.over_ranks() == {"kl": 0.5, "loss": 3.0}
    lazy = MetricSums()
    lazy.add({"loss": torch.empty((), device="meta")})  # a tensor that cannot be read
    lazy.add({"loss": torch.empty((), device="meta")})


def test_gradients_are_clipped_to_a_norm():
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))]
    parameters[0].grad = torch.tensor([3.0, 4.0])
    assert float(clip_gradients(parameters, 1.0)) == pytest.approx(5.0)
    assert float(parameters[0].grad.norm()) == pytest.approx(1.0)
