"""`FixedNoise`: the score of a pipeline on prompts and noise that never change, so that two models differ in nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from geneval_reward.errors import UsageError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts import PromptSpec
from geneval_reward.scorer import Scorer
from geneval_reward.stats import PairedComparison, compare_paired


class FixedNoise:
    """Scores pipelines on the same prompts and noise.

    Args:
        specs: One record per image; a prompt that comes twice gets two images.
        scorer: A scorer, or `truth` for the pocket model: whether the scene that it draws is what the prompt asks for.
        seed: Seed of the noise.
        batch_size: Images per call.
        **call: Passed with every call of the pipeline, such as `num_inference_steps`.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline, pocket_suite
        >>> score = FixedNoise(pocket_suite()[:4], "truth")
        >>> score(load_pipeline())
        [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        specs: Sequence[PromptSpec],
        scorer: Scorer | str = "truth",
        *,
        seed: int = 0,
        batch_size: int = 50,
        **call: Any,
    ) -> None:
        if isinstance(scorer, str) and scorer != "truth":
            raise UsageError(f"scorer: expected a Scorer or 'truth', got {scorer!r}")
        self.specs, self.scorer, self.batch_size, self.call = list(specs), scorer, batch_size, call
        self.name = scorer if isinstance(scorer, str) else scorer.name
        self.seed = seed
        seen: dict[str, int] = {}
        self.seeds = []
        for spec in self.specs:
            self.seeds.append(seed_for(seed, spec.prompt, seen.setdefault(spec.prompt, 0)))
            seen[spec.prompt] += 1

    @property
    def digest(self) -> str:
        """Names scorer, prompts, seed and settings, so that scores in a file are not taken for those of others."""
        known = [self.name, self.seed, sorted(self.call.items()), *(spec.to_json() for spec in self.specs)]
        return hashlib.sha256(repr(known).encode()).hexdigest()[:16]

    def __call__(self, pipeline: Any) -> list[float]:
        """Return 1 for each image that is correct and 0 for the others, in the order of the specs."""
        correct: list[float] = []
        for first in range(0, len(self.specs), self.batch_size):
            rows = slice(first, first + self.batch_size)
            images = self.images(pipeline, rows, "latent" if self.scorer == "truth" else "pil")
            correct += [float(right) for right in self._judge(images, self.specs[rows])]
        return correct

    def images(self, pipeline: Any, rows: slice, output_type: str = "pil") -> Any:
        """Generate the images of some rows."""
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds[rows]]
        prompts = [spec.prompt for spec in self.specs[rows]]
        return pipeline(prompts, generator=generators, output_type=output_type, **self.call).images

    def compare(self, dense: Sequence[float], changed: Sequence[float]) -> PairedComparison:
        """Compare the scores of a changed model with those of the dense one, image by image."""
        return compare_paired(
            dense, changed, [spec.prompt for spec in self.specs], [spec.tag for spec in self.specs], draws=2000
        )

    def mean(self, correct: Sequence[float]) -> float:
        """Mean of the task means, as the benchmark reports it."""
        tags = [spec.tag for spec in self.specs]
        return float(
            np.mean(
                [np.mean([value for value, one in zip(correct, tags, strict=True) if one == tag]) for tag in set(tags)]
            )
        )

    def _judge(self, images: Any, specs: list[PromptSpec]) -> list[bool]:
        if isinstance(self.scorer, str):
            from geneval_reward.pocket.codec import decode_scenes
            from geneval_reward.pocket.scene import fulfils

            return [fulfils(scene, spec) for scene, spec in zip(decode_scenes(images), specs, strict=True)]
        return [verdict.correct for verdict in self.scorer.score(images, specs)]
