"""`geneval-reward summary`: the benchmark's table from a results file, also under other rules."""

from __future__ import annotations

import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from geneval_reward.cli.shared.rules_grid import print_rules_grid
from geneval_reward.cli.shared.tables import print_summary, summary_text
from geneval_reward.errors import UsageError

if TYPE_CHECKING:
    from geneval_reward.results import Results


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
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rules",
            help="Judge again: field=value pairs that change the file's rules, or a profile (geneval, lite) with pairs after it; "
            "or a range, such as confidence=.1:.9:.1, for a table and a picture over it. Repeatable.",
        ),
    ] = None,
    credit: Annotated[
        str, typer.Option("--credit", help="official, strict, partial, dense or flow_grpo.")
    ] = "official",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="The picture of a range of rules; NAME.rules.png beside the file.")
    ] = None,
) -> None:
    """Print the score of a results file with intervals and what is missing; --rules judges stored detections again."""
    from geneval_reward.study.rules_grid import is_grid
    from geneval_reward.study.summary import summarize

    if is_grid(rules or ()):
        if not print_rules_grid(_read(results), rules or (), credit, format.value, plot):
            raise typer.Exit(1)
        return
    if plot is not None:
        raise UsageError("plot: expected a range of rules to draw, such as --rules confidence=.1:.9:.1, got none")
    found = summarize(_read(results), credit, ",".join(rules) if rules else None)
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


def _read(path: Path) -> Results:
    from geneval_reward.results import read_results

    with warnings.catch_warnings():
        # It stands among the notes; other warnings, such as of keys that are not read, do not.
        warnings.filterwarnings("ignore", "(?s).*the last line is cut off", UserWarning)
        return read_results(path)
