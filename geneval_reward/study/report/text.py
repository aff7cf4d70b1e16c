"""A report's figures as LaTeX, Markdown, CSV or JSON."""

from __future__ import annotations

import json
from typing import Any, Final

from geneval_reward.errors import UsageError
from geneval_reward.prompts.vocabulary import TAGS
from geneval_reward.stats import Estimate
from geneval_reward.study.compare.render import to_dict
from geneval_reward.study.compare.table import p_text, points, span
from geneval_reward.study.report.collect import Report, RunReport
from geneval_reward.study.tables import comma_separated, latex, latex_text, markdown, markdown_cell

FORMATS: Final = ("latex", "markdown", "csv", "json")
_SHORT: Final = {
    "single_object": "single",
    "two_object": "two",
    "counting": "count.",
    "colors": "colours",
    "position": "position",
    "color_attr": "attr.",
}


def render(report: Report, format: str) -> str:
    """A report as text.

    Args:
        report: What `geneval_reward.study.report.collect` gives.
        format: One of `FORMATS`. LaTeX needs the package `booktabs`; CSV has one line per run, published model and
            figure.

    Raises:
        ValueError: For another format.
    """
    makers = {"latex": _latex, "markdown": _markdown, "csv": _csv, "json": _json}
    if format not in makers:
        raise UsageError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    return makers[format](report)


def _latex(report: Report) -> str:
    # A comment ends with its line, so a line break in a file's text must not leave it.
    parts = [f"% {' '.join(problem.split())}" for problem in report.problems]
    caption = (
        "GenEval scores with 95% intervals (bootstrap clustered by prompt), beside published models. "
        "(r): rewritten prompts."
    )
    own, others = _score_rows(report)
    parts.append(
        latex(["model", *(_SHORT[tag] for tag in TAGS), "overall"], [*own, [], *others] if others else own, caption)
    )
    sources = [f"{row.model}: {row.source}" for row in report.published]
    parts += [f"% source: {' '.join(text.split())}" for text in dict.fromkeys(sources)]
    for title, header, rows in _difference_tables(report):
        parts.append(latex(header, rows, title))
    parts += [f"% {latex_text(pair.message)}" for pair in report.comparison.pairs] if report.comparison else []
    parts.append(latex(*_failures(report), caption="Failed images by reason. An image can fail in two ways."))
    return "\n".join(parts)


def _markdown(report: Report) -> str:
    parts = [f"# GenEval: {markdown_cell(report.title)}\n"]
    if report.problems:
        parts.append(
            "".join(f"> **!** {markdown_cell(problem)}\n>\n" for problem in report.problems).removesuffix(">\n")
        )
    own, others = _score_rows(report)
    parts.append("Scores with 95% intervals; (r): rewritten prompts.\n")
    parts.append(markdown(["model", *TAGS, "overall"], [*own, *others]))
    sources = dict.fromkeys(f"{row.model}: {row.source}" for row in report.published)
    parts.append("".join(f"- {markdown_cell(source)}\n" for source in sources))
    for title, header, rows in _difference_tables(report):
        parts += [f"**{markdown_cell(title)}**\n", markdown(header, rows)]
    parts += [markdown_cell(pair.message) + "\n" for pair in report.comparison.pairs] if report.comparison else []
    parts += ["Failed images by reason; an image can fail in two ways.\n", markdown(*_failures(report))]
    lines = [
        f"- {markdown_cell(run.name)}: {one.fragile} of {one.images} verdicts flip if {one.field} {one.value:g} moves by .05\n"
        for run in report.runs
        for one in run.thresholds
    ]
    parts += ["".join(lines)] if lines else []
    parts += [f"    {report.command}\n"] if report.command else []
    return "\n".join(part for part in parts if part)


def _csv(report: Report) -> str:
    rows: list[list[object]] = []
    for run in report.runs:
        rewritten = bool(run.results.rewritten.any())
        for name, one in _estimates(run):
            bounds = [_plain(one.interval.low), _plain(one.interval.high)]
            rows.append(
                [
                    run.name,
                    "run",
                    name,
                    _plain(one.value),
                    *bounds,
                    one.images,
                    one.prompts,
                    rewritten,
                    run.results.path.name,
                ]
            )
        rows += [
            [
                run.name,
                "failures",
                group.cause.key,
                group.images,
                None,
                None,
                len(run.results),
                None,
                rewritten,
                run.results.path.name,
            ]
            for group in run.groups
        ]
    for row in report.published:
        figures = [*row.tags.items(), *([("overall", row.overall)] if row.overall is not None else [])]
        rows += [
            [row.model, "published", name, value, None, None, None, None, row.rewritten, row.source]
            for name, value in figures
        ]
    for pair in report.comparison.pairs if report.comparison else ():
        both = pair.comparison
        for name, d in (*both.tags.items(), ("overall", both.overall), ("all images", both.micro)):
            bounds = [_plain(d.interval.low), _plain(d.interval.high)]
            rows.append(
                [
                    f"{pair.b} - {pair.a}",
                    "difference",
                    name,
                    _plain(d.value),
                    *bounds,
                    d.images,
                    d.prompts,
                    None,
                    p_text(d.p_holm),
                ]
            )
    return comma_separated(
        ["name", "kind", "figure", "value", "low", "high", "images", "prompts", "rewritten", "source"], rows
    )


def _json(report: Report) -> str:
    record: dict[str, Any] = {
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
                "source": row.source,
                "note": row.note,
            }
            for row in report.published
        ],
        "comparison": None if report.comparison is None else to_dict(report.comparison),
    }
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def _run(run: RunReport) -> dict[str, Any]:
    return {
        "name": run.name,
        "file": run.results.path.name,
        "sha256": run.sha256,
        "summary": run.summary.to_dict(),
        "failures": [
            {
                "cause": group.cause.key,
                "images": group.images,
                "tags": group.tags,
                "details": dict(group.details),
            }
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
        "best_of": int(run.results.best_of.max()) if len(run.results) else 0,
    }


def _estimates(run: RunReport) -> list[tuple[str, Estimate]]:
    scores = run.summary.scores
    rows = [*scores.tags.items(), ("overall", scores.overall), ("images_correct", scores.micro)]
    return rows if scores.pass_any is None else [*rows, ("prompts_correct", scores.pass_any)]


def _score_rows(report: Report) -> tuple[list[list[str]], list[list[str]]]:
    own = []
    for run in report.runs:
        scores = run.summary.scores
        mark = " (r)" if run.results.rewritten.any() else ""
        mark += f" (best of {int(run.results.best_of.max())})" if run.results.best_of.any() else ""
        mark += "" if run.summary.complete else " (PARTIAL)"
        cells = [_cell(scores.tags.get(tag)) for tag in TAGS]
        own.append([run.name + mark, *cells, _cell(scores.overall)])
    others = [
        [
            row.model + (" (r)" if row.rewritten else ""),
            *(f"{row.tags[tag]:.2f}" if tag in row.tags else "–" for tag in TAGS),
            "–" if row.overall is None else f"{row.overall:.2f}",
        ]
        for row in report.published
    ]
    return own, others


def _difference_tables(report: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    tables = []
    for pair in report.comparison.pairs if report.comparison else ():
        one = pair.comparison
        rows = [
            [
                name,
                points(d.value),
                span(d),
                p_text(d.p_holm).removeprefix("p = ").removeprefix("p "),
                f"{100 * d.detectable:.1f}",
            ]
            for name, d in (*one.tags.items(), ("overall", one.overall))
        ]
        title = (
            f"{pair.b} - {pair.a} in points; p corrected over tasks; last: what could have been seen with power 80%."
        )
        tables.append((title, ["", "difference", "95% interval", "p", "could have seen"], rows))
    return tables


def _failures(report: Report) -> tuple[list[str], list[list[str]]]:
    causes = list(dict.fromkeys(group.cause for run in report.runs for group in run.groups))
    rows = []
    for cause in causes:
        groups = [next((group for group in run.groups if group.cause == cause), None) for run in report.runs]
        rows.append([cause.title, *("0" if group is None else str(group.images) for group in groups)])
    rows.append(["wrong images", *(str(int((~run.results.correct).sum())) for run in report.runs)])
    return ["", *(run.name for run in report.runs)], rows


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    low, high = estimate.interval.low, estimate.interval.high
    return f"{estimate.value:.3f}" if low != low else f"{estimate.value:.3f} ({low:.2f}–{high:.2f})"


def _plain(value: float) -> float | None:
    return None if value != value else round(value, 6)
