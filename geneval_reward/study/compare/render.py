"""A comparison as tables, and as plain values."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from geneval_reward.results.tables import Document, Table, finite
from geneval_reward.stats import Difference
from geneval_reward.study.compare.table import Comparison, Pair
from geneval_reward.study.wording import (
    bare_p,
    detectable_text,
    difference_interval,
    difference_text,
    judge_text,
    points_text,
)

_PAIRINGS = {"image": "image by image", "prompt": "by prompt", "none": "not paired"}


def document(comparison: Comparison) -> Document:
    """Build the tables of a comparison in every format; CSV has shares, one line for each score and each difference."""
    header = ["name", "kind", "figure", "value", "low", "high", "p", "p_holm", "detectable", "images", "prompts"]
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
    counted = one.overall.counts is not None
    header = ["", "difference", "p (corrected)", "smallest visible"]
    header += [f"only {pair.a} / only {pair.b}"] if counted else []
    images = f"{one.overall.images} images, {one.overall.prompts} prompts"
    return Table(
        f"{pair.b} - {pair.a}, in points, {_PAIRINGS[one.pairing]} ({images})",
        header,
        [_difference(name, difference) for name, difference in one.figures().items()],
        [
            "smallest visible: the true difference that would be shown in 80 % of such comparisons; – if there are too few "
            "prompts for any. A star marks differences that are shown after correction."
        ],
    )


def _scores(comparison: Comparison) -> Table:
    runs = comparison.runs
    scores = [run.scores for run in runs]
    names = list(dict.fromkeys(tag for score in scores for tag in score.tags))
    rows: list[list[object]] = [[tag, *(points_text(score.tags.get(tag)) for score in scores)] for tag in names]
    rows.append(["overall", *(points_text(score.overall) for score in scores)])
    rows.append(["all images", *(points_text(score.micro) for score in scores)])
    if all(score.pass_any is not None for score in scores):
        rows.append(["prompts with a correct image", *(points_text(score.pass_any) for score in scores)])
    rows.append(["images / prompts", *(f"{run.images} / {run.prompts}" for run in runs)])
    judges = {run.name: judge_text([run.identity]) for run in runs}
    notes = [f"note: {one.text}" for one in comparison.problems if not one.serious]
    if len(set(judges.values())) == 1:
        notes.append(f"judged by {judges[runs[0].name]}")
    else:
        notes += [f"{name}: judged by {text}" for name, text in judges.items()]
    return Table(
        f"scores ({comparison.credit}), in points, with {comparison.level:.0%} intervals",
        ["", *(run.name for run in runs)],
        rows,
        notes,
    )


def _difference(name: str, difference: Difference) -> list[object]:
    # There is nothing to correct for in the score of all images, or if only one run is compared with the first.
    corrected = "" if difference.p_holm == difference.p_value else f" ({bare_p(difference.p_holm)})"
    row: list[object] = [
        name,
        f"{difference_text(difference)} ({difference_interval(difference)})",
        bare_p(difference.p_value) + corrected + (" *" if difference.shown else ""),
        detectable_text(difference),
    ]
    if difference.counts is not None:
        row.append(f"{difference.counts.only_a} / {difference.counts.only_b}")
    return row


def _values(comparison: Comparison) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in comparison.runs:
        for name, one in (*run.scores.tags.items(), ("overall", run.scores.overall), ("all images", run.scores.micro)):
            ends = [one.interval.low, one.interval.high]
            rows.append([run.name, "score", name, one.value, *ends, None, None, None, one.images, one.prompts])
    for pair in comparison.pairs:
        for name, d in pair.comparison.figures().items():
            tests = [d.p_value, d.p_holm, d.detectable]
            ends = [d.interval.low, d.interval.high]
            rows.append([f"{pair.b} - {pair.a}", "difference", name, d.value, *ends, *tests, d.images, d.prompts])
    return rows
