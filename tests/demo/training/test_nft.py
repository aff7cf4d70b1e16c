"""Guidance changes what is sampled and how it is weighted in the first epochs, and nothing after them."""

import pytest
import torch

from geneval_reward.demo.training.nft import GUIDANCE, LIFT, for_pocket
from geneval_reward.train import FlowPolicy, load_recipe
from geneval_reward.train.rewards import Scores


class Recorded:
    """Stands for the trainer, which a module asks for its epoch."""

    def __init__(self, epoch):
        self.current_epoch = epoch


@pytest.fixture
def module():
    from geneval_reward.pocket.build import build_pipeline

    pipeline = build_pipeline(layers=1, heads=2, head_width=8)
    kind = for_pocket(load_recipe("diffusion_nft").DiffusionNFT, 2)
    return kind(FlowPolicy(pipeline), lora_rank=0, num_steps=2)


def at(module, epoch):
    module.trainer = Recorded(epoch)
    return module


@torch.no_grad()
def sampled(module, guidance=None):
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    conditions = module.policy.encode(["a photo of a clock"] * 3)
    if guidance is not None:
        module.policy.guidance_scale = guidance
    try:
        return module.sample(module.policy.noise(generators), conditions, generators)[0]
    finally:
        module.policy.guidance_scale = 1.0


def test_first_rollouts_are_guided_and_later_ones_are_not(module) -> None:
    plain, guided = sampled(at(module, 2)), sampled(at(module, 1))
    assert module.policy.guidance_scale == 1.0
    assert not torch.equal(plain, guided)
    assert torch.equal(guided, sampled(at(module, 2), guidance=GUIDANCE))


def test_first_samples_are_better_by_the_lift(module) -> None:
    scores = Scores([1.0, 0.0, 0.0, 1.0, 0.5, 0.5], [0, 0, 0, 1, 1, 1], ["counting"] * 6, {})
    first, later = (at(module, epoch).advantages(scores).advantages for epoch in (0, 2))
    torch.testing.assert_close(first, later + LIFT)
    assert later[:3].abs().min() > 0
