"""`Steps` for the pocket token model: one step per level, coarse to fine; the running sum can be drawn at any level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.generate import seed_for
from geneval_reward.pocket.codes import LEVELS, running_sum
from geneval_reward.pocket.painting import LevelState
from geneval_reward.pocket.tokens import PocketTokens


@dataclass(frozen=True)
class SeededLevels:
    """Candidates of one prompt between two levels.

    Attributes:
        model: Text, codes and level, as `PocketTokens` has them.
        seeds: One per candidate.
    """

    model: LevelState
    seeds: tuple[int, ...]


class LevelSteps:
    """Steps of `PocketTokens`.

    The model runs over its whole sequence at every level and has no cache, so only codes are gathered and all levels cost the
    same. `docs/search.md` says what a model with a key-value cache must gather.

    Args:
        model: The token model.
        guidance: Classifier-free guidance; 1 is none.

    Raises:
        UsageError: If guidance is < 1.
    """

    n_steps = LEVELS
    stochastic = True

    def __init__(self, model: PocketTokens, *, guidance: float = 1.0) -> None:
        if not guidance >= 1:
            raise UsageError(f"guidance: expected a number >= 1, got {guidance}")
        self.model, self.guidance = model, guidance

    def start(self, prompt: str, seeds: Sequence[int]) -> SeededLevels:
        """Start with no level painted."""
        state = self.model.start([prompt] * len(seeds), _generators(seeds, 0), guidance=self.guidance)
        return SeededLevels(state, tuple(seeds))

    def advance(self, state: SeededLevels, step: int) -> SeededLevels:
        """Paint one level of all candidates."""
        ready = state.model.take(range(len(state.seeds)), _generators(state.seeds, step))
        return replace(state, model=self.model.advance(ready))

    def preview(self, state: SeededLevels) -> Any:
        """Draw the running sum of the levels painted so far."""
        return self.model.preview(state.model)

    def features(self, state: SeededLevels) -> Tensor:
        """Return the running sum, flattened: (n, 100)."""
        return running_sum(state.model.codes, state.model.level).flatten(1)

    def take(self, state: SeededLevels, rows: Sequence[int], seeds: Sequence[int]) -> SeededLevels:
        """Gather candidates; the remaining levels draw from the seeds."""
        return SeededLevels(state.model.take(rows, _generators(seeds, 0)), tuple(seeds))

    def images(self, state: SeededLevels) -> Any:
        """Draw the finished candidates."""
        return self.model.images(state.model.codes)

    def cost(self, step: int, n: int) -> float:
        """All levels cost the same; guidance doubles plain images and candidates alike."""
        return n / self.n_steps


def _generators(seeds: Sequence[int], level: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed_for(seed, "noise of a step", level)) for seed in seeds]
