"""Image scores summed by prompt, on which every interval and test in this package is based.

Images of one prompt resemble one another, because a prompt is easy or hard. So the prompt, not the image, is the unit that is
resampled, flipped and counted in degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.prompts.vocabulary import TAGS, sort_tags

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PromptSums:
    """Scores of one run, summed by prompt.

    Attributes:
        prompts: Ids of the `p` prompts, in order of appearance.
        tags: Names of the tags that occur, in the benchmark's order; then tags of one's own.
        tag: `(p,)` index into `tags`.
        images: `(p,)` number of images.
        total: `(p,)` sum of scores.
        squares: `(p,)` sum of squared scores.
        binary: Whether every score is 0 or 1.
        bounded: Whether every score lies in [0, 1].
    """

    prompts: tuple[Hashable, ...]
    tags: tuple[str, ...]
    tag: Integers
    images: Floats
    total: Floats
    squares: Floats
    binary: bool
    bounded: bool

    def rows(self, tag: int) -> Integers:
        """Return the indices of a tag's prompts."""
        return np.flatnonzero(self.tag == tag)

    def strata(self) -> Iterator[tuple[str, Integers]]:
        """Iterate over the tags with the indices of their prompts."""
        for index, name in enumerate(self.tags):
            yield name, self.rows(index)

    @property
    def tag_means(self) -> Floats:
        """`(t,)` mean score over the images of each tag: the benchmark's task scores."""
        size = len(self.tags)
        return np.bincount(self.tag, self.total, size) / np.bincount(self.tag, self.images, size)

    @property
    def overall_weights(self) -> Floats:
        """`(t,)` weights of the tags in the overall score; see `counts_in_overall`."""
        counted = counts_in_overall(self.tags)
        weights: Floats = counted / counted.sum()
        return weights


def counts_in_overall(tags: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Say which tasks the overall score is the mean of: the benchmark's six, or all where none of the six is there.

    Examples:
        >>> counts_in_overall(["colors", "texture"]).tolist(), counts_in_overall(["texture"]).tolist()
        ([True, False], [True])
    """
    official = np.array([tag in TAGS for tag in tags], np.bool_)
    return official if official.any() else np.ones(len(tags), np.bool_)


def mean_of_task_means(total: npt.ArrayLike, images: npt.ArrayLike, tags: Sequence[str] | None = None) -> Floats:
    """Average task scores as the benchmark's overall score does, giving every task with images equal weight.

    Args:
        total: `(..., t)` sum of scores per task.
        images: `(t,)` number of images per task.
        tags: `(t,)` names of the tasks, for `counts_in_overall`; None if all of them count.

    Returns:
        `(...)` float64; NaN where no task has images.

    Source:
        djghosh13/geneval `evaluation/summary_scores.py`.

    Examples:
        >>> float(mean_of_task_means([3, 1, 0], [4, 4, 0]))
        0.5
    """
    sums, counts = np.asarray(total, np.float64), np.asarray(images)
    present = counts > 0
    if not present.any():
        return np.full(sums.shape[:-1], np.nan)
    if tags is not None:
        present[present] = counts_in_overall([tag for tag, here in zip(tags, present.tolist(), strict=True) if here])
    means: Floats = (sums[..., present] / counts[present]).mean(axis=-1)
    return means


def sum_by_prompt(scores: npt.ArrayLike, prompt_ids: Sequence[Any] | npt.NDArray[Any], tags: Any) -> PromptSums:
    """Sum scores by prompt.

    Args:
        scores: `(n,)` booleans or finite numbers, one per image.
        prompt_ids: `(n,)` hashable ids; equal ids mean the same prompt.
        tags: `(n,)` tag names.

    Raises:
        UsageError: If there are no scores, lengths differ, a score is not finite, or a prompt has two tags.
    """
    values = check_scores("scores", scores)
    codes, prompts = factorize(prompt_ids)
    tag_codes, names = factorize(tags)
    for name, size in (("prompt_ids", len(codes)), ("tags", len(tag_codes))):
        if size != len(values):
            raise UsageError(f"{name}: expected one per score ({len(values)}), got {size}")
    order = [names.index(name) for name in sort_tags(names)]
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    tag_codes = rank[tag_codes]
    count = len(prompts)
    tag = np.zeros(count, np.int64)
    tag[codes] = tag_codes
    clash = np.flatnonzero(tag[codes] != tag_codes)
    if clash.size:
        prompt = prompts[codes[clash[0]]]
        raise UsageError(
            f"tags: expected one tag per prompt, got two for prompt {prompt!r}; use the whole record as id"
        )
    return PromptSums(
        prompts=prompts,
        tags=tuple(names[i] for i in order),
        tag=tag,
        images=np.bincount(codes, minlength=count).astype(np.float64),
        total=np.bincount(codes, values, count).astype(np.float64),
        squares=np.bincount(codes, values * values, count).astype(np.float64),
        binary=bool(np.isin(values, (0.0, 1.0)).all()),
        bounded=bool((values >= 0).all() and (values <= 1).all()),
    )


def check_scores(name: str, scores: npt.ArrayLike) -> Floats:
    """Convert scores to float64, and refuse anything but a vector of at least one finite number."""
    values = np.asarray(scores)
    if values.ndim != 1 or values.size == 0:
        raise UsageError(f"{name}: expected a vector with one number per image, got shape {values.shape}")
    if values.dtype.kind not in "biuf":
        raise UsageError(f"{name}: expected booleans or numbers, got dtype {values.dtype}")
    values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise UsageError(
            f"{name}[{bad[0]}]: expected a finite number, got {values[bad[0]]}; leave out images that were not scored"
        )
    return values


def factorize(values: Sequence[Any] | npt.NDArray[Any]) -> tuple[Integers, tuple[Any, ...]]:
    """Return integer codes of values, and the distinct values in order of appearance.

    Examples:
        >>> codes, names = factorize(["b", "a", "b"])
        >>> codes.tolist(), names
        ([0, 1, 0], ('b', 'a'))
        >>> factorize(np.array([7, 3, 7]))[1]
        (7, 3)
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        distinct, first, inverse = np.unique(values, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return rank[inverse.ravel()], tuple(distinct[order].tolist())
    items: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    seen: dict[Any, int] = {}
    codes = np.fromiter((seen.setdefault(item, len(seen)) for item in items), np.int64, len(items))
    return codes, tuple(seen)


def check_level(name: str, value: float) -> None:
    """Refuse a probability that is not strictly between 0 and 1."""
    if not 0.0 < value < 1.0:
        hint = f"; did you mean {value / 100}?" if 1.0 < value < 100.0 else ""
        raise UsageError(f"{name}: expected a number between 0 and 1, got {value!r}{hint}")


def check_draws(draws: int) -> None:
    """Refuse too few draws, for which the ends of an interval would be mostly noise."""
    if draws < 100:
        raise UsageError(f"draws: expected at least 100, got {draws!r}; 10,000 take a fraction of a second")


def multinomial_rows(rng: np.random.Generator, columns: Floats, draws: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Resample the prompts of one tag, and count how often each *distinct* row of `columns` is drawn.

    Prompts with equal rows are exchangeable, so one multinomial count is enough for all of them; a tag of 100 prompts with four
    images each has at most five distinct rows. `p - 1` of `p` prompts are drawn, which makes the bootstrap variance of
    a mean unbiased (McCarthy & Snowden 1985; Rao & Wu 1988, J. Am. Stat. Assoc. 83:231).

    Args:
        rng: Source of the draws.
        columns: `(p, c)` sums per prompt, p >= 2.
        draws: Number of resamples.

    Returns:
        Counts `(draws, d)` and the distinct rows `(d, c)`, which are sorted so that the order of the prompts does not matter.
    """
    distinct, counts = np.unique(columns, axis=0, return_counts=True)
    return rng.multinomial(len(columns) - 1, counts / len(columns), size=draws), distinct
