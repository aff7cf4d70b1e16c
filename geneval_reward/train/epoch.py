"""Batches of one epoch on one rank: their samples, their advantages, and how they are split over optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.prompts import PromptSpec
from geneval_reward.rl import Slot
from geneval_reward.support.ranks import rank, world_size
from geneval_reward.train.policy import Conditions

B = TypeVar("B")


@dataclass
class Batch:
    """One batch of the rollout of any model.

    Attributes:
        specs: What the prompts ask for, (b,).
        slots: Groups and indices within them, (b,).
        advantages: (b,), on the CPU; set by `deal_advantages`.
        rows: Indices of the samples to train on, (k,), on the CPU; set by `deal_advantages`.
        total: Number of samples that all ranks train on in this batch; set by `deal_advantages`.
    """

    specs: list[PromptSpec]
    slots: list[Slot]
    advantages: Tensor = field(default_factory=lambda: torch.empty(0), kw_only=True)
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long), kw_only=True)
    total: int = field(default=0, kw_only=True)


@dataclass
class Samples(Batch):
    """One batch of the rollout of a flow model.

    Attributes:
        conditions: The encoded prompts.
        generators: One per sample, for the noise of training; they continue from the rollout.
        latents: Final latents, (b, C, H, W).
        kept: What the method keeps from its rollout.
    """

    conditions: Conditions
    generators: list[torch.Generator]
    latents: Tensor
    kept: Any = None

    def finite_rows(self) -> list[int]:
        """Indices of the samples whose latents are finite; the others have no reward and are not trained on."""
        rows: list[int] = self.latents.flatten(1).isfinite().all(1).nonzero().flatten().tolist()
        return rows


def deal_advantages(samples: Sequence[Batch], advantages: Tensor, train: Tensor) -> None:
    """Give each batch of this rank its advantages and the samples to train on.

    Args:
        samples: The batches of this rank, in the order of sampling.
        advantages: (N,), from all ranks in rank order.
        train: (N,), whether to train on a sample. It must be false for samples without a reward: one sample with NaN
            latents would make the gradients of its whole batch NaN, even with weight 0.
    """
    sizes = [len(batch.slots) for batch in samples]
    advantages, train = advantages.cpu().view(world_size(), -1), train.cpu().view(world_size(), -1)
    mine = advantages[rank()].split(sizes), train[rank()].split(sizes), train.split(sizes, 1)
    for batch, own, chosen, everyone in zip(samples, *mine, strict=True):
        batch.advantages, batch.rows, batch.total = own, chosen.nonzero().flatten(), int(everyone.sum())


def split_evenly(samples: Sequence[B], updates: int) -> list[Sequence[B]]:
    """Split batches into equal consecutive parts, one per optimizer step.

    Raises:
        UsageError: If the number of batches is not divisible by the number of updates.
    """
    if len(samples) % updates:
        raise UsageError(
            f"updates_per_epoch: expected a divisor of the {len(samples)} batches that a rank samples per epoch, got {updates}"
        )
    size = len(samples) // updates
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def velocity_norm(velocity: Tensor) -> Tensor:
    """Sum each sample's root-mean-square velocity over the batch; a steady rise is a known drift of RL on flows.

    Args:
        velocity: (b, C, H, W).

    Returns:
        A scalar without gradient.
    """
    return velocity.detach().float().flatten(1).square().mean(1).sqrt().sum()
