"""What `fsdp2` refuses, and idle passes; whole sharded runs are in tests/recipes/test_sharding.py."""

from types import SimpleNamespace

import pytest
import torch

from geneval_reward.train import FlowPolicy, FSDP2Strategy, PolicyWeights, check_strategy, idle_passes
from geneval_reward.train.sharding import shard
from geneval_reward.train.tiny import tiny_sd3


def make(**options):
    policy = FlowPolicy(tiny_sd3())
    return policy, PolicyWeights(policy.transformer, **({"lora_rank": 2, "old": True} | options))


def fsdp2():
    return FSDP2Strategy(parallel_devices=[torch.device("cpu")])


def test_a_module_of_another_kind_is_refused():
    from lightning.pytorch.demos.boring_classes import BoringModel

    strategy = fsdp2()
    strategy.connect(BoringModel())
    with pytest.raises(ValueError, match="for fsdp2, got BoringModel"):
        strategy.model_to_device()


def test_an_older_torch_is_refused(monkeypatch):
    import torch.distributed.fsdp as fsdp

    monkeypatch.setattr(fsdp, "FSDPModule", object)
    with pytest.raises(ValueError, match="expected a PyTorch with FSDPModule"):
        shard(make()[1], "cpu")


def test_idle_passes_have_no_gradient_and_are_left_out_where_nothing_is_sharded():
    policy, weights = make()
    conditions, roles = policy.encode(["a"]), ["old", "trained"]
    alone = SimpleNamespace(strategy=object())
    assert list(idle_passes(alone, policy, weights, conditions, 2, roles)) == []
    losses = list(idle_passes(SimpleNamespace(strategy=fsdp2()), policy, weights, conditions, 2, roles))
    assert [numbers for _, numbers in losses] == [{}, {}]
    for loss, _ in losses:
        loss.backward()
    grads = [p.grad for p in weights.trained().values()]
    assert all(grad is not None and not grad.any() for grad in grads)


def test_half_precision_that_ranks_would_scale_apart_is_refused():
    trainer = SimpleNamespace(strategy=fsdp2(), precision="16-mixed")
    with pytest.raises(ValueError, match="precision: expected bf16-mixed or 32-true"):
        check_strategy(trainer, make(lora_rank=0)[1])
    check_strategy(trainer, make()[1])


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_other_sharded_strategies_are_refused(name):
    trainer = SimpleNamespace(strategy=type(name, (), {})(), precision="32-true")
    with pytest.raises(ValueError, match=f"strategy: expected auto, ddp or fsdp2, got {name}"):
        check_strategy(trainer, make()[1])
