"""How much time a round may take, and what earlier rounds cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

from geneval_reward.errors import UsageError

_SAVED: Final = ("training_seconds", "spent_seconds", "wave_seconds", "fixed_seconds")


class Budget:
    """Limits the time that rounds take.

    A round is done in *waves*, each with the same number of prompts of every task. After each wave the budget decides whether
    there is another. All ranks decide alike, because they decide from the same numbers.

    Args:
        max_seconds: Longest time of a round in seconds; None for no limit. At least one wave is done.
        max_fraction: Share of the wall time since training began that rounds may take, in (0, 1); None for no limit. If the
            share is not enough for a round, the round is left out and its time is saved for the next one.
        clock: Returns seconds, counted from any origin.

    Attributes:
        spent_seconds: Time in rounds so far.
        wave_seconds: Time of the last wave; NaN before the first.
        fixed_seconds: Time that the last round took besides its waves, for moving weights and logging.

    Raises:
        UsageError: If a limit is out of range.
    """

    def __init__(
        self,
        max_seconds: float | None = None,
        max_fraction: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_seconds is not None and not 0 < max_seconds < math.inf:
            raise UsageError(f"max_seconds: expected a number > 0, got {max_seconds!r}")
        if max_fraction is not None and not 0 < max_fraction < 1:
            raise UsageError(f"max_fraction: expected a share in (0, 1), got {max_fraction!r}")
        self.max_seconds = max_seconds
        self.max_fraction = max_fraction
        self.spent_seconds = 0.0
        self.wave_seconds = math.nan
        self.fixed_seconds = 0.0
        self._clock = clock
        self._before = 0.0
        self._began: float | None = None
        self._spent_at_start = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.max_seconds is not None or self.max_fraction is not None

    @property
    def training_seconds(self) -> float:
        """Time in training outside of rounds so far, including the runs before a resume."""
        if self._began is None:
            return self._before
        return self._before + self._clock() - self._began - (self.spent_seconds - self._spent_at_start)

    def start(self) -> None:
        """Start the clock: training begins, or goes on after a break."""
        self._before = self.training_seconds
        self._began, self._spent_at_start = self._clock(), self.spent_seconds

    def stop(self) -> None:
        """Stop the clock: training ends, or is interrupted."""
        self._before, self._began = self.training_seconds, None

    def allowed(self) -> float:
        """Seconds that a round may take if it begins now."""
        allowed = math.inf if self.max_seconds is None else self.max_seconds
        if self.max_fraction is not None and self._began is not None:  # outside of training there is no share to keep
            # (spent + round) / (training + spent + round) <= fraction, solved for the round.
            share = self.max_fraction * self.training_seconds / (1 - self.max_fraction)
            allowed = min(allowed, share - self.spent_seconds)
        return allowed

    def permits_round(self, allowed: float) -> bool:
        """Whether a round may begin. Only `max_fraction` can forbid it, and never the first, which measures a wave."""
        if self.max_fraction is None or math.isnan(self.wave_seconds):
            return True
        return self.permits_wave(allowed, 0.0)

    def permits_wave(self, allowed: float, elapsed: float) -> bool:
        """Whether another wave fits into a round that has taken `elapsed` seconds."""
        return elapsed + self.wave_seconds + self.fixed_seconds <= allowed

    def state_dict(self) -> dict[str, Any]:
        """The times so far, for a checkpoint."""
        return {name: getattr(self, name) for name in _SAVED}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the times of a checkpoint."""
        self._before = float(state["training_seconds"])
        for name in _SAVED[1:]:
            setattr(self, name, float(state[name]))
