"""`geneval-reward prompts`: print the official suite or training prompts."""

from __future__ import annotations

import sys
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geneval_reward.prompts import (
    DEFAULT_MIX,
    TAGS,
    Vocabulary,
    counterfactual_prompts,
    official_suite,
    training_prompts,
)
from geneval_reward.prompts.vocabulary import sort_tags
from geneval_reward.support.counts import counted
from geneval_reward.support.imports import is_import_path


class Format(StrEnum):
    """The formats in which prompts can be printed."""

    jsonl = "jsonl"
    txt = "txt"


def prompts(
    suite: Annotated[bool, typer.Option("--suite", help="Print the official suite, which is the default.")] = False,
    train: Annotated[
        int | None, typer.Option("--train", metavar="N", min=0, help="Print N training prompts instead.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the training prompts.")] = 0,
    unique: Annotated[
        bool, typer.Option("--unique", help="Draw no two training prompts with the same meaning.")
    ] = False,
    mix: Annotated[
        str | None, typer.Option("--mix", help="Task weights, such as 'position=7,counting=5'.", show_default=False)
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Print only the suite's prompts of this task.")] = None,
    pairs: Annotated[
        bool,
        typer.Option(
            "--counterfactual",
            help="Print the prompts that have an opposite (relations reversed, colours exchanged), each followed by it; "
            "`summary` then gives the share of pairs with both images right.",
        ),
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="FILE",
            help="Read a file of records, sentences or image metadata, one per line, and name every problem with its line; the "
            "exit code is 1 if there is one.",
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            "-b",
            help="With --check: what will judge; module:attribute for a scorer with words of its own.",
        ),
    ] = "lite",
    format: Annotated[
        Format, typer.Option("--format", "-f", help="Print records as JSON lines, or texts.")
    ] = Format.jsonl,
) -> None:
    """Print the official suite or prompts to train on, or check a file of your own.

    The suite is printed byte for byte. No training prompt means the same as one of the suite.

    Examples:
        geneval-reward prompts --format txt --task counting
        geneval-reward prompts --train 50000 --unique > train.jsonl
        geneval-reward prompts --check my_prompts.jsonl
    """
    if check is not None:
        if suite or pairs or train is not None or task is not None:
            raise typer.BadParameter(
                "expected it alone or with --backend, got what to print as well", param_hint="--check"
            )
        _check(check, backend)
        return
    if suite and train is not None:
        raise typer.BadParameter("expected --suite or --train, got both")
    if train is None:
        if task is not None and task not in TAGS:
            raise typer.BadParameter(f"expected one of {', '.join(TAGS)}, got {task!r}", param_hint="--task")
        specs = [spec for spec in official_suite() if task in (None, spec.tag)]
    else:
        specs = training_prompts(train, seed, mix=_parse_mix(mix), unique=unique)
    if pairs:
        specs = counterfactual_prompts(specs, held_out=train is not None)
    for spec in specs:
        sys.stdout.write((spec.to_json() if format is Format.jsonl else spec.prompt) + "\n")


def _check(path: Path, backend: str) -> None:
    from geneval_reward.results.check import check_file

    vocabulary = Vocabulary()
    if is_import_path(backend):
        from geneval_reward.scorer import LazyScorer

        vocabulary = getattr(LazyScorer(backend).load(), "vocabulary", vocabulary)
    found = check_file(path, vocabulary)
    for problem in found.problems:
        typer.echo(f"{path} {problem}")
    counts = Counter(spec.tag for spec in found.specs)
    tasks = ", ".join(f"{name} {counts[name]:,}" for name in sort_tags(counts))
    typer.echo(f"{counted(len(found.specs), 'prompt')} can be judged" + (f": {tasks}" if tasks else ""))
    if found.repeated:
        typer.echo(
            f"{counted(len(found.repeated), 'record', 'stand')} on an earlier line too, the first of them on line "
            f"{found.repeated[0]}"
        )
    if found.problems or not found.specs:
        typer.echo(f"{counted(len(found.problems), 'line')} cannot be used")
        raise typer.Exit(1)


def _parse_mix(text: str | None) -> dict[str, int]:
    if text is None:
        return dict(DEFAULT_MIX)
    mix = {}
    for part in text.split(","):
        tag, _, weight = part.partition("=")
        try:
            mix[tag.strip()] = int(weight)
        except ValueError as error:
            raise typer.BadParameter(f"expected task=weight pairs, got {part!r}", param_hint="--mix") from error
    return mix
