"""Stratified subsets of a prompt set, and how precise a score on one can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from geneval_reward.errors import UsageError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.subset import choose_evenly, parse_size
from geneval_reward.stats.power import VarianceComponents

TYPICAL_ACCURACY: Final[dict[str, float]] = {
    "single_object": 0.98,
    "two_object": 0.81,
    "counting": 0.74,
    "colors": 0.79,
    "position": 0.22,
    "color_attr": 0.45,
}
"""Accuracies that are assumed before there is data: FLUX.1-dev as published (Flow-GRPO, arXiv 2505.05470, Table 1)."""

ASSUMED_ICC = 0.4
"""Correlation of two images of one prompt that is assumed before there is data; .3 to .6 is usual (docs/measurement.md)."""


@dataclass(frozen=True)
class Subset:
    """Part of a prompt set with the same number of prompts per task.

    Attributes:
        specs: The prompts, in the order of the whole set.
        numbers: Their numbers in the whole set.
        whole: Number of prompts in the whole set.
        seed: Seed of the selection.
    """

    specs: tuple[PromptSpec, ...]
    numbers: tuple[int, ...]
    whole: int
    seed: int

    @property
    def prompts_per_tag(self) -> dict[str, int]:
        """Number of prompts by task."""
        counts: dict[str, int] = {}
        for spec in self.specs:
            counts[spec.tag] = counts.get(spec.tag, 0) + 1
        return counts

    def standard_error(self, images_per_prompt: int, parts: VarianceComponents | None = None) -> float:
        """Estimate the standard error of the overall score on this subset, as `subset_standard_error` does."""
        return subset_standard_error(self.prompts_per_tag, images_per_prompt, parts)


def stratified_subset(specs: Sequence[PromptSpec], size: int | str, *, seed: int = 0) -> Subset:
    """Choose the same number of prompts from every task, or all prompts of a task that has fewer.

    The overall score is a mean of task means, so equal numbers minimise its standard error if tasks vary equally. The
    choice depends only on the seed and the records. A smaller subset is part of a larger one with the same seed.

    Args:
        specs: The whole set.
        size: Number of prompts, or `"10/task"` for ten of each task.
        seed: Seed of the choice.

    Returns:
        The subset.

    Raises:
        ValueError: If `size` is not one of these, less than one prompt per task, or more than there are.

    Examples:
        >>> from geneval_reward.prompts import official_suite
        >>> subset = stratified_subset(official_suite(), 60)
        >>> subset.prompts_per_tag["counting"], len(subset.specs)
        (10, 60)
    """
    wanted = None if isinstance(size, bool) else parse_size(str(size))
    if wanted is None:
        raise UsageError(f"subset: expected a number of prompts such as 60, or 10/task, got {size!r}")
    chosen = choose_evenly(specs, wanted, seed=seed, name="subset")
    return Subset(tuple(specs[number] for number in chosen), tuple(chosen), len(specs), seed)


def subset_standard_error(
    prompts_per_tag: Mapping[str, int], images_per_prompt: int, parts: VarianceComponents | None = None
) -> float:
    """Estimate the standard error of the overall score, the mean of the task means, on some prompts per task.

    Args:
        prompts_per_tag: Number of prompts by task, each >= 1.
        images_per_prompt: Images per prompt, >= 1.
        parts: Variance components of a similar run, from `geneval_reward.stats.variance_components`. If None, they are
            assumed for each task from the accuracy of FLUX.1-dev and a correlation of `ASSUMED_ICC`.

    Returns:
        The standard error as a share (0.01 is one point), over draws of prompts and noise.

    Raises:
        ValueError: If a number is < 1 or there is no task.

    Examples:
        >>> round(subset_standard_error(dict.fromkeys(TYPICAL_ACCURACY, 25), 1), 3)
        0.033
    """
    if images_per_prompt < 1 or not prompts_per_tag or min(prompts_per_tag.values()) < 1:
        raise UsageError(
            f"prompts_per_tag, images_per_prompt: expected numbers >= 1, got {dict(prompts_per_tag)} and {images_per_prompt}"
        )
    variance = 0.0
    for tag, prompts in prompts_per_tag.items():
        own = parts or assumed_parts(tag)
        variance += own.standard_error(prompts, images_per_prompt) ** 2
    return math.sqrt(variance) / len(prompts_per_tag)


def assumed_parts(tag: str, icc: float = ASSUMED_ICC) -> VarianceComponents:
    """Assume the variance components of a run in one task before there is data."""
    accuracy = TYPICAL_ACCURACY.get(tag, 0.5)
    total = accuracy * (1 - accuracy)
    return VarianceComponents(icc * total, (1 - icc) * total)
