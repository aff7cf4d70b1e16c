"""Differences between two runs: paired image by image, paired by prompt, or not paired at all.

A difference is always `b - a`, so it is positive if the second run is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from geneval_reward.errors import UsageError
from geneval_reward.stats.bootstrap import ENOUGH
from geneval_reward.stats.intervals import Interval, percentile_interval
from geneval_reward.stats.power import minimum_detectable_difference
from geneval_reward.stats.significance import TINY, holm, mcnemar, sign_flip
from geneval_reward.stats.sums import (
    Floats,
    Integers,
    PromptSums,
    check_draws,
    check_level,
    check_scores,
    factorize,
    multinomial_rows,
    sum_by_prompt,
)

Pairing = Literal["image", "prompt", "none"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Verdicts on the same images in two runs.

    Attributes:
        both: Number of images that are correct in both runs.
        only_a: Number of images that are correct only in the first run.
        only_b: Number of images that are correct only in the second run.
        neither: Number of images that are wrong in both runs.
    """

    both: int
    only_a: int
    only_b: int
    neither: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference `b - a` with its uncertainty.

    Attributes:
        a: Score of the first run.
        b: Score of the second.
        value: `b - a`.
        interval: The interval of the difference, clustered by prompt.
        standard_error: Standard error, clustered by prompt; never 0, as `compare_paired` explains.
        p_value: Two-sided p-value of "no difference", from flipping the signs of the prompts' differences.
        p_holm: The same p-value, corrected over the tags; for the overall difference it equals `p_value`.
        detectable: The smallest true difference that this comparison shows with a power of 80 %; infinite if it would not
            even show the largest difference possible for scores in [0, 1].
        images: Number of images of each run (the smaller number if they differ).
        prompts: Number of prompts.
        counts: Verdicts on the same images; None unless paired by image with 0/1 scores.
        p_mcnemar: P-value of the mid-p McNemar test on `counts`. It treats the images of a prompt as independent, which they are
            not; it is included because others report it. Use `p_value` for decisions.
    """

    a: float
    b: float
    value: float
    interval: Interval
    standard_error: float
    p_value: float
    p_holm: float
    detectable: float
    images: int
    prompts: int
    counts: Counts | None = None
    p_mcnemar: float | None = None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown at the interval's level, after correction."""
        return self.p_holm <= 1 - self.interval.level


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Comparison of two runs.

    Attributes:
        overall: Difference between the means of the task means.
        micro: Difference between the shares of correct images.
        tags: Difference between the scores of each task.
        pairing: `image` (same prompt and same index), `prompt` (same prompts, different images) or `none`.
        unpaired_standard_error: The standard error that `overall` would have without pairing.
        level: Nominal level of the intervals.
    """

    overall: Difference
    micro: Difference
    tags: dict[str, Difference]
    pairing: Pairing
    unpaired_standard_error: float
    level: float

    def figures(self) -> dict[str, Difference]:
        """Return every difference by its name in tables, CSV and JSON: the tasks, `overall`, and `images_correct`."""
        return {**self.tags, "overall": self.overall, "images_correct": self.micro}


def compare_paired(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    prompt_ids: Sequence[Any] | npt.NDArray[Any],
    tags: Sequence[str] | npt.NDArray[Any],
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedComparison:
    """Compare two runs image by image: row i of both is the same prompt and image index (ideally also the same seed).

    The interval is a bootstrap of the prompts within their tags; the test flips the sign of each prompt's difference. Both
    are valid however much the images of a prompt resemble one another. If fewer than 30 prompts differ at all, the bootstrap
    would be too narrow, and a t interval on the differences with two pseudo-prompts (one image better, one worse) is used. The
    same adjusted standard error gives `detectable`, so that a comparison of runs that agree everywhere does not claim that it
    would have shown any difference.

    Args:
        a: `(n,)` verdicts or finite scores of the first run.
        b: `(n,)` those of the second, in the same order.
        prompt_ids: `(n,)` hashable ids; equal ids mean the same prompt.
        tags: `(n,)` tag names; every prompt has one tag.
        draws: Number of resamples and of sign flips, >= 100.
        seed: Seed of the resamples and the sign flips.
        level: Nominal coverage of the intervals.

    Raises:
        UsageError: If an argument is out of range or the arrays do not match.

    Source:
        The pseudo-prompts follow A. Agresti & Y. Min 2005 and D. Bonett & R. Price 2012 (adjusted interval of a
        difference of paired proportions), applied to clusters here and checked by simulation (docs/measurement.md).

    Examples:
        >>> a = [0, 0, 1, 0] * 20
        >>> b = [1, 0, 1, 1] * 20
        >>> result = compare_paired(a, b, [i // 4 for i in range(80)], ["position"] * 80)
        >>> result.overall.value, result.overall.shown
        (0.5, True)
    """
    first, second = check_scores("a", a), check_scores("b", b)
    if len(first) != len(second):
        raise UsageError(
            f"b: expected as many scores as a ({len(first)}), got {len(second)}; row i of both is one image"
        )
    codes, _ = factorize(prompt_ids)
    sums_a, sums_b = sum_by_prompt(first, prompt_ids, tags), sum_by_prompt(second, prompt_ids, tags)
    comparison = _compare(sums_a, sums_b, "image", draws, seed, level)
    if not (sums_a.binary and sums_b.binary):
        return comparison
    row_tag = sums_a.tag[codes]

    def with_counts(difference: Difference, rows: npt.NDArray[np.bool_] | slice) -> Difference:
        x, y = first[rows] > 0, second[rows] > 0
        counts = Counts(int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum()), int((~x & ~y).sum()))
        return replace(difference, counts=counts, p_mcnemar=mcnemar(counts.only_a, counts.only_b))

    return replace(
        comparison,
        overall=with_counts(comparison.overall, slice(None)),
        micro=with_counts(comparison.micro, slice(None)),
        tags={
            name: with_counts(difference, row_tag == index)
            for index, (name, difference) in enumerate(comparison.tags.items())
        },
    )


def compare_by_prompt(
    a: npt.ArrayLike,
    prompt_ids_a: Sequence[Any] | npt.NDArray[Any],
    tags_a: Sequence[str] | npt.NDArray[Any],
    b: npt.ArrayLike,
    prompt_ids_b: Sequence[Any] | npt.NDArray[Any],
    tags_b: Sequence[str] | npt.NDArray[Any],
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedComparison:
    """Compare two runs on the same prompts whose images do not correspond, because seeds or numbers of images differ.

    Arguments and result are those of `compare_paired`, with one set of arrays per run.

    Raises:
        UsageError: If the prompts of the runs differ, or in the cases of `compare_paired`.
    """
    sums_a, sums_b = sum_by_prompt(a, prompt_ids_a, tags_a), sum_by_prompt(b, prompt_ids_b, tags_b)
    place = {prompt: index for index, prompt in enumerate(sums_b.prompts)}
    alone = [prompt for prompt in sums_a.prompts if prompt not in place] or list(
        set(sums_b.prompts) - set(sums_a.prompts)
    )
    if alone:
        raise UsageError(f"prompt_ids: expected the same prompts in both runs, got {alone[0]!r} in one of them only")
    order = np.array([place[prompt] for prompt in sums_a.prompts])
    if sums_a.tags != sums_b.tags or (sums_a.tag != sums_b.tag[order]).any():
        raise UsageError("tags: expected every prompt to have the same tag in both runs")
    sums_b = replace(
        sums_b,
        prompts=sums_a.prompts,
        tag=sums_a.tag,
        images=sums_b.images[order],
        total=sums_b.total[order],
        squares=sums_b.squares[order],
    )
    return _compare(sums_a, sums_b, "prompt", draws, seed, level)


def compare_unpaired(
    a: npt.ArrayLike,
    prompt_ids_a: Sequence[Any] | npt.NDArray[Any],
    tags_a: Sequence[str] | npt.NDArray[Any],
    b: npt.ArrayLike,
    prompt_ids_b: Sequence[Any] | npt.NDArray[Any],
    tags_b: Sequence[str] | npt.NDArray[Any],
    *,
    level: float = 0.95,
) -> PairedComparison:
    """Compare two runs as independent samples, which is all that can be done if the prompts differ.

    The interval and the test are Wald's, from the two standard errors, each clustered by prompt.

    Raises:
        UsageError: If the tags of the runs differ, or in the cases of `compare_paired`.
    """
    check_level("level", level)
    sums = sum_by_prompt(a, prompt_ids_a, tags_a), sum_by_prompt(b, prompt_ids_b, tags_b)
    if sums[0].tags != sums[1].tags:
        raise UsageError(f"tags: expected the same tags in both runs, got {sums[0].tags} and {sums[1].tags}")
    means = [one.tag_means for one in sums]
    errors = [np.array([_standard_error(_influence(one, rows)) for _, rows in one.strata()]) for one in sums]
    variance = errors[0] ** 2 + errors[1] ** 2
    size = [np.bincount(one.tag, one.images) for one in sums]

    def difference(weights_a: Floats, weights_b: Floats, df: float, prompts: int, images: float) -> Difference:
        x, y = float(weights_a @ means[0]), float(weights_b @ means[1])
        error = math.sqrt(float(weights_a**2 @ errors[0] ** 2 + weights_b**2 @ errors[1] ** 2))
        reach = float(stdtrit(df, 0.5 + level / 2)) * error
        p = 2 * float(ndtr(-abs(y - x) / error))
        interval = Interval(y - x - reach, y - x + reach, level, "unpaired, clustered by prompt")
        interval, seen = _limit(interval, minimum_detectable_difference(error, level=level, df=df), sums)
        return Difference(x, y, y - x, interval, error, p, p, seen, int(images), prompts)

    count = len(sums[0].tags)
    prompts = np.minimum(*(np.bincount(one.tag, minlength=count) for one in sums))
    images = np.minimum(*size)
    even, df = sums[0].overall_weights, float(max(prompts.sum() - count, 1))
    counted = even > 0
    own_df = float(max(prompts[counted].sum() - counted.sum(), 1))
    overall = difference(even, even, own_df, int(prompts[counted].sum()), images[counted].sum())
    micro = difference(size[0] / size[0].sum(), size[1] / size[1].sum(), df, int(prompts.sum()), images.sum())
    single = np.eye(count)
    tags = [
        difference(row, row, float(max(prompts[i] - 1, 1)), int(prompts[i]), images[i]) for i, row in enumerate(single)
    ]
    error = math.sqrt(float(variance[counted].sum())) * float(even.max())
    return PairedComparison(overall, micro, _corrected(sums[0].tags, tags), "none", error, level)


def _compare(
    sums_a: PromptSums, sums_b: PromptSums, pairing: Pairing, draws: int, seed: int, level: float
) -> PairedComparison:
    check_draws(draws)
    check_level("level", level)
    rng = np.random.default_rng(seed)
    tags = len(sums_a.tags)
    drawn = np.zeros((2, tags, draws))
    parts: list[tuple[Floats, Floats]] = []
    errors, free = np.zeros(tags), np.zeros(tags)
    unpaired, even = 0.0, sums_a.overall_weights
    for index, (name, rows) in enumerate(sums_a.strata()):
        if len(rows) < 2:
            raise UsageError(
                f"tags: expected at least two prompts of {name!r} to compare, got {len(rows)}; take more prompts of it "
                "(a subset of n/task has n of each)"
            )
        columns = np.stack([sums_a.total, sums_a.images, sums_b.total, sums_b.images], axis=1)[rows]
        counts, distinct = multinomial_rows(rng, columns, draws)
        summed = counts @ distinct
        drawn[0, index], drawn[1, index] = summed[:, 0] / summed[:, 1], summed[:, 2] / summed[:, 3]
        influence_a, influence_b = _influence(sums_a, rows), _influence(sums_b, rows)
        if even[index]:
            unpaired += _standard_error(influence_a) ** 2 + _standard_error(influence_b) ** 2
        images_a, images_b = columns[:, 1].sum(), columns[:, 3].sum()
        parts.append((columns[:, 0] / images_a, columns[:, 2] / images_b))
        errors[index] = _adjusted_error(influence_b - influence_a, 1 / min(images_a, images_b))
        free[index] = len(rows) - 1
    means_a, means_b = sums_a.tag_means, sums_b.tag_means
    prompts = np.bincount(sums_a.tag)
    size_a, size_b = (np.bincount(one.tag, one.images) for one in (sums_a, sums_b))

    def difference(weights_a: Floats, weights_b: Floats) -> Difference:
        used = np.flatnonzero(weights_a)
        a, b = float(weights_a @ means_a), float(weights_b @ means_b)
        error = math.sqrt(float((weights_a**2) @ errors**2))
        df = float(free[used].sum())
        changes = np.concatenate([parts[i][1] * weights_b[i] - parts[i][0] * weights_a[i] for i in used])
        if np.count_nonzero(np.abs(changes) > TINY) < ENOUGH:
            reach = float(stdtrit(df, 0.5 + level / 2)) * error
            interval = Interval(b - a - reach, b - a + reach, level, "t with pseudo-prompts, clustered by prompt")
        else:
            changed = weights_b @ drawn[1] - weights_a @ drawn[0]
            interval = percentile_interval(changed, level, df, "bootstrap, clustered by prompt")
        p = sign_flip(changes, rng, draws)
        interval, seen = _limit(interval, minimum_detectable_difference(error, level=level, df=df), (sums_a, sums_b))
        images = int(min(size_a[used].sum(), size_b[used].sum()))
        return Difference(a, b, b - a, interval, error, p, p, seen, images, int(prompts[used].sum()))

    overall = difference(even, even)
    micro = difference(size_a / size_a.sum(), size_b / size_b.sum())
    by_tag = [difference(row, row) for row in np.eye(tags)]
    error = math.sqrt(unpaired) * float(even.max())
    return PairedComparison(overall, micro, _corrected(sums_a.tags, by_tag), pairing, error, level)


def _limit(interval: Interval, detectable: float, runs: Sequence[PromptSums]) -> tuple[Interval, float]:
    """Limit the interval and detectable difference to what is possible for scores in [0, 1]."""
    if not all(one.bounded for one in runs):
        return interval, detectable
    limited = replace(interval, low=max(interval.low, -1.0), high=min(interval.high, 1.0))
    return limited, detectable if detectable <= 1 else math.inf


def _corrected(names: tuple[str, ...], differences: list[Difference]) -> dict[str, Difference]:
    corrected = holm([difference.p_value for difference in differences])
    return {
        name: replace(difference, p_holm=p) for name, difference, p in zip(names, differences, corrected, strict=True)
    }


def _influence(sums: PromptSums, rows: Integers) -> Floats:
    """Compute what each prompt adds to its tag's mean, linearised; the sum is 0."""
    images = sums.images[rows].sum()
    residual: Floats = (sums.total[rows] - sums.images[rows] * sums.total[rows].sum() / images) / images
    return residual


def _standard_error(influence: Floats) -> float:
    count = len(influence)
    if count < 2:
        return 0.5
    # No spread among `count` prompts does not prove that there is none. This is the spread if half of one more had differed.
    return math.sqrt(max(float((influence**2).sum()), 0.25 / count**2) * count / (count - 1))


def _adjusted_error(influence: Floats, smallest: float) -> float:
    """Estimate the standard error of a tag's difference after adding two prompts, one image better and one image worse."""
    count = len(influence)
    spread = float((influence**2).sum()) + 2 * smallest**2
    return math.sqrt(spread * count / (count - 1))
