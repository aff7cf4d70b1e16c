"""Printing what a command found, in the format that the user asked for, and how far it has come."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from geneval_reward.results.tables import Document
    from geneval_reward.study.summary import Summary

# A pipe or a file has no width of its own, and rich would take 80 columns for it.
_PIPE_WIDTH = 160


class Format(StrEnum):
    """The formats in which a table can be printed."""

    table = "table"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"


def message_console() -> Console:
    """Make the console for messages: standard error, and no text of others is read as markup."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_document(document: Document, format: str) -> None:
    """Print a document on standard output."""
    from geneval_reward.results.tables import render
    from geneval_reward.results.terminal import terminal

    if format == Format.table:
        console = Console(
            highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
        )
        console.print(terminal(document, console.width))
    else:
        sys.stdout.write(render(document, format))


def print_summary(summary: Summary, format: str = Format.table) -> None:
    """Print the table of a results file, and its problems on standard error unless the format has a place for them."""
    document = summary.document()
    print_document(replace(document, problems=()) if format == Format.table else document, format)
    if format != Format.json:
        print_notes(summary.problems)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes on standard error, one per line."""
    messages = message_console()
    for note in notes:
        messages.print(f"note: {note}")


@contextmanager
def quiet_about_cut_lines() -> Iterator[None]:
    """Silence the warning of a results file whose last line is cut off, where the command reports it itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*the last line is cut off", UserWarning)
        yield


def progress_bar(messages: Any, what: str, *, note: bool = False, quiet: bool = False) -> Any:
    """Make a progress bar with counts and times.

    Args:
        messages: Console to show it on.
        what: Text before the bar.
        note: Whether to show the field `note` of a task behind its count.
        quiet: Whether to show nothing, because another process shows the bar.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    notes = [TextColumn("{task.fields[note]}")] if note else []
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), *notes, TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=messages, disable=quiet)
