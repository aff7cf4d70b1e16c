"""When a round is due."""

from __future__ import annotations

import math
from typing import Any

from geneval_reward.errors import UsageError


class Schedule:
    """Exactly one of three rhythms, and what was done last, so that a resumed run goes on where it stopped.

    Args:
        every_n_train_steps: A round each time so many optimizer steps are done.
        every_n_epochs: A round at the end of every so-many-th epoch.
        on_validation: A round at the end of every validation.

    Raises:
        ValueError: If not exactly one is given, or a number is below 1.

    Examples:
        >>> schedule = Schedule(every_n_train_steps=10)
        >>> [step for step in (9, 10, 10, 19, 21) if schedule.due_after_step(step)]
        [10, 21]
    """

    def __init__(
        self, every_n_train_steps: int | None = None, every_n_epochs: int | None = None, on_validation: bool = False
    ) -> None:
        given = {"every_n_train_steps": every_n_train_steps, "every_n_epochs": every_n_epochs}
        chosen = [name for name, value in given.items() if value is not None] + ["on_validation"] * bool(on_validation)
        if len(chosen) != 1:
            raise UsageError(
                "schedule: expected exactly one of every_n_train_steps, every_n_epochs, on_validation, "
                f"got {' and '.join(chosen) or 'none'}"
            )
        for name, value in given.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{name}: expected an integer >= 1, got {value!r}")
        self.every_n_train_steps = every_n_train_steps
        self.every_n_epochs = every_n_epochs
        self.on_validation = on_validation
        self.restart()

    def restart(self) -> None:
        """Forget what was done, for a new run."""
        self.last_step = 0
        self.last_epoch = -1
        self.last_validation_step = -1

    def due_after_step(self, step: int) -> bool:
        """Whether a round is due now that `step` optimizer steps are done; asked again for the same step: no.

        A multiple that was jumped over (several optimizers count several steps at once) counts as reached.
        """
        if self.every_n_train_steps is None:
            return False
        due = step // self.every_n_train_steps > self.last_step // self.every_n_train_steps
        self.last_step = max(step, self.last_step)
        return due

    def due_after_epoch(self, epoch: int) -> bool:
        """Whether a round is due at the end of the epoch with this index, counted from 0."""
        if self.every_n_epochs is None or epoch <= self.last_epoch:
            return False
        self.last_epoch = epoch
        return (epoch + 1) % self.every_n_epochs == 0

    def due_after_validation(self, step: int, *, fitting: bool = True) -> bool:
        """Whether a round is due after a validation at this step; while fitting, not twice at one step."""
        if not self.on_validation or not fitting:
            return self.on_validation
        due = step != self.last_validation_step
        self.last_validation_step = step
        return due

    def why_never(self, steps: float, epochs: float, validations: bool) -> str | None:
        """Say why no round will come in a run, or None if one will.

        Args:
            steps: Optimizer steps at which the run ends at the latest, those before a resume included; may be infinite.
            epochs: Epochs at which it ends at the latest; may be infinite.
            validations: Whether the run validates.
        """
        every = self.every_n_train_steps
        if every is not None and math.isfinite(steps) and steps // every <= self.last_step // every:
            return f"every_n_train_steps={every}, but the run ends at step {steps:.0f}"
        every = self.every_n_epochs
        if every is not None and math.isfinite(epochs) and epochs // every <= (self.last_epoch + 1) // every:
            return f"every_n_epochs={every}, but the run ends after epoch {epochs:.0f}"
        if self.on_validation and not validations:
            return "on_validation=True, but the run does not validate"
        return None

    def state_dict(self) -> dict[str, Any]:
        """What was done last."""
        names = ("last_step", "last_epoch", "last_validation_step")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for name, value in state.items():
            setattr(self, name, int(value))
