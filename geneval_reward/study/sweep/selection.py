"""The score of the best of many settings on prompts that played no part in choosing it.

The best of forty equally good settings scores two standard errors above the truth. The classic remedy is to choose on some of
the prompts and score on the others (M. Stone 1974, J. R. Stat. Soc. B 36:111).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.stats import Estimate, Interval, clustered_bootstrap
from geneval_reward.stats.sums import mean_of_task_means

FOLDS = 5
"""Number of parts that the prompts are divided into; each is scored by the setting that the others choose. Halves would choose by
too few prompts, and be too pessimistic where one setting is the best (benchmarks/selection.py)."""

REPEATS = 40
"""Number of random divisions that are averaged."""


@dataclass(frozen=True)
class Selection:
    """The best setting, and what choosing it is worth.

    Attributes:
        best: Index of the setting with the highest overall score.
        apparent: Overall score of that setting on the prompts that chose it; too high on average.
        held_out: Overall score when each fifth of the prompts is scored by the setting that the other four fifths choose,
            averaged over random divisions. It estimates what this kind of choice gives on new prompts.
        chosen: `(settings,)` share of these choices that each setting won, which shows how certain the choice is.
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
    repeats: int = REPEATS,
    draws: int = 10_000,
    seed: int = 0,
) -> Selection | None:
    """Choose the best of several settings, and score the choice on prompts that played no part in it.

    Args:
        scores: `(settings, n)` score of each image; a column is the same prompt and image index in every row.
        prompt_ids: `(n,)` prompt of each image; equal ids are one prompt.
        tags: `(n,)` task names.
        repeats: Number of random divisions (within tasks), >= 1.
        draws: Bootstrap draws of the interval.
        seed: Seed of the divisions and of the draws.

    Returns:
        The selection; None if a task has a single prompt, which cannot be split.

    Raises:
        UsageError: If the shapes do not fit, or there is no setting.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> alike = rng.random((20, 60)) < 0.5
        >>> found = select_best(alike, np.arange(60), ["colors", "counting"] * 30)
        >>> found.apparent > 0.55, abs(found.held_out.value - 0.5) < 0.05
        (True, True)
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size or table.shape[1] != len(prompt_ids) or len(prompt_ids) != len(tags):
        raise UsageError(
            f"scores: expected (settings, images) with one column per prompt id and tag, got {table.shape}, "
            f"{len(prompt_ids)} and {len(tags)}"
        )
    prompts, row_prompt = np.unique(np.asarray(prompt_ids), return_inverse=True)
    names, row_tag = np.unique(np.asarray(tags), return_inverse=True)
    tag_of = np.zeros(len(prompts), np.int64)
    tag_of[row_prompt] = row_tag
    if (np.bincount(tag_of, minlength=len(names)) < 2).any():
        return None

    def overall(use: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """Average the task means of every setting over some of the images."""
        sums = np.stack([np.bincount(row_tag[use], row[use], len(names)) for row in table])
        return mean_of_task_means(sums, np.bincount(row_tag[use], minlength=len(names)), names.tolist())

    whole = overall(np.ones(table.shape[1], bool))
    best = int(np.argmax(whole))
    rng = np.random.default_rng(seed)
    chosen, averaged = np.zeros(len(table)), np.zeros(table.shape[1])
    for _ in range(repeats):
        fold = _folds(rng, tag_of)[row_prompt]
        for number in range(FOLDS):
            own = fold == number
            winner = int(np.argmax(overall(~own)))
            chosen[winner] += 1
            averaged[own] += table[winner, own]
    single, held = (
        clustered_bootstrap(values, row_prompt, np.asarray(tags), draws=draws, seed=seed).overall
        for values in (table[best], averaged / repeats)
    )
    return Selection(best, float(whole[best]), _not_narrower(held, single), tuple((chosen / chosen.sum()).tolist()))


def _not_narrower(held: Estimate, own: Estimate) -> Estimate:
    """Widen the interval of the held-out score to that of a single setting.

    An average over several chosen settings varies less than the single setting that is finally used.
    """
    if not own.interval.half_width > held.interval.half_width:
        return held
    half = own.interval.half_width
    low, high = max(held.value - half, 0.0), min(held.value + half, 1.0)
    interval = Interval(low, high, own.interval.level, "as wide as the best setting's own")
    return replace(held, interval=interval, standard_error=own.standard_error)


def _folds(rng: np.random.Generator, tag_of: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Deal the prompts to random folds, as evenly within each task as its number of prompts allows."""
    fold = np.zeros(len(tag_of), np.int64)
    for tag in range(int(tag_of.max()) + 1):
        own = rng.permutation(np.flatnonzero(tag_of == tag))
        # Start at random, so that small tasks do not all fall into the first folds.
        fold[own] = (np.arange(len(own)) + int(rng.integers(FOLDS))) % FOLDS
    return fold
