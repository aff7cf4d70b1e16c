"""Cohen's kappa of two yes/no judges, with an interval clustered by prompt."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError

Floats = npt.NDArray[np.float64]


def cohen_kappa(
    a: Sequence[bool] | npt.NDArray[np.bool_],
    b: Sequence[bool] | npt.NDArray[np.bool_],
    prompts: Sequence[Hashable],
    tags: Sequence[Hashable],
    *,
    draws: int = 10_000,
) -> tuple[float, float, float]:
    """Compute Cohen's kappa, the agreement beyond what the two judges' rates of yes give by chance.

    If all draws agree, as with a few images and no disagreement, the interval is unknown (NaN), not a single point.

    Args:
        a: `(n,)` answers of one judge.
        b: `(n,)` answers of the other.
        prompts: `(n,)` keys; images of one prompt are drawn together.
        tags: `(n,)` tasks, within which prompts are drawn.
        draws: Bootstrap draws.

    Returns:
        Kappa and the ends of its 95 % percentile interval; NaN where undefined.

    Raises:
        UsageError: If the lengths differ.

    Source:
        J. Cohen 1960, Educ. Psychol. Meas. 20:37.

    Examples:
        >>> cohen_kappa([True, False] * 4, [True, False, True, True] * 2, range(8), ["counting"] * 8)[0]
        0.5
    """
    if not len(a) == len(b) == len(prompts) == len(tags):
        raise UsageError(f"a, b, prompts, tags: expected equal lengths, got {[*map(len, (a, b, prompts, tags))]}")
    if not len(a):
        return float("nan"), float("nan"), float("nan")
    # Per prompt: images, both say yes, the first says yes, the second says yes.
    table: dict[tuple[Hashable, Hashable], Floats] = {}
    for key, one, other in zip(zip(prompts, tags, strict=True), a, b, strict=True):
        row = np.array([1.0, one and other, one, other], np.float64)
        table[key] = table.get(key, np.zeros(4)) + row
    rng = np.random.default_rng(0)
    sums = np.zeros((draws, 4))
    for tag in sorted({tag for _, tag in table}, key=str):
        part = np.array([row for (_, other), row in table.items() if other == tag])
        sums += rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=draws) @ part
    images, both, yes, other_yes = np.vstack([sum(table.values()), sums]).T
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = (yes * other_yes + (images - yes) * (images - other_yes)) / images**2
        seen = (images - yes - other_yes + 2 * both) / images
        kappas = np.where(chance < 1, (seen - chance) / (1 - chance), np.nan)
    known = kappas[1:][np.isfinite(kappas[1:])]
    low, high = np.quantile(known, (0.025, 0.975)) if known.size and np.ptp(known) > 0 else (np.nan, np.nan)
    return float(kappas[0]), float(low), float(high)
