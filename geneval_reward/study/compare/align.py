"""Whether results files may be compared, and which of their images belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError, UsageError, name_some
from geneval_reward.results import Results
from geneval_reward.results.generator_notes import generator_marks
from geneval_reward.stats import PairedComparison, compare_by_prompt, compare_paired, compare_unpaired
from geneval_reward.stats.completeness import completeness
from geneval_reward.support.counts import counted

ALLOWABLE: Final = ("prompts", "rules", "backend", "fingerprint")
"""Differences that are refused unless they are allowed by name."""

_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that makes a comparison weaker than it seems.

    Attributes:
        kind: `prompts`, `rules`, `backend` and `fingerprint` are refused unless they are allowed; `incomplete`, `failed`,
            `cut`, `seeds`, `rewritten`, `generator`, `selected`, `best_of` and `unknown` are only reported.
        text: One sentence that names the files.
        serious: Whether the problem may change the conclusion.
    """

    kind: str
    text: str
    serious: bool = True


@dataclass(frozen=True, slots=True)
class Aligned:
    """Two runs side by side.

    Attributes:
        comparison: The statistics.
        problems: What was left out or could not be paired.
    """

    comparison: PairedComparison
    problems: tuple[Problem, ...]


def check(runs: Sequence[Results], names: Sequence[str], allow: Collection[str] = ()) -> list[Problem]:
    """Look for what forbids or weakens a comparison.

    Args:
        runs: Results files.
        names: Names of the runs, for messages.
        allow: Kinds of `ALLOWABLE` to report instead of refusing them.

    Returns:
        The problems to report.

    Raises:
        ResultsError: If an image occurs twice in a file, or there is a difference that is not allowed; all are named.
        UsageError: If `allow` holds an unknown kind.
    """
    unknown = set(allow) - set(ALLOWABLE)
    if unknown:
        raise UsageError(f"allow: expected kinds of {', '.join(ALLOWABLE)}, got {', '.join(sorted(unknown))}")
    refusals = []
    for run, name in zip(runs, names, strict=True):
        if len(run) == 0:
            raise ResultsError(f"{name}: expected scored images, got none")
        double = run.duplicates()
        if double:
            refusals.append(
                f"{name}: {counted(len(double), 'image', 'occur')} more than once: "
                f"{name_some(double, shown=_NAMED, separator='; ')}; remove the extra lines"
            )
    problems = _judge_differences(runs, names) + _prompt_differences(runs, names)
    refusals += [problem.text for problem in problems if problem.kind in ALLOWABLE and problem.kind not in allow]
    if refusals:
        kinds = [problem.kind for problem in problems if problem.kind in ALLOWABLE and problem.kind not in allow]
        hint = f"; to compare all the same: --allow {' --allow '.join(dict.fromkeys(kinds))}" if kinds else ""
        raise ResultsError("these results are not comparable: " + "; ".join(refusals) + hint)
    for run, name in zip(runs, names, strict=True):
        problems += _problems_within(run, name)
    rewritten = [bool(run.rewritten.any()) for run in runs]
    if any(rewritten):
        who = ", ".join(name for name, one in zip(names, rewritten, strict=True) if one)
        text = f"{who}: the generator got rewritten prompts"
        problems.append(
            Problem("rewritten", text + ("" if all(rewritten) else ", the others did not"), not all(rewritten))
        )
    marks = [generator_marks(run.generators) for run in runs]
    for mark in dict.fromkeys(mark for own in marks for mark in own):
        who = ", ".join(name for name, own in zip(names, marks, strict=True) if mark in own)
        alike = all(mark in own for own in marks)
        problems.append(Problem("generator", f"{who}: {mark}" + ("" if alike else ", the others not"), not alike))
    return problems


def align(
    a: Results,
    b: Results,
    names: tuple[str, str],
    *,
    credit: str = "official",
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Aligned:
    """Compare two checked runs as closely as their images allow.

    Runs are compared image by image if both record the number of each image and their seeds, where recorded, agree; by prompt
    if only the prompts agree; and without pairing if no prompt is common. Images that one of them lacks are left out and
    counted.

    Args:
        a: The first run.
        b: The second.
        names: Names of the runs, for messages.
        credit: The credit to compare.
        draws: Bootstrap draws and sign flips.
        seed: Seed of the draws and flips.
        level: Nominal coverage of the intervals.
    """
    values = [run.credit(credit) for run in (a, b)]
    common = set(a.records) & set(b.records)
    if not common:
        arrays = (values[0], a.prompt_ids, a.tags, values[1], b.prompt_ids, b.tags)
        return Aligned(compare_unpaired(*arrays, level=level), ())
    problems: list[Problem] = []
    keep = [_with_prompts(run, common) for run in (a, b)]
    rows = _common_images(a, b, keep) if _indexed(a) and _indexed(b) else None
    if rows is None:
        text = f"{names[0]}, {names[1]}: the lines do not say which image of a prompt they are, so they are paired by prompt"
        problems.append(Problem("unknown", text, serious=False))
    else:
        pairs = [(a.seeds[i], b.seeds[j]) for i, j in zip(*(part.tolist() for part in rows), strict=True)]
        known = [x == y for x, y in pairs if x is not None and y is not None]
        if known and not all(known):
            text = f"{names[0]}, {names[1]}: {len(known) - sum(known)} of {len(known)} images have different seeds, "
            problems.append(Problem("seeds", text + "so they are paired by prompt only"))
            rows = None
        else:
            dropped = [int(mask.sum()) - len(part) for mask, part in zip(keep, rows, strict=True)]
            for name, other, count in zip(names, reversed(names), dropped, strict=True):
                if count:
                    problems.append(
                        Problem(
                            "incomplete", f"{name}: {counted(count, 'image', 'have')} no partner in {other}, left out"
                        )
                    )
        if rows is not None and len(known) < len(pairs):
            text = (
                f"{names[0]}, {names[1]}: seeds are not recorded; pairing gains only if equal numbers had equal noise"
            )
            problems.append(Problem("seeds", text, serious=False))
    if rows is not None and len(rows[0]):
        i, j = rows
        comparison = compare_paired(
            values[0][i], values[1][j], a.prompt_ids[i], a.tags[i], draws=draws, seed=seed, level=level
        )
    else:
        place = {record: number for number, record in enumerate(a.records)}
        to_a = np.array([place.get(record, -1) for record in b.records], np.int64)
        i, j = (np.flatnonzero(mask) for mask in keep)
        comparison = compare_by_prompt(
            values[0][i],
            a.prompt_ids[i],
            a.tags[i],
            values[1][j],
            to_a[b.prompt_ids[j]],
            b.tags[j],
            draws=draws,
            seed=seed,
            level=level,
        )
    return Aligned(comparison, tuple(problems))


def _judge_differences(runs: Sequence[Results], names: Sequence[str]) -> list[Problem]:
    problems = []
    everyone = [(name, identity) for run, name in zip(runs, names, strict=True) for identity in run.identities]
    for kind in ("rules", "backend", "fingerprint"):
        said = [(name, identity) for name, identity in everyone if getattr(identity, kind) is not None]
        first = said[0] if said else None
        for name, identity in said[1:]:
            if first is not None and getattr(identity, kind) != getattr(first[1], kind):
                parts = [part for part in first[1].differences(identity) if part.startswith(kind)]
                problems.append(Problem(kind, f"{first[0]} and {name} differ in {'; '.join(parts)}"))
    silent = list(dict.fromkeys(name for name, identity in everyone if identity.rules is None))
    if silent:
        problems.append(
            Problem("unknown", f"{', '.join(silent)}: the file does not say by what rules and models it was judged")
        )
    return problems


def _prompt_differences(runs: Sequence[Results], names: Sequence[str]) -> list[Problem]:
    problems = []
    first = set(runs[0].records)
    for run, name in zip(runs[1:], names[1:], strict=True):
        for these, those, who, whom in (
            (runs[0], set(run.records), names[0], name),
            (run, first, name, names[0]),
        ):
            alone = [i for i, record in enumerate(these.records) if record not in those]
            if alone:
                are = "is" if len(alone) == 1 else "are"
                examples = name_some([repr(these.prompt(i)) for i in alone[:_NAMED]], len(alone), _NAMED)
                problems.append(
                    Problem(
                        "prompts",
                        f"{counted(len(alone), 'prompt')} of {who} {are} not in {whom}: {examples}",
                    )
                )
    return problems


def _problems_within(run: Results, name: str) -> list[Problem]:
    specs = run.specs()
    found = completeness(specs[i] for i in run.prompt_ids.tolist()).problems()
    problems = [Problem("incomplete", f"{name}: {text}") for text in found]
    if run.failed:
        examples = name_some([f"{file} ({error})" for file, error in run.failed.items()], shown=_NAMED)
        problems.append(
            Problem("failed", f"{name}: {counted(len(run.failed), 'image')} could not be scored: {examples}")
        )
    if run.cut is not None:
        problems.append(Problem("cut", f"{name}: the last line ({run.cut.number}) is cut off and left out"))
    if by := run.selecting_rewards():
        text = f"{name}: images were selected at sampling time by {', '.join(by)}"
        problems.append(Problem("selected", text, serious=False))
    if run.best_of.any():
        count = Counter(run.best_of.tolist()).most_common(1)[0][0]
        text = (
            f"{name}: images were chosen by this very metric, best of {count}; its score is no measure of the generator"
        )
        problems.append(Problem("best_of", text))
    return problems


def _indexed(run: Results) -> bool:
    return bool((run.index >= 0).all())


def _with_prompts(run: Results, common: Collection[str]) -> npt.NDArray[np.bool_]:
    return np.array([record in common for record in run.records], np.bool_)[run.prompt_ids]


def _common_images(
    a: Results, b: Results, keep: Sequence[npt.NDArray[np.bool_]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the rows of `a` and of `b` that are the same image of the same prompt, in the order of `a`."""
    place = {
        (b.records[prompt], index): row
        for row, (prompt, index) in enumerate(zip(b.prompt_ids.tolist(), b.index.tolist(), strict=True))
        if keep[1][row]
    }
    pairs = [
        (row, place[key])
        for row, key in enumerate(
            (a.records[prompt], index) for prompt, index in zip(a.prompt_ids.tolist(), a.index.tolist(), strict=True)
        )
        if keep[0][row] and key in place
    ]
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
