"""Summaries as text."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from geneval_reward.stats import Estimate
    from geneval_reward.summary import Summary


def print_summary(summary: Summary, output: Console, messages: Console) -> None:
    """Print the benchmark's table with intervals on ``output``, and what is wrong with it on ``messages``."""
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
    if found.suite == "official" and found.complete and not summary.failed:
        output.print(
            f"complete: all {found.expected} prompts of the official suite, {found.images_per_prompt} images each"
        )
    elif found.suite == "official":
        output.print(f"[bold]NOT the full suite[/]: {found.prompts} of {found.expected} prompts")
    else:
        output.print(f"{found.prompts} prompts, not of the official suite")
    for problem in summary.problems:
        messages.print(f"note: {problem}", soft_wrap=True)


def summary_csv(summary: Summary) -> str:
    """The table as CSV: name, value, low, high, images, prompts."""
    data = summary.to_dict()
    rows = [*data["tags"].items(), ("overall", data["overall"]), ("images_correct", data["images_correct"])]
    rows += [("prompts_correct", data["prompts_correct"])] if data["prompts_correct"] else []
    rows += [(f"pass@{k}", estimate) for k, estimate in data["pass_at_k"].items()]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["name", "value", "low", "high", "images", "prompts"], lineterminator="\n")
    writer.writeheader()
    for name, estimate in rows:
        writer.writerow({"name": name, **estimate})
    return buffer.getvalue()


def _cells(estimate: Estimate) -> tuple[str, str, str, str]:
    interval = estimate.interval
    return (
        f"{estimate.value:.4f}",
        f"{interval.low:.3f} .. {interval.high:.3f}",
        str(estimate.images),
        str(estimate.prompts),
    )
