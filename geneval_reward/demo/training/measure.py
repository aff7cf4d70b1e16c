"""Scores on the held-out prompts, always with the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.generate.seeds import seed_for
from geneval_reward.judge import Verdict
from geneval_reward.prompts import PromptSpec
from geneval_reward.scorer import GenEvalScorer
from geneval_reward.stats import ScoreIntervals, clustered_bootstrap

SEED = 0
"""Seed of the noise of the held-out images."""

_BATCH = 64


@dataclass(frozen=True)
class Measured:
    """Held-out images with their verdicts, ordered by prompt and then by image index.

    Attributes:
        specs: What was asked for, one spec per image.
        seeds: Seeds of the noise, one per image.
        images: uint8 (h, w, 3).
        verdicts: The judge's verdicts.
    """

    specs: list[PromptSpec]
    seeds: list[int]
    images: list[npt.NDArray[np.uint8]]
    verdicts: list[Verdict]

    @property
    def correct(self) -> list[bool]:
        """Whether each image is correct."""
        return [verdict.correct for verdict in self.verdicts]

    def scores(self) -> ScoreIntervals:
        """Compute scores with intervals clustered by prompt."""
        return clustered_bootstrap(
            self.correct, [spec.prompt for spec in self.specs], [spec.tag for spec in self.specs]
        )


def measure(module: Any, judge: GenEvalScorer, specs: Sequence[PromptSpec], per_prompt: int) -> Measured:
    """Sample with the module's `generate` and judge the images.

    Args:
        module: The recipe's module.
        judge: The first judge.
        specs: What the prompts ask for.
        per_prompt: Images per prompt.

    Returns:
        `len(specs) * per_prompt` images with verdicts.
    """
    jobs = [(spec, seed_for(SEED, spec.prompt, index)) for spec in specs for index in range(per_prompt)]
    verdicts: list[Verdict] = []
    images: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(jobs), _BATCH):
        part = jobs[start : start + _BATCH]
        made = module.generate([spec.prompt for spec, _ in part], [seed for _, seed in part])
        verdicts += judge.score(made, [spec for spec, _ in part])
        images += [image.permute(1, 2, 0).cpu().numpy() for image in made]
    return Measured([spec for spec, _ in jobs], [seed for _, seed in jobs], images, verdicts)
