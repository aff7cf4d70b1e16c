"""``geneval-reward summary``: the benchmark's table from a results file, also under other rules."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from geneval_reward.cli.options import RulesText
from geneval_reward.cli.tables import print_summary, summary_text


class Format(StrEnum):
    """How a summary is printed."""

    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


def summary(
    results: Annotated[Path, typer.Argument(help="A results file of ours or of the official script.")],
    format: Annotated[
        Format, typer.Option("--format", "-f", help="table, json, csv, markdown or latex.")
    ] = Format.table,
    rules: RulesText = None,
    credit: Annotated[
        str, typer.Option("--credit", help="official, strict, partial, dense or flow_grpo.")
    ] = "official",
) -> None:
    """Print the score of a results file with intervals and what is missing; --rules judges stored detections again."""
    from geneval_reward.results import read_results
    from geneval_reward.summary import summarize

    found = summarize(read_results(results), credit, rules)
    messages = Console(stderr=True, highlight=False)
    if format is Format.table:
        print_summary(found, Console(highlight=False), messages)
    else:
        sys.stdout.write(summary_text(found, format.value))
        if format is not Format.json:  # which holds them
            for problem in found.problems:
                messages.print(f"note: {problem}", soft_wrap=True)
    if not found.complete:
        raise typer.Exit(1)
