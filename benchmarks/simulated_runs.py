"""Simulated runs with a known truth: correlated beta-binomial verdicts, with which tests and benchmarks check statistics.

Every prompt has its own chance of success, drawn from a beta distribution whose mean is the tag's accuracy and whose spread
gives two images of one prompt the correlation `icc`. Runs share prompts (a hard prompt is hard for every model) and, image
by image, noise (the same seed).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, ndtr

from geneval_reward.errors import UsageError
from geneval_reward.generate.subset import TYPICAL_ACCURACY

SUITE_PROMPTS: Final[dict[str, int]] = {
    "single_object": 80,
    "two_object": 99,
    "counting": 80,
    "colors": 94,
    "position": 100,
    "color_attr": 100,
}
"""The number of prompts of each task in the official suite."""


@dataclass(frozen=True, eq=False)
class SimulatedRuns:
    """Verdicts of runs on the same prompts and seeds.

    Attributes:
        correct: `(runs, n)` bool.
        prompt: `(n,)` int64, number of the prompt.
        index: `(n,)` int64, number of the image within its prompt.
        tag: `(n,)` tag names.
        truth: `(runs,)` true overall (macro) accuracy.
    """

    correct: npt.NDArray[np.bool_]
    prompt: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    tag: npt.NDArray[np.str_]
    truth: npt.NDArray[np.float64]


def simulate_runs(
    accuracies: Sequence[Mapping[str, float]] = (TYPICAL_ACCURACY,),
    *,
    icc: float = 0.4,
    prompts: Mapping[str, int] = SUITE_PROMPTS,
    images_per_prompt: int = 4,
    prompt_correlation: float = 0.8,
    noise_correlation: float = 0.3,
    seed: int = 0,
) -> SimulatedRuns:
    """Draw runs.

    Args:
        accuracies: Per run the true accuracy of each tag, in [0, 1]; the same tags in all runs.
        icc: Correlation of two images of one prompt, in (0, 1).
        prompts: Number of prompts of each tag.
        images_per_prompt: Images of each prompt.
        prompt_correlation: Of the prompts' latent difficulties between a run and the first, in [0, 1].
        noise_correlation: Of the images' latent noise between a run and the first, in [0, 1].
        seed: Of the draws.

    Raises:
        ValueError: If an argument is out of range or tags do not fit.

    Example:
        >>> runs = simulate_runs(seed=1)
        >>> runs.correct.shape
        (1, 2212)
    """
    if not 0 < icc < 1:
        raise UsageError(f"icc: expected a number between 0 and 1, got {icc!r}")
    for name, value in (("prompt_correlation", prompt_correlation), ("noise_correlation", noise_correlation)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name}: expected a number in [0, 1], got {value!r}")
    tags = tuple(accuracies[0])
    for number, accuracy in enumerate(accuracies):
        if set(accuracy) != set(tags) or not set(tags) <= set(prompts):
            raise UsageError(f"accuracies[{number}]: expected the tags {tags}, each with a number of prompts")
        if not all(0 <= value <= 1 for value in accuracy.values()):
            raise UsageError(f"accuracies[{number}]: expected shares in [0, 1], got {dict(accuracy)}")
    rng = np.random.default_rng(seed)
    sizes = [prompts[tag] for tag in tags]
    count = sum(sizes)
    difficulty = rng.standard_normal(count)
    noise = rng.standard_normal((count, images_per_prompt))
    verdicts = []
    for number, accuracy in enumerate(accuracies):
        share = np.repeat([accuracy[tag] for tag in tags], sizes)
        own = difficulty if number == 0 else _mix(difficulty, prompt_correlation, rng)
        moved = noise if number == 0 else _mix(noise, noise_correlation, rng)
        verdicts.append((ndtr(moved) < _beta_quantile(share, icc, ndtr(own))[:, None]).ravel())
    return SimulatedRuns(
        correct=np.stack(verdicts),
        prompt=np.repeat(np.arange(count), images_per_prompt),
        index=np.tile(np.arange(images_per_prompt), count),
        tag=np.repeat(np.array(tags), np.array(sizes) * images_per_prompt),
        truth=np.array([float(np.mean([accuracy[tag] for tag in tags])) for accuracy in accuracies]),
    )


def _mix(shared: npt.NDArray[np.float64], correlation: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    own = rng.standard_normal(shared.shape)
    return correlation * shared + math.sqrt(1 - correlation**2) * own


def _beta_quantile(
    mean: npt.NDArray[np.float64], icc: float, share: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Quantiles of the beta distribution with this mean and 1 / (a + b + 1) = icc; a mean of 0 or 1 is a point."""
    weight = 1 / icc - 1
    inner = np.clip(mean, 1e-9, 1 - 1e-9)
    quantile = np.asarray(betaincinv(inner * weight, (1 - inner) * weight, share), dtype=np.float64)
    point = (mean <= 0) | (mean >= 1)
    quantile[point] = mean[point]
    return quantile
