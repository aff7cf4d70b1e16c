"""``geneval-reward summary``: the benchmark's table from a results file, also under other rules."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from geneval_reward.cli.options import RulesText
from geneval_reward.cli.tables import print_summary, summary_csv


class Format(StrEnum):
    """How a summary is printed."""

    table = "table"
    json = "json"
    csv = "csv"


def summary(
    results: Annotated[Path, typer.Argument(help="A results file of ours or of the official script.")],
    format: Annotated[Format, typer.Option("--format", "-f", help="table, json or csv.")] = Format.table,
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
        text = json.dumps(found.to_dict(), indent=2) + "\n" if format is Format.json else summary_csv(found)
        sys.stdout.write(text)
        if format is Format.csv:
            for problem in found.problems:
                messages.print(f"note: {problem}", soft_wrap=True)
    if not found.complete:
        raise typer.Exit(1)
