"""Summaries as text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from geneval_reward.study.tables import comma_separated, latex, markdown

if TYPE_CHECKING:
    from geneval_reward.stats import Estimate
    from geneval_reward.study.summary import Summary


def print_summary(summary: Summary, output: Console, messages: Console) -> None:
    """Print the benchmark's table with intervals on `output`, and what is wrong with it on `messages`."""
    scores, found = summary.scores, summary.completeness
    judged = f"{summary.backend or 'unknown backend'} {summary.fingerprint or ''}".strip()
    table = Table(title=f"GenEval, credit {summary.credit}, judged by {judged}", title_justify="left")
    for name, justify in (
        ("", "left"),
        ("score", "right"),
        ("95 % interval", "right"),
        ("images", "right"),
        ("prompts", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for tag, estimate in scores.tags.items():
        table.add_row(tag, *_cells(estimate))
    table.add_section()
    overall = (
        "overall"
        if not found.missing_tags
        else f"overall of {len(scores.tags)} of {len(scores.tags) + len(found.missing_tags)} tasks"
    )
    table.add_row(f"[bold]{overall}[/]", *_cells(scores.overall))
    table.add_row("correct images", *_cells(scores.micro))
    if scores.pass_any is not None:
        table.add_row("correct prompts (any image)", *_cells(scores.pass_any))
    for k, estimate in scores.pass_at_k.items():
        if k > 1:
            table.add_row(f"pass@{k}", *_cells(estimate))
    output.print(table)
    if found.suite == "official" and summary.complete:
        output.print(
            f"complete: all {found.expected} prompts of the official suite, {found.images_per_prompt} images each"
        )
    elif found.suite == "official" and found.prompts >= found.expected:
        output.print(f"[bold]NOT complete[/]: {found.prompts} of {found.expected} prompts, but see the notes")
    elif found.suite == "official":
        output.print(f"[bold]NOT the full suite[/]: {found.prompts} of {found.expected} prompts")
    else:
        output.print(f"{found.prompts} prompts, not of the official suite")
    for problem in summary.problems:
        messages.print(f"note: {problem}", soft_wrap=True)


def summary_text(summary: Summary, format: str) -> str:
    """The table as json, csv (name, value, low, high, images, prompts), markdown or latex (for `booktabs`)."""
    data = summary.to_dict()
    if format == "json":
        return json.dumps(data, indent=2) + "\n"
    rows = [*data["tags"].items(), ("overall", data["overall"]), ("images_correct", data["images_correct"])]
    rows += [("prompts_correct", data["prompts_correct"])] if data["prompts_correct"] else []
    rows += [(f"pass@{k}", estimate) for k, estimate in data["pass_at_k"].items()]
    keys = ["value", "low", "high", "images", "prompts"]
    if format == "csv":
        return comma_separated(["name", *keys], [[name, *(one[key] for key in keys)] for name, one in rows])
    lines = [[name.replace("_", " "), *(_number(one[key]) for key in keys)] for name, one in rows]
    title = f"GenEval, credit {summary.credit}, {summary.standing}; 95% intervals, clustered by prompt"
    header = ["", *keys]
    return latex(header, lines, title) if format == "latex" else f"{title}\n\n{markdown(header, lines)}"


def _number(value: float | int | None) -> str:
    return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _cells(estimate: Estimate) -> tuple[str, str, str, str]:
    interval = estimate.interval
    return (
        f"{estimate.value:.4f}",
        f"{interval.low:.3f} .. {interval.high:.3f}",
        str(estimate.images),
        str(estimate.prompts),
    )
