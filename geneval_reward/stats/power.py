"""How small a difference a measurement can show, and how many images a given difference takes.

There are two sources of variance: prompts differ (`between`), and images of one prompt differ (`within`). More images per prompt
reduce only the second. If the first alone hides a difference, more prompts are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from geneval_reward.errors import UsageError
from geneval_reward.stats.bootstrap import components
from geneval_reward.stats.sums import check_level, sum_by_prompt


@dataclass(frozen=True, slots=True)
class VarianceComponents:
    """Variance of a per-image score (or of a paired difference), averaged over tags.

    Attributes:
        between: Variance of the prompts' own means, >= 0.
        within: Variance of the images around their prompt's mean, >= 0.
    """

    between: float
    within: float

    def __post_init__(self) -> None:
        for name in ("between", "within"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name}: expected a finite variance >= 0, got {value!r}")

    def standard_error(self, prompts: int, images_per_prompt: int) -> float:
        """Compute the standard error of the overall score for prompts spread evenly over the tags.

        Examples:
            >>> round(VarianceComponents(0.06, 0.09).standard_error(553, 4), 4)
            0.0122
        """
        _check_count("prompts", prompts)
        _check_count("images_per_prompt", images_per_prompt)
        return math.sqrt((self.between + self.within / images_per_prompt) / prompts)


@dataclass(frozen=True, slots=True)
class Plan:
    """A number of images that suffices to show a difference.

    Attributes:
        prompts: Number of prompts, spread evenly over the tags.
        images_per_prompt: Number of images per prompt in each run.
        images: Number of images per run.
        detectable: The smallest difference that the plan shows with the requested power; at most the requested difference.
    """

    prompts: int
    images_per_prompt: int
    images: int
    detectable: float


def variance_components(
    scores: npt.ArrayLike, prompt_ids: Sequence[Any] | npt.NDArray[Any], tags: Sequence[str] | npt.NDArray[Any]
) -> VarianceComponents:
    """Estimate the components from a run (or, given differences of two runs per image, from a pair).

    Args:
        scores: `(n,)` verdicts, scores, or differences `b - a` image by image.
        prompt_ids: `(n,)` hashable ids; equal ids mean the same prompt.
        tags: `(n,)` tag names.

    Returns:
        The analysis-of-variance estimates; a negative estimate of `between` becomes 0.

    Raises:
        UsageError: If no prompt has two images, so that the components cannot be separated.
    """
    between, within = components(sum_by_prompt(scores, prompt_ids, tags))
    if math.isnan(within):
        raise UsageError("scores: expected a task with two prompts and two images of a prompt, got none")
    return VarianceComponents(max(between, 0.0), max(within, 0.0))


def assumed_components(
    accuracy: float, icc: float, *, prompt_correlation: float = 0.8, noise_correlation: float = 0.0
) -> VarianceComponents:
    """Compute the components of the paired difference between two runs from assumptions, before there are data.

    Args:
        accuracy: Share of correct images of both runs, in [0, 1].
        icc: Correlation of two images of one prompt in one run, in [0, 1]; typically .3 to .6 (docs/measurement.md).
        prompt_correlation: Correlation of the prompts' difficulties in the two runs; 0 for unpaired runs.
        noise_correlation: Correlation of the two images from one seed beyond that due to the prompt; 0 for unpaired runs.

    Examples:
        >>> parts = assumed_components(0.6, 0.4)
        >>> round(parts.between, 4), round(parts.within, 4)
        (0.0384, 0.288)
    """
    for name, value in (("accuracy", accuracy), ("icc", icc)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name}: expected a number in [0, 1], got {value!r}")
    for name, value in (("prompt_correlation", prompt_correlation), ("noise_correlation", noise_correlation)):
        if not -1 <= value <= 1:
            raise UsageError(f"{name}: expected a number in [-1, 1], got {value!r}")
    variance = 2 * accuracy * (1 - accuracy)
    return VarianceComponents(variance * icc * (1 - prompt_correlation), variance * (1 - icc) * (1 - noise_correlation))


def minimum_detectable_difference(
    standard_error: float, *, power: float = 0.8, level: float = 0.95, df: float = math.inf
) -> float:
    """Compute the smallest true difference that a two-sided test shows with the given probability.

    Args:
        standard_error: Standard error of the estimated difference, >= 0.
        power: Probability of showing the difference.
        level: 1 minus the level of the test.
        df: Degrees of freedom of the standard error.

    Source:
        H. S. Bloom 1995, Evaluation Review 19:547: the sum of the two quantiles times the standard error.

    Examples:
        >>> round(minimum_detectable_difference(0.01), 4)
        0.028
    """
    check_level("power", power)
    check_level("level", level)
    if not standard_error >= 0:
        raise UsageError(f"standard_error: expected a number >= 0, got {standard_error!r}")
    tail = 0.5 + level / 2
    if math.isinf(df):
        return float(ndtri(tail) + ndtri(power)) * standard_error
    return float(stdtrit(df, tail) + stdtrit(df, power)) * standard_error


def required_images(
    difference: float,
    parts: VarianceComponents,
    *,
    prompts: int | None = None,
    images_per_prompt: int | None = None,
    power: float = 0.8,
    level: float = 0.95,
) -> Plan:
    """Compute how many images it takes to show a difference of the overall score.

    Args:
        difference: The true difference to show, > 0, as a share (0.01 is one point).
        parts: Components of the *paired difference*, from `variance_components` or `assumed_components`.
        prompts: Number of prompts (553 for the official suite), to compute the number of images per prompt.
        images_per_prompt: Number of images per prompt, to compute the number of prompts. Give exactly one of the two.
        power: Probability of showing the difference.
        level: 1 minus the level of the test.

    Returns:
        The smallest plan.

    Raises:
        UsageError: If neither or both are given, or if no number of images per prompt suffices because the prompts alone vary
            too much; the message says how many prompts would be enough.

    Examples:
        >>> plan = required_images(0.02, assumed_components(0.6, 0.4), images_per_prompt=4)
        >>> plan.prompts, plan.images
        (2167, 8668)
    """
    if not 0 < difference < 1:
        raise UsageError(f"difference: expected a share between 0 and 1, got {difference!r}; one point is 0.01")
    if (prompts is None) == (images_per_prompt is None):
        raise UsageError("prompts, images_per_prompt: expected exactly one of the two to be fixed")
    unit = minimum_detectable_difference(1.0, power=power, level=level)
    allowed = (difference / unit) ** 2
    if images_per_prompt is not None:
        _check_count("images_per_prompt", images_per_prompt)
        prompts = max(1, math.ceil((parts.between + parts.within / images_per_prompt) / allowed - 1e-9))
    else:
        assert prompts is not None
        _check_count("prompts", prompts)
        left = allowed * prompts - parts.between
        if left <= 0:
            least = math.floor(parts.between / allowed) + 1
            raise UsageError(
                f"prompts: expected more than {least - 1} for a difference of {difference:g}, got {prompts}; the prompts "
                "themselves differ too much for any number of images of each: add prompts or accept a larger difference"
            )
        images_per_prompt = max(1, math.ceil(parts.within / left - 1e-9))
    detectable = unit * parts.standard_error(prompts, images_per_prompt)
    return Plan(prompts, images_per_prompt, prompts * images_per_prompt, detectable)


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"{name}: expected an integer >= 1, got {value!r}")
