"""Several results files compared, each with the first."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geneval_reward.errors import UsageError
from geneval_reward.results import Results, RunIdentity, read_results
from geneval_reward.results.notation import detectable_text, p_text, percent_text, points_interval, points_text
from geneval_reward.results.tables import html
from geneval_reward.stats import PairedComparison, ScoreIntervals, clustered_bootstrap, holm
from geneval_reward.study.compare.align import Problem, align, check


@dataclass(frozen=True, slots=True)
class Run:
    """One results file.

    Attributes:
        name: The name of the run in tables.
        path: The file.
        images: Number of scored images.
        prompts: Number of prompts.
        scores: The scores with intervals.
        identity: What judged the file; the first judge where there are several.
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
        comparison: The difference `b - a`. `overall.p_holm` is corrected over the runs, the p-values of `tags` over the
            tags.
        message: The conclusion in a sentence.
    """

    a: str
    b: str
    comparison: PairedComparison
    message: str


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """Results files compared.

    Attributes:
        runs: The runs in the order given; the others are compared with the first.
        pairs: One pair for each run but the first.
        problems: What makes the comparison weaker than it seems.
        credit: The credit that was compared.
        level: Nominal level of the intervals.
    """

    runs: tuple[Run, ...]
    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]
    credit: str
    level: float

    def __repr__(self) -> str:
        return f"Comparison({' '.join(pair.message for pair in self.pairs)})"

    def _repr_html_(self) -> str:
        # `render` lays out what this file computes, and so imports it.
        from geneval_reward.study.compare.render import document

        return html(document(self))


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
        paths: At least two files, ours or those of the official script.
        names: Names of the runs; None takes the shortest part of the paths that tells them apart.
        allow: Differences to report instead of refusing them: `prompts` (only common prompts are compared), `rules`,
            `backend`, `fingerprint`.
        credit: The credit to compare.
        draws: Bootstrap draws and sign flips.
        seed: Seed of the draws and flips.
        level: Nominal coverage of the intervals.

    Returns:
        The comparison; `geneval_reward.study.compare.render.document` makes tables of it.

    Raises:
        ResultsError: If a file cannot be read, or the files are not comparable; every reason is named.
        UsageError: If an argument is out of range.
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
    """Compare results that have been read already; the arguments are those of `compare_files`."""
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
    """Say what a comparison shows, in a sentence or two."""
    overall = comparison.overall
    numbers = (
        f"{points_text(overall.value)} points, {percent_text(comparison.level)} interval "
        f"{points_interval(overall.interval.low, overall.interval.high)}, {p_text(overall.p_holm)}"
    )
    if overall.shown:
        better, worse = (b, a) if overall.value > 0 else (a, b)
        text = f"{better} is better than {worse}: {b} - {a} = {numbers}."
        if 0.0 in overall.interval:
            text += " The interval, which is careful with few prompts, still holds 0: measure more prompts before relying on it."
    else:
        seen = "so few prompts can show nothing"
        if math.isfinite(overall.detectable):
            seen = f"the smallest visible difference (80 % power) was {detectable_text(overall)} points"
        text = f"No difference shown: {b} - {a} = {numbers}; {seen}."
    shown = [
        f"{tag} {points_text(one.value)} ({p_text(one.p_holm)})" for tag, one in comparison.tags.items() if one.shown
    ]
    if shown:
        text += f" By task, corrected for {len(comparison.tags)} looks: {', '.join(shown)}."
    return text


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell them apart, without suffix.

    Examples:
        >>> short_names([Path("x/base/results.jsonl"), Path("x/lora/results.jsonl")])
        ['base/results', 'lora/results']
    """
    parts = [path.with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]
