"""`geneval-reward report`: one results file, or several compared, as one HTML page, figures or tables."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """The formats in which a report can be written."""

    html = "html"
    latex = "latex"
    markdown = "markdown"
    csv = "csv"
    json = "json"


def report(
    files: Annotated[list[Path], typer.Argument(help="Results files; several are compared with the first.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            "-i",
            help="Folder with the images of a file, once per file.",
            show_default="looked for beside the file",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file.", show_default="report.html; tables go to standard output"),
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="A page (html), or tables alone.")] = Format.html,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Also write the figures as PNG and SVG into this folder.")
    ] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="A name for each file, in order.")] = None,
    title: Annotated[str | None, typer.Option("--title", help="The page's heading.")] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="Compare in spite of a difference in: prompts, rules, backend or fingerprint."),
    ] = None,
    published: Annotated[int, typer.Option("--published", min=0, help="Number of published models to show.")] = 5,
    beside: Annotated[
        list[str] | None, typer.Option("--beside", help="Show only published models with this in their names.")
    ] = None,
    max_mb: Annotated[
        float, typer.Option("--max-mb", min=0.2, help="Largest size of the page; larger pages show larger pictures.")
    ] = 5.0,
) -> None:
    """Write a page with scores, failures by reason and every image.

    Scores have intervals and stand beside published models; images show their boxes and the reasons of their verdicts. Several
    files are compared with the first.

    Examples:
        geneval-reward report run.jsonl --images samples
        geneval-reward report base.jsonl lora.jsonl --out lora.html --figures figures
        geneval-reward report run.jsonl --format latex

    Exit code 1: written, but something is missing or weakens the figures; it stands at the top of the page.
    """
    from geneval_reward.study.report.collect import collect

    made = collect(
        files,
        images or (),
        names=name,
        title=title,
        allow=allow or (),
        published=published,
        models=beside or (),
        command=shlex.join(["geneval-reward", *sys.argv[1:]]),
    )
    if format is Format.html:
        from geneval_reward.study.report.html import write_html

        path = write_html(made, out or Path("report.html"), max_bytes=int(max_mb * 1e6))
        typer.echo(f"report: {path}")
    else:
        from geneval_reward.results.tables import render
        from geneval_reward.study.report.text import document
        from geneval_reward.support.files import write_whole

        text = render(document(made), format.value)
        if out is None:
            typer.echo(text, nl=False)
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, text)
            typer.echo(f"report: {out}", err=True)
    if figures is not None:
        from geneval_reward.study.report.figures import save_figures

        for path in save_figures(made, figures):
            typer.echo(f"figure: {path}", err=True)
    for problem in made.problems:
        typer.echo(f"note: {problem}", err=True)
    if not made.complete:
        raise typer.Exit(1)
