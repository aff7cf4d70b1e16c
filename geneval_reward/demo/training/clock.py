"""A Lightning callback that tells where a run stands and ends it in time for the last measurement."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch import Callback


@dataclass(frozen=True)
class Progress:
    """Where a demo stands; given to its `progress` function.

    Attributes:
        stage: `before`, `train` or `after`.
        fraction: Share of the whole time that has passed, in [0, 1].
        seconds: Since the beginning.
        epoch: Epochs trained.
        images: Images sampled for training.
        reward: Share of right images in the last epoch's rollout; NaN before the first.
        held_out: Score on held-out prompts if there was a look after this epoch, else NaN.
        audit_gap: The first judge's score minus the second's if there was an audit after this epoch, else NaN.
        metrics: All that was logged in the last epoch.
    """

    stage: Literal["before", "train", "after"]
    fraction: float
    seconds: float
    epoch: int = 0
    images: int = 0
    reward: float = math.nan
    held_out: float = math.nan
    audit_gap: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)


class Clock(Callback):
    """Reports every epoch.

    Args:
        begun: `time.monotonic` at the beginning of the demo.
        budget: Seconds that the whole may take.
        reserve: Seconds kept for what comes after training.
        check_every: Epochs between the looks of `GenEvalCallback`; 0 for none.
        audit_every: Epochs between audits; 0 for none.
        tell: What is told.
    """

    scores_with_geneval = True  # comes after the callbacks whose numbers it reads

    def __init__(
        self,
        begun: float,
        budget: float,
        reserve: float,
        check_every: int,
        audit_every: int,
        tell: Callable[[Progress], None],
    ) -> None:
        self.begun, self.budget, self.reserve = begun, budget, reserve
        self.check_every, self.audit_every, self.tell = check_every, audit_every, tell
        self.curve: list[Progress] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to time the first epoch."""
        self.epoch_start, self.longest = time.monotonic(), 0.0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Tell; stop if another epoch like the last ones would be too late."""
        epoch = trainer.current_epoch + 1
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}

        def fresh(name: str, every: int) -> float:
            return metrics.get(name, math.nan) if every and epoch % every == 0 else math.nan

        now = time.monotonic()
        point = Progress(
            "train",
            min((now - self.begun) / self.budget, 1.0),
            now - self.begun,
            epoch,
            pl_module.images_sampled,
            metrics.get("reward/official", metrics["reward_mean"]),
            fresh("geneval/overall", self.check_every),
            fresh("geneval/audit_gap", self.audit_every),
            metrics,
        )
        self.curve.append(point)
        self.tell(point)
        # The longest of the last ones, forgotten slowly: epochs with a look take longer than those without.
        self.longest = max(now - self.epoch_start, 0.9 * self.longest)
        self.epoch_start = time.monotonic()
        if now - self.begun + self.longest + self.reserve > self.budget:
            trainer.should_stop = True
