"""The best of many settings scores too well: what it scores on prompts that did not choose it.

Of forty settings that are all alike, the best one of a measurement lies two standard errors above the truth. The remedy is
old: choose on one half of the prompts and score on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geneval_reward.stats import Estimate, clustered_bootstrap

SPLITS = 200


@dataclass(frozen=True)
class Selection:
    """The best setting, and what choosing it is worth.

    Attributes:
        best: Index of the setting with the highest overall score.
        apparent: Its overall score on the prompts that chose it: too high on average.
        held_out: Overall score of the settings that each half of the prompts chose, on the other half, averaged over
            random halves. An estimate of what choosing in this way gives on new prompts, with half as many prompts to choose by.
        chosen: ``(settings,)`` share of the halves that chose each setting: how sure the choice is.
    """

    best: int
    apparent: float
    held_out: Estimate
    chosen: tuple[float, ...]


def select_best(
    scores: npt.ArrayLike,
    prompt_ids: Sequence[int] | npt.NDArray[np.int64],
    tags: Sequence[str] | npt.NDArray[np.str_],
    *,
    splits: int = SPLITS,
    draws: int = 10_000,
    seed: int = 0,
) -> Selection | None:
    """Choose the best of several settings, and score the choice on prompts that had no part in it.

    Args:
        scores: ``(settings, n)`` score of each image; column i is the same prompt and index in every row.
        prompt_ids: ``(n,)`` equal ids are one prompt.
        tags: ``(n,)`` task names.
        splits: Random halves (within tasks), >= 1.
        draws: Bootstrap draws of the interval.
        seed: Of both.

    Returns:
        The selection; None if a task has a single prompt, which cannot be split.

    Raises:
        ValueError: If the shapes do not fit, or there is no setting.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> alike = rng.random((20, 60)) < 0.5
        >>> found = select_best(alike, np.arange(60), ["colors", "counting"] * 30)
        >>> found.apparent > 0.55, abs(found.held_out.value - 0.5) < 0.05
        (True, True)
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size or table.shape[1] != len(prompt_ids) or len(prompt_ids) != len(tags):
        raise ValueError(
            f"scores: expected (settings, images) with one column per prompt id and tag, got {table.shape}, "
            f"{len(prompt_ids)} and {len(tags)}"
        )
    prompts, row_prompt = np.unique(np.asarray(prompt_ids), return_inverse=True)
    names, row_tag = np.unique(np.asarray(tags), return_inverse=True)
    tag_of = np.zeros(len(prompts), np.int64)
    tag_of[row_prompt] = row_tag
    if (np.bincount(tag_of, minlength=len(names)) < 2).any():
        return None
    sums = np.stack([np.bincount(row_prompt, row, len(prompts)) for row in table])
    images = np.bincount(row_prompt, minlength=len(prompts)).astype(np.float64)
    whole = _overall(sums, images, tag_of, np.ones(len(prompts), bool))
    best = int(np.argmax(whole))
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(table))
    averaged = np.zeros(table.shape[1])
    for _ in range(splits):
        half = _halves(rng, tag_of)
        for side in (half, ~half):
            winner = int(np.argmax(_overall(sums, images, tag_of, side)))
            chosen[winner] += 1
            other = ~side[row_prompt]
            averaged[other] += table[winner, other]
    estimate = clustered_bootstrap(averaged / splits, row_prompt.ravel(), np.asarray(tags), draws=draws, seed=seed)
    return Selection(best, float(whole[best]), estimate.overall, tuple((chosen / chosen.sum()).tolist()))


def _overall(
    sums: npt.NDArray[np.float64],
    images: npt.NDArray[np.float64],
    tag_of: npt.NDArray[np.int64],
    use: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Mean of the task means of every setting, on some of the prompts."""
    count = int(tag_of.max()) + 1
    total = np.stack([np.bincount(tag_of[use], row[use], count) for row in sums])
    means: npt.NDArray[np.float64] = (total / np.bincount(tag_of[use], images[use], count)).mean(axis=1)
    return means


def _halves(rng: np.random.Generator, tag_of: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """A random half of the prompts of every task; of an odd number the spare one goes to either side."""
    half = np.zeros(len(tag_of), bool)
    for tag in range(int(tag_of.max()) + 1):
        own = rng.permutation(np.flatnonzero(tag_of == tag))
        half[own[: len(own) // 2 + int(rng.integers(2)) * (len(own) % 2)]] = True
    return half
