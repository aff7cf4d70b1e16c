"""What passes through one epoch of a method: sampled batches, their verdict, and the numbers that tell of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.prompts import PromptSpec
from geneval_reward.rl import GroupAdvantages, Slot, gdpo_advantages, group_advantages
from geneval_reward.train.policy import Conditions


@dataclass
class Chunk:
    """One batch of the rollout, as it was sampled.

    Attributes:
        specs: What was asked, (b,).
        slots: Groups and repeats, (b,).
        conditions: The encoded prompts.
        generators: One a sample, for the noise of training; continues after the rollout's.
        latents: (b, C, H, W), final.
        finite: (b,), whether the latents are; others have no reward and are not trained on.
        extra: What the method keeps of its rollout.
    """

    specs: list[PromptSpec]
    slots: list[Slot]
    conditions: Conditions
    generators: list[torch.Generator]
    latents: Tensor
    finite: Tensor
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Epoch:
    """A rank's share of an epoch with its verdict.

    Attributes:
        chunks: The batches, in the order of sampling.
        advantages: Of this rank's samples, one tensor a chunk.
        weights: 0 where there is no reward, one tensor a chunk.
        groups: Of all ranks, for logging.
        scored: For each chunk, how many samples of all ranks have weight.
        useful: For each chunk, how many samples of all ranks have an advantage other than 0.
    """

    chunks: list[Chunk]
    advantages: list[Tensor]
    weights: list[Tensor]
    groups: GroupAdvantages
    scored: list[int]
    useful: list[int]


def epoch_advantages(
    shares: list[dict[str, Any]],
    everyone: list[float],
    std: Literal["global", "group", "none", "gdpo"],
    clip: float,
    *,
    reward: Any,
    credit: str | dict[str, float],
) -> GroupAdvantages:
    """Advantages of all samples of all ranks.

    Args:
        shares: One a rank: `groups` (one key a sample) and `credits` (one number a sample under each name).
        everyone: The rewards of all ranks, in the same order; NaN where there is none.
        std: As `FlowRL`'s `advantage_std`.
        clip: Bound of the absolute advantage.
        reward: With `advantages(columns, groups, clip=)`, as `CompositeReward`, where `gdpo` has no weights in `credit`.
        credit: Weights of credits, for `gdpo`.

    Raises:
        ValueError: If `gdpo` finds nothing to take apart.
    """
    groups = [group for share in shares for group in share["groups"]]
    if std != "gdpo":
        return group_advantages(everyone, groups, std=std, clip=clip)
    names = {name for share in shares for name in share["credits"]}
    columns = {
        # A rank on which nothing could be scored has no columns.
        name: [v for share in shares for v in share["credits"].get(name, [math.nan] * len(share["groups"]))]
        for name in names
    }
    if isinstance(credit, dict):
        if lacking := sorted(set(credit) - names):
            raise UsageError(f"credit: expected credits that the reward tells, got {', '.join(lacking)}")
        return gdpo_advantages({name: columns[name] for name in credit}, groups, weights=credit, clip=clip)[0]
    if not hasattr(reward, "advantages"):
        raise UsageError(
            "advantage_std: expected weights of several credits or a CompositeReward for gdpo, got one reward; use global"
        )
    found: GroupAdvantages = reward.advantages(columns, groups, clip=clip)[0]
    return found


def reward_metrics(shares: list[dict[str, Any]], everyone: list[float], groups: GroupAdvantages) -> dict[str, float]:
    """What is logged of an epoch's rewards: by group, by task, by credit, and of each group's best.

    Args:
        shares: One a rank: `tags` and `credits` (one number a sample under each name).
        everyone: The rewards of all ranks, in the same order; NaN where there is none.
        groups: Their advantages.

    Returns:
        Numbers by name.
    """
    metrics = groups.log_dict() | {"trained_prompt_num": float(groups.num_groups - groups.num_zero_std)}
    tags = [tag for share in shares for tag in share["tags"]]
    for tag in sorted(set(tags)):
        known = [r for r, t in zip(everyone, tags, strict=True) if t == tag and not math.isnan(r)]
        if known:
            metrics[f"reward/{tag}"] = sum(known) / len(known)
    for name in sorted({name for share in shares for name in share["credits"]}):
        column = [v for share in shares for v in share["credits"].get(name, []) if not math.isnan(v)]
        if column:
            metrics[f"reward/{name}"] = sum(column) / len(column)
    by_group: dict[int, list[float]] = {}
    for group, value in zip(groups.group.tolist(), everyone, strict=True):
        if not math.isnan(value):
            by_group.setdefault(group, []).append(value)
    for share in (100, 75, 50, 25, 10):
        tops = [sorted(v, reverse=True)[: max(1, len(v) * share // 100)] for v in by_group.values()]
        metrics[f"mean_reward_{share}"] = sum(sum(top) / len(top) for top in tops) / len(tops)
    return metrics


def velocity_norm(velocity: Tensor) -> Tensor:
    """Sum over samples of the root mean square of each one's velocity; its steady rise is a drift known of RL on flows.

    Args:
        velocity: (b, C, H, W).

    Returns:
        A scalar without gradient.
    """
    return velocity.detach().float().flatten(1).square().mean(1).sqrt().sum()


def split_evenly(chunks: int, updates: int) -> list[range]:
    """Chunk numbers of each optimizer step.

    Raises:
        ValueError: If the chunks do not divide by the updates.
    """
    if chunks % updates:
        raise UsageError(
            f"updates_per_epoch: expected a divisor of the {chunks} batches that a rank samples an epoch, got {updates}"
        )
    size = chunks // updates
    return [range(start, start + size) for start in range(0, chunks, size)]
