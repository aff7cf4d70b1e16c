"""A report's figures as tables: LaTeX, Markdown, CSV or JSON."""

from __future__ import annotations

from typing import Any

from geneval_reward.results.generator_notes import generator_marks
from geneval_reward.results.notation import ESTIMATE_COLUMNS, ROW_NAMES, estimate_cells, judge_text, rounded, score_text
from geneval_reward.results.tables import Document, Table
from geneval_reward.study.compare.render import difference_table, to_dict
from geneval_reward.study.report.calibration import SHIFT
from geneval_reward.study.report.collect import Report, RunReport


def document(report: Report) -> Document:
    """Build the tables of a report in every format; CSV has one line per run, published model, difference and figure."""
    pairs = report.comparison.pairs if report.comparison else ()
    return Document(
        tables=[_scores(report), *map(difference_table, pairs), _failures(report)],
        values=_values(report),
        record=_record(report),
        title=f"GenEval: {report.title}",
        problems=report.problems,
        conclusions=[*(pair.message for pair in pairs), *([f"made by: {report.command}"] if report.command else [])],
    )


def _scores(report: Report) -> Table:
    rows: list[list[object]] = []
    for run in report.runs:
        scores = run.summary.scores
        mark = " (r)" if run.results.rewritten.any() else ""
        mark += "".join(f" ({text})" for text in generator_marks(run.results.generators))
        mark += f" (best of {int(run.results.best_of.max())})" if run.results.best_of.any() else ""
        mark += f" (selected by {', '.join(run.summary.selected_by)})" if run.summary.selected_by else ""
        mark += "" if run.summary.complete else " (PARTIAL)"
        rows.append(
            [run.name + mark, *(score_text(scores.tags.get(tag)) for tag in report.tags), score_text(scores.overall)]
        )
    rows += [[]] if report.published else []
    for row in report.published:
        shares = [*map(row.tags.get, report.tags), row.overall]
        texts = ["–" if share is None else f"{share:.2f}" for share in shares]
        rows.append([row.label + (" (r)" if row.rewritten else ""), *texts])
    notes = []
    for run in report.runs:
        others = {
            name: one
            for name, one in run.summary.scores.figures().items()
            if name not in (*run.summary.scores.tags, "overall")
        }
        notes.append(
            f"{run.name}: "
            + ", ".join(f"{ROW_NAMES.get(name, name)} {score_text(one)}" for name, one in others.items())
        )
        notes.append(f"{run.name}: judged by {judge_text(run.results.identities)}")
    notes += dict.fromkeys(
        f"source of {row.label}: {row.source}{f' ({row.settings})' if row.settings else ''}" for row in report.published
    )
    return Table(
        "GenEval scores with 95 % intervals (bootstrap clustered by prompt), beside published models. (r): rewritten prompts.",
        ["model", *report.tags, "overall"],
        rows,
        notes,
    )


def _failures(report: Report) -> Table:
    counts = [{group.cause: group.images for group in run.groups} for run in report.runs]
    rows: list[list[object]] = [
        [cause.title, *(found.get(cause, 0) for found in counts)]
        for cause in dict.fromkeys(key for found in counts for key in found)
    ]
    rows.append(["wrong images", *(int((~run.results.correct).sum()) for run in report.runs)])
    notes = [
        f"{run.name}: {one.fragile} of {one.images} verdicts flip if {one.field} {one.value:g} moves by {SHIFT:g}"
        for run in report.runs
        for one in run.thresholds
    ]
    return Table(
        "Failed images by reason. An image can fail in two ways.", ["", *(run.name for run in report.runs)], rows, notes
    )


def _values(report: Report) -> Table:
    header = ["run", "kind", "against", "task", "cause", *ESTIMATE_COLUMNS, "p_holm", "rewritten", "source"]
    rows: list[list[object]] = []
    files = {run.name: run.results.path.name for run in report.runs}
    for run in report.runs:
        origin = [bool(run.results.rewritten.any()), run.results.path.name]
        for name, one in run.summary.estimates().items():
            rows.append([run.name, "run", None, name, None, *estimate_cells(one), None, *origin])
        images = len(run.results)
        rows += [
            [run.name, "failures", None, None, one.cause.key, one.images, None, None, images, None, None, *origin]
            for one in run.groups
        ]
    for row in report.published:
        for name, value in {**row.tags, "overall": row.overall}.items():
            if value is not None:
                numbers = [value, None, None, None, None, None]
                rows.append([row.label, "published", None, name, None, *numbers, row.rewritten, row.source])
    for pair in report.comparison.pairs if report.comparison else ():
        for name, d in pair.comparison.figures().items():
            ends = map(rounded, (d.value, d.interval.low, d.interval.high))
            counts = [d.images, d.prompts, rounded(d.p_holm), None]
            rows.append([pair.b, "difference", pair.a, name, None, *ends, *counts, files[pair.b]])
    return Table("", header, rows)


def _record(report: Report) -> dict[str, Any]:
    return {
        "title": report.title,
        "command": report.command,
        "complete": report.complete,
        "problems": report.problems,
        "runs": [_run(run) for run in report.runs],
        "published": [
            {
                "model": row.model,
                "overall": row.overall,
                "tags": row.tags,
                "rewritten": row.rewritten,
                "reproduced": row.reproduced,
                "settings": row.settings,
                "source": row.source,
                "note": row.note,
            }
            for row in report.published
        ],
        "comparison": None if report.comparison is None else to_dict(report.comparison),
    }


def _run(run: RunReport) -> dict[str, Any]:
    return {
        "name": run.name,
        "file": run.results.path.name,
        "sha256": run.sha256,
        "summary": run.summary.to_dict(),
        "failures": [
            {"cause": group.cause.key, "images": group.images, "tags": group.tags, "details": dict(group.details)}
            for group in run.groups
        ],
        "thresholds": [
            {
                "field": one.field,
                "value": one.value,
                "edges": [round(edge, 6) for edge in one.edges.tolist()],
                "counts": one.counts.tolist(),
                "detections": one.detections,
                "images": one.images,
                "flip_within_0.05": one.fragile,
                "lower": {"newly_right": one.lower[0], "newly_wrong": one.lower[1]},
                "higher": {"newly_right": one.higher[0], "newly_wrong": one.higher[1]},
                "unknown": one.unknown,
            }
            for one in run.thresholds
        ],
        "failed": dict(run.results.failed),
        "images_not_found": [image.filename for image in run.images if image.path is None],
        "rewritten": int(run.results.rewritten.sum()),
        "generator": [notes.to_dict() for notes in run.results.generators],
        "best_of": int(run.results.best_of.max()) if len(run.results) else 0,
    }
