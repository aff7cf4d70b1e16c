"""`geneval-reward human-agreement`: a results file beside the benchmark's human annotations."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geneval_reward.cli.shared.tables import Format, print_document, print_notes


class By(StrEnum):
    """What makes an image correct in a person's eyes."""

    questions = "questions"
    caption = "caption"


def agreement_with_people(
    file: Annotated[Path, typer.Argument(help="annotations_{clip,if-xl,sdv2}.csv of djghosh13/geneval.")],
    results: Annotated[Path | None, typer.Argument(help="Results of scoring the annotated images.")] = None,
    by: Annotated[
        By, typer.Option("--by", help="questions: the answers held against the record; caption: it fits fully.")
    ] = By.questions,
    urls: Annotated[
        bool, typer.Option("--urls", help="Only list the images: path for `score`, and where each is.")
    ] = False,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the agreement.")] = Format.table,
) -> None:
    """Print how far a backend agrees with people, task by task.

    The paper's figures stand below. The images are public: list them with --urls, save them under the printed paths with the
    records beside them, and score them.

    Examples:
        geneval-reward human-agreement annotations_sdv2.csv --urls
        geneval-reward human-agreement annotations_sdv2.csv sdv2.jsonl

    Exit code 1: printed, but some annotated images are not in the results.
    """
    from geneval_reward.results import read_results
    from geneval_reward.study.human_agreement import agreement
    from geneval_reward.study.human_annotations import read_human_annotations

    images = read_human_annotations(file)
    if urls:
        for image in images:
            tail = "/".join(image.url.split("/")[-3:])
            sys.stdout.write(f"{tail}\t{image.url}\n")
        return
    if results is None:
        raise typer.BadParameter("expected a results file, or --urls, got neither", param_hint="RESULTS")
    found = agreement(images, read_results(results), criterion=by.value)
    if format is not Format.json:
        print_notes(found.notes)
    print_document(found.document(), format)
    if found.absent:
        raise typer.Exit(1)
