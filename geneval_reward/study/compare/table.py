"""`compare_files`: several results files in one table, each against the first."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geneval_reward.errors import UsageError
from geneval_reward.results import Results, RunIdentity, read_results
from geneval_reward.stats import Difference, PairedComparison, ScoreIntervals, clustered_bootstrap, holm
from geneval_reward.study.compare.align import Problem, align, check


@dataclass(frozen=True, slots=True)
class Run:
    """One results file.

    Attributes:
        name: What it is called in the table.
        path: The file.
        images: Number of scored images.
        prompts: Number of prompts.
        scores: Its scores with intervals.
        identity: What judged it; of a mixed file the first.
    """

    name: str
    path: Path
    images: int
    prompts: int
    scores: ScoreIntervals
    identity: RunIdentity


@dataclass(frozen=True, slots=True)
class Pair:
    """A run against the first.

    Attributes:
        a: Name of the first run.
        b: Name of the other.
        comparison: Their difference, `b - a`. The p-values of `overall.p_holm` are corrected over the runs, those of
            `tags` over the tags.
        message: The conclusion in a sentence.
    """

    a: str
    b: str
    comparison: PairedComparison
    message: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results files compared.

    Attributes:
        runs: In the order given; the first is what the others are compared with.
        pairs: One for each run but the first.
        problems: What makes it less than it seems.
        credit: The credit compared.
        level: Nominal level of the intervals.
    """

    runs: tuple[Run, ...]
    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]
    credit: str
    level: float


def compare_files(
    paths: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    allow: Collection[str] = (),
    credit: str = "official",
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Compare results files, each with the first.

    Args:
        paths: At least two files, ours or the official script's own.
        names: What to call them; None takes the shortest part of the paths that tells them apart.
        allow: Differences to say instead of refuse: `prompts` (only common ones are compared), `rules`, `backend`,
            `fingerprint`.
        credit: Which credit to compare.
        draws: Bootstrap draws and sign flips.
        seed: Of both.
        level: Nominal coverage of the intervals.

    Returns:
        The comparison; render it with `geneval_reward.study.compare.render`.

    Raises:
        ResultsError: If a file cannot be read, or the files are not comparable; every reason is named.
        ValueError: If an argument is out of range.
    """
    if len(paths) < 2:
        raise UsageError(f"paths: expected at least two results files, got {len(paths)}")
    return compare_results(
        [read_results(path) for path in paths],
        names=names,
        allow=allow,
        credit=credit,
        draws=draws,
        seed=seed,
        level=level,
    )


def compare_results(
    results: Sequence[Results],
    *,
    names: Sequence[str] | None = None,
    allow: Collection[str] = (),
    credit: str = "official",
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """`compare_files` for files that are read already."""
    if len(results) < 2:
        raise UsageError(f"results: expected at least two, got {len(results)}")
    labels = short_names([run.path for run in results]) if names is None else list(names)
    if len(labels) != len(results) or len(set(labels)) != len(labels):
        raise UsageError(f"names: expected {len(results)} different names, got {labels}")
    problems = check(results, labels, allow)
    runs = tuple(
        Run(
            name,
            run.path,
            len(run),
            len(run.records),
            clustered_bootstrap(run.credit(credit), run.prompt_ids, run.tags, draws=draws, seed=seed, level=level),
            run.identities[0],
        )
        for run, name in zip(results, labels, strict=True)
    )
    compared: list[PairedComparison] = []
    for run, name in zip(results[1:], labels[1:], strict=True):
        aligned = align(results[0], run, (labels[0], name), credit=credit, draws=draws, seed=seed, level=level)
        compared.append(aligned.comparison)
        problems += aligned.problems
    corrected = holm([one.overall.p_value for one in compared])
    pairs = []
    for one, p, name in zip(compared, corrected, labels[1:], strict=True):
        one = replace(one, overall=replace(one.overall, p_holm=p))
        pairs.append(Pair(labels[0], name, one, conclusion(labels[0], name, one)))
    return Comparison(runs, tuple(pairs), tuple(problems), credit, level)


def conclusion(a: str, b: str, comparison: PairedComparison) -> str:
    """What a comparison shows, in a sentence or two."""
    overall = comparison.overall
    numbers = (
        f"{points(overall.value)} points, {comparison.level:.0%} interval {span(overall)}, {p_text(overall.p_holm)}"
    )
    if overall.shown:
        better, worse = (b, a) if overall.value > 0 else (a, b)
        text = f"{better} is better than {worse}: {b} - {a} = {numbers}."
        if 0.0 in overall.interval:
            text += " The interval, which is careful with few prompts, still holds 0: measure more prompts before relying on it."
    else:
        seen = abs(100 * overall.detectable)
        told = (
            f"you could have seen {seen:.1f} points (power 80%)" if seen <= 100 else "so few prompts can show nothing"
        )
        text = f"No difference shown: {b} - {a} = {numbers}; {told}."
    shown = [f"{tag} {points(one.value)} ({p_text(one.p_holm)})" for tag, one in comparison.tags.items() if one.shown]
    if shown:
        text += f" By task, corrected for {len(comparison.tags)} looks: {', '.join(shown)}."
    return text


def points(value: float) -> str:
    """A difference in points, with its sign: `+1.8`."""
    return f"{100 * value:+.1f}"


def span(difference: Difference) -> str:
    """An interval in points: `-0.4 to +3.9`; of shares it ends where differences of shares do."""
    low, high = difference.interval.low, difference.interval.high
    if 0 <= difference.a <= 1 and 0 <= difference.b <= 1:
        low, high = max(low, -1.0), min(high, 1.0)
    return f"{points(low)} to {points(high)}"


def p_text(p: float) -> str:
    """A p-value: `p = 0.031`, `p < 0.001`."""
    if math.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart, without suffix.

    Example:
        >>> short_names([Path("x/base/results.jsonl"), Path("x/lora/results.jsonl")])
        ['base/results', 'lora/results']
    """
    parts = [path.with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]
