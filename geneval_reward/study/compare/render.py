"""A comparison as tables, and as plain values."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from geneval_reward.results.notation import (
    ESTIMATE_COLUMNS,
    ROW_NAMES,
    bare_p,
    detectable_text,
    difference_text,
    estimate_cells,
    judge_text,
    percent_text,
    rounded,
    score_text,
)
from geneval_reward.results.tables import Document, Table, finite
from geneval_reward.stats import Difference
from geneval_reward.study.compare.table import Comparison, Pair
from geneval_reward.support.counts import counted

_PAIRINGS = {"image": "image by image", "prompt": "by prompt", "none": "not paired"}


def document(comparison: Comparison) -> Document:
    """Build the tables of a comparison in every format; CSV has a line per score, and per difference from the run `against`."""
    header = ["run", "against", "task", *ESTIMATE_COLUMNS, "p", "p_holm", "detectable"]
    return Document(
        tables=[_scores(comparison), *(difference_table(pair) for pair in comparison.pairs)],
        values=Table("", header, _values(comparison)),
        record=to_dict(comparison),
        problems=[one.text for one in comparison.problems if one.serious],
        conclusions=[pair.message for pair in comparison.pairs],
    )


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything as plain values; numbers that are not finite become None."""
    record = asdict(comparison)
    for run in record["runs"]:
        run["path"] = str(run["path"])
        run["identity"]["rules"] = json.loads(run["identity"]["rules"] or "null")
    for pair, source in zip(record["pairs"], comparison.pairs, strict=True):
        pair["shown"] = source.comparison.overall.shown
    cleaned: dict[str, Any] = finite(record)
    return cleaned


def difference_table(pair: Pair) -> Table:
    """Build the table of one run's differences from the first."""
    one = pair.comparison
    has_counts = one.overall.counts is not None
    header = ["task", "difference", "p (corrected)", "smallest visible difference (80 % power)"]
    header += [f"only {pair.a} / only {pair.b}"] if has_counts else []
    images = f"{counted(one.overall.images, 'image')}, {counted(one.overall.prompts, 'prompt')}"
    return Table(
        f"{pair.b} - {pair.a}, in points, {_PAIRINGS[one.pairing]} ({images})",
        header,
        [_difference(name, difference) for name, difference in one.figures().items()],
        [
            "smallest visible difference: the true difference that would be shown in 80 % of such comparisons; – if there are "
            "too few prompts for any. A star marks differences that are shown after correction."
        ],
    )


def _scores(comparison: Comparison) -> Table:
    runs = comparison.runs
    scores = [run.scores for run in runs]
    tasks = dict.fromkeys(tag for score in scores for tag in score.tags)
    figures = [score.figures() for score in scores]
    names = [*tasks, *(name for name in dict.fromkeys(name for one in figures for name in one) if name not in tasks)]
    rows: list[list[object]] = []
    for name in names:
        rows += [[]] if name == "overall" else []
        rows.append([ROW_NAMES.get(name, name), *(score_text(one.get(name)) for one in figures)])
    rows.append(["images / prompts", *(f"{run.images} / {run.prompts}" for run in runs)])
    judges = {run.name: judge_text([run.identity]) for run in runs}
    notes = [f"note: {one.text}" for one in comparison.problems if not one.serious]
    if len(set(judges.values())) == 1:
        notes.append(f"judged by {judges[runs[0].name]}")
    else:
        notes += [f"{name}: judged by {text}" for name, text in judges.items()]
    return Table(
        f"scores, credit {comparison.credit}, with {percent_text(comparison.level)} intervals",
        ["task", *(run.name for run in runs)],
        rows,
        notes,
    )


def _difference(name: str, difference: Difference) -> list[object]:
    # There is nothing to correct for in the score of all images, or if only one run is compared with the first.
    corrected = "" if difference.p_holm == difference.p_value else f" ({bare_p(difference.p_holm)})"
    row: list[object] = [
        ROW_NAMES.get(name, name),
        difference_text(difference),
        bare_p(difference.p_value) + corrected + (" *" if difference.shown else ""),
        detectable_text(difference),
    ]
    if difference.counts is not None:
        row.append(f"{difference.counts.only_a} / {difference.counts.only_b}")
    return row


def _values(comparison: Comparison) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in comparison.runs:
        for name, one in run.scores.figures().items():
            rows.append([run.name, None, name, *estimate_cells(one), None, None, None])
    for pair in comparison.pairs:
        for name, d in pair.comparison.figures().items():
            numbers = map(rounded, (d.value, d.interval.low, d.interval.high))
            tests = map(rounded, (d.p_value, d.p_holm, d.detectable))
            rows.append([pair.b, pair.a, name, *numbers, d.images, d.prompts, *tests])
    return rows
