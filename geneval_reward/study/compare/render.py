"""A comparison as a table for the terminal, as Markdown, or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from geneval_reward.stats import Difference, Estimate
from geneval_reward.study.compare.table import Comparison, Pair, p_text, points, span
from geneval_reward.study.tables import comma_separated, latex


def to_rich(comparison: Comparison) -> RenderableType:
    """Tables for the terminal, problems first so that nobody misses them."""
    parts: list[RenderableType] = []
    for problem in comparison.problems:
        style = "bold yellow" if problem.serious else "yellow"
        parts.append(Text(("! " if problem.serious else "note: ") + problem.text, style=style))
    for title, header, rows in _tables(comparison):
        # In 80 columns a pair's table just fits if its headers take two lines.
        heads = [
            head.replace(" / only", " /\nonly").replace("could ", "could\n").replace("p (", "p\n(") for head in header
        ]
        table = Table(*heads, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in table.columns[1:]:
            column.justify = "right"
            column.no_wrap = True
        for row in rows:
            table.add_row(*row)
        parts.append(table)
    parts += [Text(pair.message, style="bold" if pair.comparison.overall.shown else "") for pair in comparison.pairs]
    return Group(*parts)


def to_markdown(comparison: Comparison) -> str:
    """Markdown, for a pull request or a paper's appendix."""
    blocks = []
    if comparison.problems:
        blocks.append("\n".join(f"> **{'!' if p.serious else 'note'}** {_escape(p.text)}" for p in comparison.problems))
    for title, header, rows in _tables(comparison):
        lines = [
            "| " + " | ".join(map(_escape, header)) + " |",
            "|---" + "|---:" * (len(header) - 1) + "|",
            *("| " + " | ".join(map(_escape, row)) + " |" for row in rows),
        ]
        blocks.append(f"**{_escape(title)}**\n\n" + "\n".join(lines))
    blocks += [_escape(pair.message) for pair in comparison.pairs]
    return "\n\n".join(blocks) + "\n"


def to_latex(comparison: Comparison) -> str:
    """LaTeX tables for the `booktabs` package; problems and conclusions as comments."""
    parts = [f"% {' '.join(problem.text.split())}" for problem in comparison.problems]
    parts += [latex(header, rows, title) for title, header, rows in _tables(comparison)]
    parts += [f"% {' '.join(pair.message.split())}" for pair in comparison.pairs]
    return "\n".join(parts) + "\n"


def to_csv(comparison: Comparison) -> str:
    """One line for each score of each run, then for each difference; shares, not points."""
    rows: list[list[object]] = []
    for run in comparison.runs:
        scores = [*run.scores.tags.items(), ("overall", run.scores.overall), ("all images", run.scores.micro)]
        for name, one in scores:
            ends = [_finite(one.interval.low), _finite(one.interval.high)]
            rows.append([run.name, "score", name, one.value, *ends, None, None, None, one.images, one.prompts])
    for pair in comparison.pairs:
        both = pair.comparison
        for name, d in (*both.tags.items(), ("overall", both.overall), ("all images", both.micro)):
            ends = [_finite(d.interval.low), _finite(d.interval.high)]
            tests = [_finite(d.p_value), _finite(d.p_holm), _finite(d.detectable)]
            rows.append([f"{pair.b} - {pair.a}", "difference", name, d.value, *ends, *tests, d.images, d.prompts])
    header = ["name", "kind", "figure", "value", "low", "high", "p", "p_holm", "detectable", "images", "prompts"]
    return comma_separated(header, rows)


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything, as plain values; numbers that are not finite become None."""
    record = asdict(comparison)
    for run in record["runs"]:
        run["path"] = str(run["path"])
        run["identity"]["rules"] = json.loads(run["identity"]["rules"] or "null")
    for pair, source in zip(record["pairs"], comparison.pairs, strict=True):
        pair["shown"] = source.comparison.overall.shown
    cleaned: dict[str, Any] = _finite(record)
    return cleaned


def to_json(comparison: Comparison) -> str:
    """`to_dict` as indented JSON."""
    return json.dumps(to_dict(comparison), indent=2, allow_nan=False) + "\n"


def _tables(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows of each table."""
    runs = comparison.runs
    scores = [run.scores for run in runs]
    names = list(dict.fromkeys(tag for score in scores for tag in score.tags))
    rows = [[tag, *(_estimate(score.tags.get(tag)) for score in scores)] for tag in names]
    rows.append(["overall", *(_estimate(score.overall) for score in scores)])
    rows.append(["all images", *(_estimate(score.micro) for score in scores)])
    if all(score.pass_any is not None for score in scores):
        rows.append(["prompts with a correct image", *(_estimate(score.pass_any) for score in scores)])
    rows.append(["images / prompts", *(f"{run.images} / {run.prompts}" for run in runs)])
    title = f"scores ({comparison.credit}), in points, with {comparison.level:.0%} intervals"
    tables = [(title, ["", *(run.name for run in runs)], rows)]
    tables += [_pair_table(pair, comparison) for pair in comparison.pairs]
    return tables


def _pair_table(pair: Pair, comparison: Comparison) -> tuple[str, list[str], list[list[str]]]:
    one = pair.comparison
    how = {"image": "image by image", "prompt": "by prompt", "none": "not paired"}[one.pairing]
    counted = one.overall.counts is not None
    header = ["", "difference", "p (corrected)", "could have seen"]
    header += [f"only {pair.a} / only {pair.b}"] if counted else []
    rows = [_difference(tag, difference) for tag, difference in one.tags.items()]
    rows.append(_difference("overall", one.overall))
    rows.append(_difference("all images", one.micro))
    images = f"{one.overall.images} images, {one.overall.prompts} prompts"
    return f"{pair.b} - {pair.a}, in points, {how} ({images})", header, rows


def _difference(name: str, difference: Difference) -> list[str]:
    # Of a run against one other, or of all images, there is nothing to correct for.
    corrected = "" if difference.p_holm == difference.p_value else f" ({_bare(difference.p_holm)})"
    row = [
        name,
        f"{points(difference.value)} ({span(difference)})",
        _bare(difference.p_value) + corrected + (" *" if difference.shown else ""),
        f"{100 * difference.detectable:.1f}",
    ]
    if difference.counts is not None:
        row.append(f"{difference.counts.only_a} / {difference.counts.only_b}")
    return row


def _bare(p: float) -> str:
    return p_text(p).removeprefix("p ").removeprefix("= ")


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    low, high = estimate.interval.low, estimate.interval.high
    if math.isnan(low):
        return f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _escape(text: str | Sequence[str]) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
