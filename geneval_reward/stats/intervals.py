"""Estimates with intervals, Wilson's interval, and pass@k: everything that needs no resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from geneval_reward.errors import UsageError
from geneval_reward.stats.sums import Floats, check_level


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end.
        high: Upper end.
        level: Nominal coverage, for example 0.95.
        method: How the interval was made.
    """

    low: float
    high: float
    level: float
    method: str

    @property
    def half_width(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score with its uncertainty.

    Attributes:
        value: The score as the benchmark computes it.
        interval: The interval of the score.
        standard_error: Standard error, clustered by prompt; NaN if it cannot be known (a tag with a single prompt).
        images: Number of images it is based on.
        prompts: Number of prompts it is based on.
    """

    value: float
    interval: Interval
    standard_error: float
    images: int
    prompts: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the value and interval, rounded to six digits, with the numbers of images and prompts.

        Unknown ends of an interval become None.

        Examples:
            >>> Estimate(0.5, Interval(math.nan, math.nan, 0.95, "none"), 0.1, 4, 1).to_dict()
            {'value': 0.5, 'low': None, 'high': None, 'images': 4, 'prompts': 1}
        """
        numbers = {"value": self.value, "low": self.interval.low, "high": self.interval.high}
        rounded = {name: round(end, 6) if math.isfinite(end) else None for name, end in numbers.items()}
        return {**rounded, "images": self.images, "prompts": self.prompts}


def wilson(successes: float, n: float, level: float = 0.95, *, df: float = math.inf) -> Interval:
    """Compute Wilson's score interval for a proportion.

    Args:
        successes: Number of successes, 0..n.
        n: Number of independent trials, > 0; an effective number need not be whole.
        level: Nominal coverage.
        df: Degrees of freedom of the t quantile, which replaces the normal one if `n` itself is estimated.

    Returns:
        The interval, within [0, 1].

    Raises:
        UsageError: If an argument is out of range.

    Source:
        E. B. Wilson 1927, J. Am. Stat. Assoc. 22:209.

    Examples:
        >>> interval = wilson(8, 10)
        >>> round(interval.low, 4), round(interval.high, 4)
        (0.4902, 0.9433)
    """
    check_level("level", level)
    if not n > 0 or not math.isfinite(n):
        raise UsageError(f"n: expected a number > 0, got {n!r}")
    if not 0 <= successes <= n:
        raise UsageError(f"successes: expected a number in 0..{n}, got {successes!r}")
    share = successes / n
    z = _quantile(level, df)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - reach)
    high = 1.0 if successes == n else min(1.0, centre + reach)
    return Interval(low, high, level, "wilson")


def pass_at_k(correct: npt.ArrayLike, images: npt.ArrayLike, k: int) -> Floats:
    """Estimate for each prompt, without bias, the chance that at least one of `k` images is correct.

    For `c` correct of `n` images this is `1 - C(n - c, k) / C(n, k)`, the average over all ways to choose k of the n images.
    The benchmark's own "% correct prompts" is the case k = n.

    Args:
        correct: `(p,)` number of correct images per prompt.
        images: `(p,)` number of images per prompt, each >= k.
        k: Number of images that are drawn, >= 1.

    Returns:
        `(p,)` float64 in [0, 1].

    Raises:
        UsageError: If k is < 1 or larger than a prompt's number of images.

    Source:
        M. Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1.

    Examples:
        >>> pass_at_k([0, 1, 4], [4, 4, 4], k=2).tolist()
        [0.0, 0.5, 1.0]
    """
    c, n = np.broadcast_arrays(np.asarray(correct, np.float64), np.asarray(images, np.float64))
    if k < 1 or (n < k).any():
        raise UsageError(f"k: expected 1..{int(n.min())}, the smallest number of images of a prompt, got {k!r}")
    if ((c < 0) | (c > n)).any():
        raise UsageError("correct: expected 0..images for every prompt")
    missed = np.ones(c.shape)
    for taken in range(k):
        missed *= np.maximum(n - c - taken, 0) / (n - taken)
    return 1 - missed


def percentile_interval(drawn: Floats, level: float, df: float, method: str) -> Interval:
    """Compute the percentile interval of bootstrap draws, expanded for the degrees of freedom.

    The bootstrap takes the observed spread for the true one, which makes its intervals too narrow for small samples. So the
    percentiles are those whose normal quantile is the t quantile.

    Source:
        T. Hesterberg 2015, The American Statistician 69:371, "expanded percentile interval".
    """
    tail = float(ndtr(-_quantile(level, df)))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(low), float(high), level, method)


def _quantile(level: float, df: float) -> float:
    upper = 0.5 + level / 2
    return float(ndtri(upper)) if math.isinf(df) else float(stdtrit(df, upper))
