"""`geneval-reward mt-geneval`: the gender accuracy of translations, per language, beside BLEU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from geneval_reward.cli.shared.tables import Format, print_document, print_notes
from geneval_reward.errors import FileError


def mt_geneval(
    data: Annotated[Path, typer.Argument(help="The data folder of MT-GenEval: context/ and sentences/.")],
    hypotheses: Annotated[
        Path,
        typer.Argument(
            help="Folder of translations, one per line: context.LANG for the contextual set, masculine.LANG and feminine.LANG "
            "for the counterfactual one."
        ),
    ],
    split: Annotated[
        Literal["dev", "test"], typer.Option("--split", help="Which part of the benchmark was translated.")
    ] = "test",
    language: Annotated[
        list[str] | None,
        typer.Option("--language", "-l", help="Only this language. Repeatable.", show_default="all that are there"),
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the table.")] = Format.table,
) -> None:
    """Print the gender accuracy of translations, beside BLEU.

    An untranslated source scores 0.85 to 1.00, so the accuracy says nothing without the quality beside it.

    Examples:
        geneval-reward mt-geneval data translations --language de

    Exit code 1: printed, but a language lacks its translations.
    """
    from geneval_reward.judges.mt_geneval import languages
    from geneval_reward.study.translation import translation_table

    table, missing = translation_table(data, hypotheses, language or languages(data), split)
    if not table.values.rows:
        raise FileError(f"{hypotheses}: expected context.LANG or masculine.LANG and feminine.LANG, got none of them")
    print_document(replace(table, problems=()) if format is Format.table else table, format)
    if format is not Format.json:
        print_notes(missing)
    if missing:
        raise typer.Exit(1)
