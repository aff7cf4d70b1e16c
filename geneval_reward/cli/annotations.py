"""`geneval-reward annotations`: a results file beside the benchmark's human annotations."""

from __future__ import annotations

import json
import math
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from geneval_reward.stats import Estimate
    from geneval_reward.study.annotations import Agreement, TaskAgreement


class Format(StrEnum):
    """How the agreement is printed."""

    table = "table"
    json = "json"


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
    format: Annotated[Format, typer.Option("--format", "-f", help="table or json.")] = Format.table,
) -> None:
    """Say how far a backend agrees with people, per task, beside the paper's figures.

    The images are public: list them with --urls, save them under the printed paths with the records beside them, score them.
    Exit code 1: some annotated images are not in the results.
    """
    from rich.console import Console

    from geneval_reward.results import read_results
    from geneval_reward.study.annotations import agreement, read_annotations

    images = read_annotations(file)
    if urls:
        for image in images:
            tail = "/".join(image.url.split("/")[-3:])
            sys.stdout.write(f"{tail}\t{image.url}\n")
        return
    if results is None:
        raise typer.BadParameter("expected a results file, or --urls, got neither", param_hint="RESULTS")
    found = agreement(images, read_results(results), criterion=by.value)
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    for note in found.notes:
        messages.print(f"note: {note}")
    if format is Format.json:
        sys.stdout.write(json.dumps(_to_dict(found), indent=2) + "\n")
    else:
        _print(found)
    if any("are not in" in note for note in found.notes):
        raise typer.Exit(1)


def _print(found: Agreement) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from geneval_reward.study.annotations import PAPER

    table = Table(
        "task", "images", "with people", "between people", "majority", "unanimous", "kappa", box=box.SIMPLE_HEAD
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name, one in [*found.tags.items(), ("all", found.overall)]:
        table.add_row(
            name,
            str(one.images),
            _percent(one.annotators),
            _percent(one.between),
            _percent(one.majority),
            _percent(one.unanimous),
            _kappa(one),
            style="bold" if name == "all" else "",
        )
    table.add_section()
    table.add_row(
        "the paper", "1,200", *(f"{100 * PAPER[key]:.0f}" for key in ("annotators", "between annotators")), "", "91"
    )
    Console(highlight=False).print(table)
    sys.stdout.write(
        f"per cent that agree, 95 % intervals over prompts; people find {100 * found.overall.people:.0f} % correct, the backend "
        f"{100 * found.overall.backend:.0f} %\n"
    )


def _kappa(one: TaskAgreement) -> str:
    if math.isnan(one.kappa):
        return "-"
    span = "" if math.isnan(one.kappa_low) else f" [{one.kappa_low:.2f}, {one.kappa_high:.2f}]"
    return f"{one.kappa:.2f}{span}"


def _percent(one: Estimate | None) -> str:
    if one is None:
        return "-"
    if math.isnan(one.interval.low):
        return f"{100 * one.value:.0f}"
    return f"{100 * one.value:.0f} [{100 * one.interval.low:.0f}, {100 * one.interval.high:.0f}]"


def _to_dict(found: Agreement) -> dict[str, Any]:
    from geneval_reward.study.annotations import PAPER

    return {
        "criterion": found.criterion,
        "overall": _task(found.overall),
        "tags": {tag: _task(one) for tag, one in found.tags.items()},
        "paper": PAPER,
        "notes": list(found.notes),
    }


def _task(one: TaskAgreement) -> dict[str, Any]:
    return {
        "images": one.images,
        **{name: _estimate(getattr(one, name)) for name in ("annotators", "between", "majority", "unanimous")},
        **{
            name: None if math.isnan(getattr(one, name)) else round(getattr(one, name), 6)
            for name in ("kappa", "kappa_low", "kappa_high", "people", "backend")
        },
    }


def _estimate(one: Estimate | None) -> dict[str, Any] | None:
    if one is None:
        return None
    ends = {"low": one.interval.low, "high": one.interval.high}
    return {"value": round(one.value, 6)} | {
        name: None if math.isnan(end) else round(end, 6) for name, end in ends.items()
    }
