"""`geneval-reward compare`: results files on the same prompts and noise, with intervals."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How the comparison is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"


def compare(
    files: Annotated[list[Path], typer.Argument(help="Results files; each is compared with the first.")],
    output: Annotated[Format, typer.Option("--format", "-f", help="How to print it.")] = Format.TABLE,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw it: a .png, .svg or .pdf file.")] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="What to call each file, in order.")] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="Compare in spite of a difference in: prompts, rules, backend or fingerprint."),
    ] = None,
    credit: Annotated[str, typer.Option(help="official, strict, partial, dense or flow_grpo.")] = "official",
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Compare results files of the same prompts, image by image.

    Says which differences are shown, and how large a difference would have been. Refuses files that are not comparable.
    Exit code 1: compared, but something weakens the comparison; it is named first.
    """
    from rich.console import Console

    from geneval_reward.study.compare import compare_files
    from geneval_reward.study.compare.render import to_csv, to_json, to_latex, to_markdown, to_rich

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a cut last line: it stands among the problems
        comparison = compare_files(
            files, names=name, allow=allow or (), credit=credit, draws=draws, seed=seed, level=level
        )
    if output is Format.TABLE:
        Console().print(to_rich(comparison))
    else:
        makers = {Format.MARKDOWN: to_markdown, Format.LATEX: to_latex, Format.CSV: to_csv, Format.JSON: to_json}
        typer.echo(makers[output](comparison), nl=False)
        for problem in comparison.problems:
            typer.echo(f"{'!' if problem.serious else 'note:'} {problem.text}", err=True)
    if plot is not None:
        from geneval_reward.study.compare.plot import save_plot

        typer.echo(f"plot: {save_plot(comparison, plot)}", err=True)
    if any(problem.serious for problem in comparison.problems):
        raise typer.Exit(1)
