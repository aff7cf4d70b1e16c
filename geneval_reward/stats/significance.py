"""P-values of paired differences: McNemar's test, random signs by prompt, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr

from geneval_reward.errors import UsageError
from geneval_reward.stats.sums import Floats

TINY = 1e-13
"""Differences below this are due to rounding."""


def mcnemar(only_a: int, only_b: int, *, mid_p: bool = True) -> float:
    """Compute the two-sided exact McNemar test of whether discordant pairs are equally likely to go either way.

    Args:
        only_a: Pairs that only the first run got right, >= 0.
        only_b: Pairs that only the second run got right, >= 0.
        mid_p: Whether to count only half of the probability of the observed outcome, which brings the test near its nominal
            level; the exact test is too conservative.

    Source:
        Q. McNemar 1947; mid-p: M. W. Fagerland et al. 2013, BMC Med. Res. Methodol. 13:91.

    Examples:
        >>> round(mcnemar(1, 6), 4), round(mcnemar(1, 6, mid_p=False), 4)
        (0.0703, 0.125)
    """
    if only_a < 0 or only_b < 0:
        raise UsageError(f"only_a, only_b: expected counts >= 0, got {only_a!r}, {only_b!r}")
    pairs, fewer = only_a + only_b, min(only_a, only_b)
    if pairs == 0:
        return 1.0
    up_to = float(bdtr(fewer, pairs, 0.5))
    if not mid_p:
        return min(2 * up_to, 1.0)
    below = float(bdtr(fewer - 1, pairs, 0.5)) if fewer else 0.0
    return min(up_to + below, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's correction to several p-values, so that the chance of any false alarm stays at the level.

    Source:
        S. Holm 1979, Scand. J. Statist. 6:65.

    Examples:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [1.0] * len(order), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def sign_flip(parts: Floats, rng: np.random.Generator, draws: int) -> float:
    """Compute the two-sided p-value of a sum under random signs of its parts.

    Args:
        parts: `(p,)` contribution of each prompt to the difference.
        rng: Source of the signs.
        draws: Number of sign patterns; no p-value is below `1 / (draws + 1)`.

    Source:
        R. A. Fisher 1935, The Design of Experiments, section 21; the observed pattern is counted among the draws.
    """
    observed = abs(float(parts.sum()))
    magnitude = np.abs(parts[np.abs(parts) > TINY])
    if magnitude.size == 0:
        return 1.0
    # Parts of equal size are exchangeable: their signed sum is a binomial count. Equal sizes may differ in the last bits.
    sizes, counts = np.unique(np.round(magnitude, 14), return_counts=True)
    flipped = (2.0 * rng.binomial(counts, 0.5, size=(draws, len(sizes))) - counts) @ sizes
    return float((1 + np.count_nonzero(np.abs(flipped) >= observed - TINY * len(parts))) / (1 + draws))
