"""Rewards of a rollout: each batch is scored while the next one is sampled; then all ranks gather the rewards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from geneval_reward.callback import GenEvalCallback
from geneval_reward.errors import UsageError
from geneval_reward.prompts import PromptSpec
from geneval_reward.reward import CompositeReward, GenEvalReward, Reward, RewardBatch
from geneval_reward.reward.worker import Worker
from geneval_reward.rl import GroupAdvantages, Slot, gdpo_advantages
from geneval_reward.support.imports import import_object, is_import_path
from geneval_reward.support.ranks import gather
from geneval_reward.support.signatures import check_part, takes_nothing
from geneval_reward.train.update import errors_together

BACKENDS: Final = ("lite", "paper", "mmdet")

Credit = str | dict[str, float]
"""Name of a credit, or weights of several: `{"official": 1, "partial": 1}` is graded and still prefers what is right."""


def find_reward(reward: Any, credit: Credit, trainer: Any) -> Reward:
    """Find the reward of a recipe.

    Args:
        reward: A `Reward`; a `Scorer`; a function `reward(images=, prompts=, metadata=)`; the import path (`module:attribute`) of
            one of these, or of a function without arguments that makes one; the name of a backend; or None for that of the
            `GenEvalCallback` in the Trainer, so that each rank loads one judge instead of two.
        credit: The credit of a backend's reward. `RewardQueue` applies weights of several credits.
        trainer: The Trainer of the run.

    Raises:
        UsageError: If it is none of these, or it is None and there is no callback.
    """
    name = credit if isinstance(credit, str) else "official"
    if reward is None:
        found = [callback for callback in trainer.callbacks if isinstance(callback, GenEvalCallback)]
        if not found:
            raise UsageError(
                f"reward: expected {', '.join(BACKENDS)}, module:function or a reward, got none and no GenEvalCallback in "
                "the Trainer whose scorer could give it"
            )
        return found[0].reward(name)
    if isinstance(reward, str) and is_import_path(reward):
        reward = import_object(reward, "reward")
        if callable(reward) and not hasattr(reward, "submit") and takes_nothing(reward):
            reward = reward()
    if isinstance(reward, str):
        if reward not in BACKENDS:
            raise UsageError(f"reward: expected {', '.join(BACKENDS)}, module:function or a callable, got {reward!r}")
        return GenEvalReward(reward, name, device=trainer.strategy.root_device)
    if hasattr(reward, "submit"):
        check_part("reward", reward, "submit(images, specs)", "close()")
        ready: Reward = reward
        return ready
    if hasattr(reward, "score"):
        return GenEvalReward(reward, name)
    if not callable(reward):
        raise UsageError(
            f"reward: expected {', '.join(BACKENDS)}, module:function or a callable, got {type(reward).__name__}"
        )
    if isinstance(credit, dict):
        raise UsageError("credit: expected the name of one credit for a function, which has no others, got weights")
    return FunctionReward(reward)


class FunctionReward:
    """A plain function as a reward, called in its own thread.

    Args:
        function: `function(images=, prompts=, metadata=)`, which returns one number per image, or None where it has none.

    Raises:
        UsageError: If the function does not take these arguments.
    """

    def __init__(self, function: Callable[..., Sequence[float | None]]) -> None:
        check_part("reward", function, "(images=, prompts=, metadata=)")
        self._function, self._worker = function, Worker("reward")

    def submit(self, images: Any, specs: Sequence[PromptSpec], /) -> Future[RewardBatch]:
        """Call the function in the background; return a future of its rewards, which have no verdicts."""
        return self._worker.submit(self._score, images, specs)

    def close(self) -> None:
        """End the thread once it has finished its current work."""
        self._worker.close()

    def _score(self, images: Any, specs: Sequence[PromptSpec]) -> RewardBatch:
        records = [spec.to_record() for spec in specs]
        values = self._function(images=images, prompts=[spec.prompt for spec in specs], metadata=records)
        got = len(values) if hasattr(values, "__len__") else type(values).__name__
        if got != len(specs):
            raise RuntimeError(f"expected {len(specs)} rewards, one per image, got {got}")
        empty: list[Any] = [None] * len(specs)
        return RewardBatch([None if value is None else float(value) for value in values], empty, empty)


class RewardQueue:
    """The scores of one rollout on this rank.

    Args:
        reward: Scores the images.
        credit: Weights of credits to use in place of the reward's own credit; a name is ignored, since the reward has it.

    Attributes:
        wait_seconds: Seconds that the caller spent waiting.
        busy_seconds: Seconds that scoring took, whether or not sampling hid them.
    """

    def __init__(self, reward: Reward, credit: Credit = "official") -> None:
        self.wait_seconds = self.busy_seconds = 0.0
        self._reward = reward
        self._weights = credit if isinstance(credit, dict) else None
        self._pending: list[tuple[list[int], Future[RewardBatch], float, list[float]]] = []

    def put(self, rows: Sequence[int], images: Tensor, specs: Sequence[PromptSpec]) -> None:
        """Submit images, one per row number and spec; an empty batch does nothing."""
        if not rows:
            return
        begun, ended = time.monotonic(), list[float]()
        future = self._reward.submit(list(images), list(specs))
        future.add_done_callback(lambda _: ended.append(time.monotonic()))
        self._pending.append((list(rows), future, begun, ended))

    def rewards(self, count: int) -> tuple[list[float], dict[str, list[float]]]:
        """Wait for all scores.

        Args:
            count: Number of rows.

        Returns:
            One reward per row, NaN where there is none; and the credits of each row by name.

        Raises:
            RuntimeError: If scoring failed; carries the message of the failure.
        """
        begun = time.monotonic()
        rewards = [math.nan] * count
        credits: dict[str, list[float]] = {}
        last_end = -math.inf
        for rows, future, submitted, ended in self._pending:
            try:
                batch = future.result()
            except Exception as error:
                raise RuntimeError(f"reward: scoring failed with {type(error).__name__}: {error}") from error
            columns = batch.credits()
            for row, value in zip(rows, self._values(batch, columns), strict=True):
                rewards[row] = _number(value)
            for name, column in columns.items():
                filled = credits.setdefault(name, [math.nan] * count)
                for row, value in zip(rows, column, strict=True):
                    filled[row] = _number(value)
            # A reward scores in order, so it was busy from submission or the end of the previous batch, whichever is later.
            # The future wakes us before its callbacks run, so the end may not have been noted yet.
            end = ended[0] if ended else time.monotonic()
            self.busy_seconds += max(end - max(submitted, last_end), 0.0)
            last_end = end
        self._pending.clear()
        self.wait_seconds += time.monotonic() - begun
        return rewards, credits

    def _values(self, batch: RewardBatch, columns: Mapping[str, list[float | None]]) -> Sequence[float | None]:
        if self._weights is None:
            return batch.rewards
        if lacking := sorted(set(self._weights) - set(columns)):
            raise RuntimeError(f"credit: expected credits that the reward gives, got {', '.join(lacking)}")
        total = sum(self._weights.values())
        rows = zip(*(columns[name] for name in self._weights), strict=True)
        return [
            None if None in row else sum(w * v for w, v in zip(self._weights.values(), row, strict=True)) / total
            for row in rows
        ]


@dataclass(frozen=True)
class Scores:
    """The rewards of an epoch from all ranks: columns of equal length, in rank order and then in sampling order.

    Attributes:
        rewards: NaN where there is none.
        groups: Group numbers, over which advantages are computed.
        tags: Tasks.
        credits: Every credit, or every part of a `CompositeReward`, by name; NaN where there is none.
    """

    rewards: list[float]
    groups: list[int]
    tags: list[str]
    credits: dict[str, list[float]]

    def gdpo_advantages(self, credit: Credit, reward: Any, *, clip: float) -> GroupAdvantages:
        """Normalise each of several rewards within its groups, then add them (GDPO, arXiv 2601.05242).

        Args:
            credit: Weights of credits; with a name, the parts of a `CompositeReward` and its weights are used.
            reward: The reward.
            clip: Bound on the absolute advantage.

        Raises:
            UsageError: If there is only one reward.
        """
        if isinstance(credit, dict):
            if lacking := sorted(set(credit) - set(self.credits)):
                raise UsageError(f"credit: expected credits that the reward gives, got {', '.join(lacking)}")
            columns = {name: self.credits[name] for name in credit}
            return gdpo_advantages(columns, self.groups, weights=credit, clip=clip)[0]
        if not isinstance(reward, CompositeReward):
            raise UsageError(
                "advantage_std: expected weights of several credits or a CompositeReward for gdpo, got one reward; use "
                "global"
            )
        return reward.advantages(self.credits, self.groups, clip=clip)[0]

    def metrics(self) -> dict[str, float]:
        """Compute mean rewards by task, by credit and of each group's best, by the names they are logged under.

        `mean_reward_25` averages, over groups, the mean of the rewards at or above the group's 75th percentile, ties
        included, as the released trainers log it.
        """
        numbers: dict[str, float] = {}
        for tag in sorted(set(self.tags)):
            mine = [reward for reward, other in zip(self.rewards, self.tags, strict=True) if other == tag]
            numbers |= _mean_of_known(f"reward/{tag}", mine)
        for name, column in sorted(self.credits.items()):
            numbers |= _mean_of_known(f"reward/{name}", column)
        by_group: dict[int, list[float]] = {}
        for group, value in zip(self.groups, self.rewards, strict=True):
            if not math.isnan(value):
                by_group.setdefault(group, []).append(value)
        groups = [torch.tensor(values, dtype=torch.float64) for values in by_group.values()]
        for share in (100, 75, 50, 25, 10):
            tops = [float(g[g >= torch.quantile(g, 1 - share / 100)].mean()) for g in groups]
            numbers[f"mean_reward_{share}"] = sum(tops) / len(tops)
        return numbers


def gather_scores(queue: RewardQueue, specs: Sequence[PromptSpec], slots: Sequence[Slot]) -> Scores:
    """Wait for this rank's rewards and gather those of all ranks.

    Args:
        queue: Holds the rewards of this rank.
        specs: What its images were asked to show, in row order.
        slots: Their groups.

    Raises:
        RuntimeError: On all ranks, if scoring failed on any of them or no image of the epoch has a reward.
    """
    with errors_together("reward"):
        rewards, credits = queue.rewards(len(slots))
    shares: list[dict[str, Any]] = gather(
        {
            "rewards": rewards,
            "groups": [slot.group for slot in slots],
            "tags": [spec.tag for spec in specs],
            "credits": credits,
        }
    )
    names = {name for share in shares for name in share["credits"]}
    scores = Scores(
        rewards=[value for share in shares for value in share["rewards"]],
        groups=[group for share in shares for group in share["groups"]],
        tags=[tag for share in shares for tag in share["tags"]],
        # A rank on which nothing could be scored has no columns.
        credits={
            name: [v for share in shares for v in share["credits"].get(name, [math.nan] * len(share["groups"]))]
            for name in names
        },
    )
    if all(map(math.isnan, scores.rewards)):
        raise RuntimeError(
            f"reward: expected at least one image of the epoch to have one, got {len(scores.rewards)} without; the policy has "
            "diverged or the reward does not know the prompts"
        )
    return scores


def log_epoch(
    module: LightningModule,
    metrics: Mapping[str, float],
    scores: Scores,
    groups: GroupAdvantages,
    queue: RewardQueue,
    seconds: Mapping[str, float],
) -> None:
    """Log the numbers of an epoch's updates, rewards and groups, and how long its parts took.

    All numbers except the times are the same on all ranks, so nothing needs reducing.

    Args:
        module: The recipe.
        metrics: Numbers of the updates and the run.
        scores: The rewards of the epoch.
        groups: Its advantages.
        queue: Knows how long scoring took, and how much of that was spent waiting.
        seconds: Wall time of other parts, by name.
    """
    times = {"reward_wait": queue.wait_seconds, "reward_busy": queue.busy_seconds} | dict(seconds)
    found = dict(metrics) | scores.metrics() | groups.log_dict() | {f"time/{name}": s for name, s in times.items()}
    found["groups_with_spread"] = float(groups.num_groups - groups.num_empty - groups.num_zero_std)
    module.log_dict(found, on_step=True, on_epoch=False, batch_size=1)
    module.log("reward/mean", groups.reward_mean, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)


def _mean_of_known(name: str, values: Sequence[float]) -> dict[str, float]:
    known = [value for value in values if not math.isnan(value)]
    return {name: sum(known) / len(known)} if known else {}


def _number(value: float | None) -> float:
    """Convert a reward to a number; None and infinities become NaN."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan
