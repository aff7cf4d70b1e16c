"""A Lightning callback that reports progress and ends training in time for the last measurement."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch import Callback


@dataclass(frozen=True)
class Progress:
    """Progress of a demo, as passed to its `progress` function.

    Attributes:
        stage: `before`, `train` or `after`.
        fraction: Share of the total time that has passed, in [0, 1].
        seconds: Seconds since the start.
        epoch: Epochs trained.
        images: Images sampled for training.
        reward: Share of correct images in the last epoch's rollout; NaN before the first.
        held_out: Score on held-out prompts if they were checked after this epoch, else NaN.
        audit_gap: The first judge's score minus the second's if there was an audit after this epoch, else NaN.
        metrics: Everything logged in the last epoch.
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
    """Reports progress after every epoch and stops training in time.

    Args:
        begun: `time.monotonic` at the start of the demo.
        budget: Seconds that the whole demo may take.
        reserve: Seconds kept for what comes after training.
        check_every: Epochs between checks by `GenEvalCallback`; 0 for none.
        audit_every: Epochs between audits; 0 for none.
        tell: Called with each `Progress`.
    """

    scores_with_geneval = True  # run after the callbacks whose numbers it reads

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
        """Start timing the first epoch."""
        self.epoch_start, self.longest = time.monotonic(), 0.0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report progress; stop if another epoch as long as the last ones would end too late."""
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
        # The longest recent epoch, with slow decay, because epochs with a check take longer than those without.
        self.longest = max(now - self.epoch_start, 0.9 * self.longest)
        self.epoch_start = time.monotonic()
        if now - self.begun + self.longest + self.reserve > self.budget:
            trainer.should_stop = True
