"""`geneval-reward compare`: results files on the same prompts and noise, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geneval_reward.cli.shared.options import Credit
from geneval_reward.cli.shared.tables import Format, message_console, print_document, quiet_about_cut_lines


def compare(
    files: Annotated[list[Path], typer.Argument(help="Results files; each is compared with the first.")],
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the comparison.")] = Format.table,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw it: a .png, .svg or .pdf file.")] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="A name for each file, in order.")] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="Compare in spite of a difference in: prompts, rules, backend or fingerprint."),
    ] = None,
    credit: Credit = "official",
    level: Annotated[float, typer.Option("--level", min=0.5, max=0.9999, help="Level of the intervals.")] = 0.95,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compare results files of the same prompts, image by image.

    It says which differences are shown, and how small a difference would have been visible. Files that are not comparable are
    refused.

    Examples:
        geneval-reward compare base.jsonl lora.jsonl --plot difference.png
        geneval-reward compare a.jsonl b.jsonl c.jsonl --credit partial --format csv

    Exit code 1: compared, but something weakens the comparison; it is named first.
    """
    from geneval_reward.study.compare import compare_files
    from geneval_reward.study.compare.render import document

    with quiet_about_cut_lines():
        comparison = compare_files(
            files, names=name, allow=allow or (), credit=credit, draws=draws, seed=seed, level=level
        )
    print_document(document(comparison), format)
    messages = message_console()
    if format is not Format.table:  # which shows them on standard output, above the tables
        for problem in comparison.problems:
            messages.print(f"{'!' if problem.serious else 'note:'} {problem.text}")
    if plot is not None:
        from geneval_reward.study.compare.plot import save_plot

        messages.print(f"plot: {save_plot(comparison, plot)}")
    if any(problem.serious for problem in comparison.problems):
        raise typer.Exit(1)
