"""Scores of one run with intervals clustered by prompt: overall, per tag, over all images, and pass@k.

The benchmark prints one number. The intervals show how far another draw of prompts and noise could have moved it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.stats.intervals import Estimate, Interval, pass_at_k, percentile_interval, wilson
from geneval_reward.stats.sums import Floats, PromptSums, check_draws, check_level, multinomial_rows, sum_by_prompt

Method = Literal["auto", "bootstrap", "wilson"]

ENOUGH = 30.0
"""Minimum number of effective successes and failures for the percentile bootstrap. With fewer, its intervals are too narrow
(at 99 % accuracy, only .63 of them contain the true value; see docs/measurement.md), and Wilson's interval is used instead."""

PRIOR = 0.1
"""Weight of two pseudo-prompts, one all correct and one all wrong, that are added to a tag's variance for Wilson's interval,
because a handful of failures says little about how they cluster. Without them, at 98 % accuracy and a correlation of .6, only
.90 of the intervals contain the true value."""


@dataclass(frozen=True, slots=True)
class ScoreIntervals:
    """Scores of one run with intervals.

    Attributes:
        overall: Unweighted mean of the scores of the benchmark's tasks (its "Overall"); of all tasks where none of the six is
            there.
        micro: Share of correct images.
        tags: Task scores by tag.
        pass_any: Share of prompts with at least one correct image (the benchmark's "% correct prompts"); None for
            scores that are not 0/1.
        pass_at_k: Unbiased pass@k by k, as `geneval_reward.stats.pass_at_k` defines it.
        icc: Correlation of two images of one prompt within tags, at most 1 and possibly below 0; NaN if no prompt has two images
            or all scores of a tag are equal.
        rerun_standard_error: Standard error of `overall` from image noise alone, which is all that new seeds on the *same*
            prompts would change. Two runs of one model differ by more than 2.8 times this value in 5 % of cases. NaN if unknown.
    """

    overall: Estimate
    micro: Estimate
    tags: dict[str, Estimate]
    pass_any: Estimate | None
    pass_at_k: dict[int, Estimate] = field(default_factory=dict)
    icc: float = math.nan
    rerun_standard_error: float = math.nan

    def figures(self) -> dict[str, Estimate]:
        """Return every score by its name in CSV and JSON: tasks, `overall`, `images_correct`, `prompts_correct`, `pass@k`."""
        found = {**self.tags, "overall": self.overall, "images_correct": self.micro}
        found |= {} if self.pass_any is None else {"prompts_correct": self.pass_any}
        return found | {f"pass@{k}": estimate for k, estimate in self.pass_at_k.items()}


def clustered_bootstrap(
    correct: npt.ArrayLike,
    prompt_ids: Sequence[Any] | npt.NDArray[Any],
    tags: Sequence[str] | npt.NDArray[Any],
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    pass_k: Sequence[int] | None = None,
    method: Method = "auto",
) -> ScoreIntervals:
    """Compute the scores of one run with intervals that are clustered by prompt.

    Prompts are resampled within their tag, all images of a prompt together. Near 0 and 1, where the percentile bootstrap is known
    to fail, Wilson's interval with the *effective* number of images (variance clustered by prompt, t quantile) is used, unless
    `method` says otherwise.

    Args:
        correct: `(n,)` verdicts on the images, or any other finite scores.
        prompt_ids: `(n,)` hashable ids; equal ids mean the same prompt.
        tags: `(n,)` tag names; every prompt has one tag.
        draws: Number of resamples, >= 100.
        seed: Seed of the resampling. Equal input, in any order, gives equal intervals.
        level: Nominal coverage of the intervals.
        pass_k: Values of k for pass@k; None takes 1, 2, 4, 8, ... up to the smallest number of images of a prompt.
        method: `bootstrap` or `wilson` to force one; `wilson` needs 0/1 scores.

    Returns:
        All scores with intervals.

    Raises:
        UsageError: If an argument is out of range or the arrays do not match.

    Examples:
        >>> correct = [1, 1, 0, 1, 0, 0, 1, 1]
        >>> scores = clustered_bootstrap(correct, list("aabbccdd"), ["colors"] * 4 + ["counting"] * 4)
        >>> scores.overall.value, scores.pass_any.value
        (0.625, 0.75)
    """
    check_level("level", level)
    check_draws(draws)
    if method not in ("auto", "bootstrap", "wilson"):
        raise UsageError(f"method: expected 'auto', 'bootstrap' or 'wilson', got {method!r}")
    sums = sum_by_prompt(correct, prompt_ids, tags)
    if method == "wilson" and not sums.binary:
        raise UsageError("method: expected 'auto' or 'bootstrap' for scores that are not 0/1, got 'wilson'")
    columns: list[Floats] = [sums.total, sums.images]
    chosen = _choose_k(sums, pass_k)
    if sums.binary:
        columns += [(sums.total > 0).astype(np.float64), *(pass_at_k(sums.total, sums.images, k) for k in chosen)]
    maker = _Resampled(sums, np.stack(columns, axis=1), draws, seed, level, method)
    count = len(sums.tags)
    prompts = np.bincount(sums.tag, minlength=count)
    images = np.bincount(sums.tag, sums.images, count)
    by_prompt = prompts / prompts.sum()
    single = np.eye(count)
    return ScoreIntervals(
        overall=maker.estimate(0, sums.overall_weights),
        micro=maker.estimate(0, images / images.sum()),
        tags={name: maker.estimate(0, single[index]) for index, name in enumerate(sums.tags)},
        pass_any=maker.estimate(2, by_prompt) if sums.binary else None,
        pass_at_k={k: maker.estimate(3 + index, by_prompt) for index, k in enumerate(chosen)},
        icc=_correlation(sums),
        rerun_standard_error=_rerun_error(sums),
    )


def _correlation(sums: PromptSums) -> float:
    """Estimate the correlation of two images of one prompt within tags, by one-way analysis of variance averaged over tags.

    Source:
        A. Donner 1986, Int. Stat. Review 54:67 (ANOVA estimator).
    """
    between, within = components(sums)
    total = between + within
    return between / total if total > 0 else math.nan


def components(sums: PromptSums) -> tuple[float, float]:
    """Estimate the variance between prompts and within prompts, each averaged over tags without weights; NaN if unknown."""
    found = []
    for _, rows in sums.strata():
        n, total = sums.images[rows], sums.total[rows]
        images, prompts = n.sum(), len(rows)
        if prompts < 2 or images <= prompts:
            continue
        mean = total.sum() / images
        within = (sums.squares[rows] - total**2 / n).sum() / (images - prompts)
        between = (n * (total / n - mean) ** 2).sum() / (prompts - 1)
        per_prompt = (images - (n**2).sum() / images) / (prompts - 1)
        found.append(((between - within) / per_prompt, within))
    if not found:
        return math.nan, math.nan
    between, within = np.mean(found, axis=0)
    return float(between), float(within)


def _rerun_error(sums: PromptSums) -> float:
    """Estimate the standard error of the mean of task means with the prompts held fixed."""
    variance = 0.0
    weights = sums.overall_weights
    for tag, (_, rows) in enumerate(sums.strata()):
        if not weights[tag]:
            continue
        n, total = sums.images[rows], sums.total[rows]
        many = n > 1
        if not many.any():
            return math.nan
        spread = np.zeros(len(rows))
        spread[many] = (sums.squares[rows] - total**2 / n)[many] / (n[many] - 1)
        spread[~many] = spread[many].mean()
        variance += float((n * spread).sum() / n.sum() ** 2)
    return math.sqrt(max(variance, 0.0)) * float(weights.max())


def _choose_k(sums: PromptSums, pass_k: Sequence[int] | None) -> list[int]:
    if not sums.binary:
        if pass_k:
            raise UsageError("pass_k: expected None for scores that are not 0/1; pass@k counts correct images")
        return []
    if pass_k is not None:
        return sorted(set(pass_k))
    smallest = int(sums.images.min())
    return [2**power for power in range(smallest.bit_length())]


class _Resampled:
    """Resamples once, then estimates any weighted mean of tag means."""

    def __init__(self, sums: PromptSums, columns: Floats, draws: int, seed: int, level: float, method: Method) -> None:
        self.sums, self.columns, self.level, self.method = sums, columns, level, method
        rng = np.random.default_rng(seed)
        tags, statistics = len(sums.tags), columns.shape[1]
        self.value, self.variance = np.zeros((tags, statistics)), np.zeros((tags, statistics))
        self.drawn = np.zeros((tags, statistics, draws))
        for index, (_, rows) in enumerate(sums.strata()):
            part = columns[rows]
            self.value[index] = _means(part.sum(axis=0), float(len(rows)))
            self.variance[index] = _variances(part, binary=sums.binary)
            if len(rows) > 1:
                counts, distinct = multinomial_rows(rng, part, draws)
                self.drawn[index] = _means((counts @ distinct).T, float(len(rows) - 1))

    def estimate(self, statistic: int, weights: Floats) -> Estimate:
        used = weights > 0
        value = float(weights @ self.value[:, statistic])
        variance = float((weights[used] ** 2) @ self.variance[used, statistic])
        prompts = np.bincount(self.sums.tag, minlength=len(weights))[used]
        images = np.bincount(self.sums.tag, self.sums.images, len(weights))[used]
        df = float(prompts.sum() - used.sum())
        share = min(max(value, 0.0), 1.0)
        # Without any spread, little is known about the next prompt, so prompts are counted instead of images.
        trials = images if statistic == 0 else prompts
        own = self.value[used, statistic]
        prior = float((weights[used] ** 2) @ (PRIOR * (own**2 + (1 - own) ** 2) / prompts**2))
        effective = share * (1 - share) / (variance + prior) if variance > 0 else float(prompts.sum())
        effective = max(min(effective, float(trials.sum())), 1.0)
        method = self.method
        if method == "auto":
            few = self.sums.binary and effective * min(share, 1 - share) < ENOUGH
            method = "wilson" if few else "bootstrap"
        if self.sums.binary and (method == "wilson" or prompts.min() < 2):
            found = wilson(share * effective, effective, self.level, df=max(df, 1.0))
            interval = Interval(found.low, found.high, self.level, "wilson, clustered by prompt")
        elif prompts.min() < 2:
            interval = Interval(math.nan, math.nan, self.level, "none: a task has a single prompt")
        else:
            drawn = weights @ self.drawn[:, statistic]
            interval = percentile_interval(drawn, self.level, df, "bootstrap, clustered by prompt")
        return Estimate(value, interval, math.sqrt(variance), int(images.sum()), int(prompts.sum()))


def _means(sums: Floats, prompts: float) -> Floats:
    """Average over images for the first two columns (total, images), and over prompts for the others."""
    means = sums / prompts
    means[0] = sums[0] / sums[1]
    return means


def _variances(part: Floats, *, binary: bool) -> Floats:
    """Estimate the variance of `_means` over the choice of prompts, linearised for the ratio in the first column."""
    prompts = len(part)
    if prompts < 2:
        # One prompt says nothing about others, so this is the largest variance that 0/1 scores can have.
        return np.full(part.shape[1], 0.25 if binary else math.nan)
    residual = part - part.mean(axis=0)
    total, images = part[:, 0].sum(), part[:, 1].sum()
    residual[:, 0] = (part[:, 0] - part[:, 1] * total / images) * prompts / images
    variances: Floats = (residual**2).sum(axis=0) / (prompts * (prompts - 1))
    return variances
