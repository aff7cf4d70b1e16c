"""`geneval-reward summary`: the benchmark's table from a results file, also under other rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneval_reward.cli.shared.options import Credit
from geneval_reward.cli.shared.tables import (
    Format,
    message_console,
    print_document,
    print_notes,
    print_summary,
    quiet_about_cut_lines,
)
from geneval_reward.errors import UsageError


def summary(
    results: Annotated[Path, typer.Argument(help="A results file of ours or of the official script.")],
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the score.")] = Format.table,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rules",
            help="Judge again: field=value pairs that change the file's rules, or a profile (geneval, lite) with pairs after it; "
            "or a range, such as confidence=.1:.9:.1, for a table and a picture over it. Repeatable.",
        ),
    ] = None,
    credit: Credit = "official",
    plot: Annotated[
        Path | None, typer.Option("--plot", help="The picture of a range of rules.", show_default="RESULTS.rules.png")
    ] = None,
) -> None:
    """Print the score of a results file.

    Every score has an interval, and what is missing from the file is named. `--rules` judges the stored detections again.

    Examples:
        geneval-reward summary run.jsonl
        geneval-reward summary run.jsonl --rules confidence=0.3 --format csv
        geneval-reward summary run.jsonl --rules confidence=.1:.9:.1

    Exit code 1: printed, but the file is not complete.
    """
    from geneval_reward.results import read_results
    from geneval_reward.study import rules_grid
    from geneval_reward.study.summary import summarize

    with quiet_about_cut_lines():
        found = read_results(results)
    if rules_grid.is_grid(rules or ()):
        grid = rules_grid.judge_grid(found, rules or (), credit)
        print_document(grid.document(), format)
        print_notes(grid.notes)
        messages = message_console()
        try:
            picture = plot or results.with_name(f"{results.stem}.rules.png")
            messages.print(f"picture: {rules_grid.save_plot(grid, picture)}")
        except ImportError as error:
            messages.print(f"no picture: {error}")
        complete = grid.complete
    elif plot is not None:
        raise UsageError("plot: expected a range of rules to draw, such as --rules confidence=.1:.9:.1, got none")
    else:
        made = summarize(found, credit, ",".join(rules) if rules else None)
        print_summary(made, format)
        complete = made.complete
    if not complete:
        raise typer.Exit(1)
