"""How a table is laid out in a terminal, so that it is whole at 80 columns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich import table as rich_table
from rich.console import Group
from rich.text import Text

from geneval_reward.results.tables import Document, Table, cell_text, plain_text


def terminal(document: Document, width: int = 160) -> Group:
    """Build what `rich` prints in a terminal; no cell is read as markup.

    Args:
        document: What to print.
        width: Columns of the terminal. A table that needs more takes more lines.
    """
    parts: list[Any] = [Text(plain_text(f"! {problem}"), style="bold yellow") for problem in document.problems]
    for table in document.tables:
        parts += [Text("")] if parts and isinstance(parts[-1], Text) and parts[-1].plain else []
        parts += [Text(plain_text(table.title), style="bold")] if table.title else []
        for block in _blocks(table, width):
            # As wide as it is: rich would squeeze what the block keeps whole.
            grid = rich_table.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
            for number, (lines, wide) in enumerate(zip(block.headers, block.widths, strict=True)):
                justify: Any = "right" if number else "left"
                grid.add_column(Text("\n".join(lines)), justify=justify, overflow="fold", width=wide)
            for number, row in enumerate(block.rows):
                if row:
                    grid.add_row(*map(Text, row), style="bold" if number in table.strong else "")
                else:
                    grid.add_section()
            parts += [grid, Text("")]
        parts += [Text(plain_text(note)) for note in table.notes]
    parts += [Text(plain_text(conclusion)) for conclusion in document.conclusions]
    return Group(*parts)


@dataclass(frozen=True)
class _Block:
    """Columns of a table that fit beside one another."""

    headers: list[list[str]]
    rows: list[list[str]]
    widths: list[int]


def _blocks(table: Table, width: int) -> list[_Block]:
    """Lay a table out for a terminal, so that no cell is cut.

    If it is too wide, intervals go below their numbers; then long texts take several lines; then columns go below the others,
    with the first one repeated.
    """
    rows = [[plain_text(cell_text(cell)) for cell in row] for row in table.rows]
    headers = _headers(table.header, rows)
    if _total(_natural(headers, rows)) > width:
        rows = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
        headers = _headers(table.header, rows)
    widths, least = _natural(headers, rows), _least(headers, rows)
    groups: list[list[int]] = [[0]]
    for number in range(1, len(headers)):
        if len(groups[-1]) > 1 and _total([least[n] for n in (*groups[-1], number)]) > width:
            groups.append([0])
        groups[-1].append(number)
    blocks = []
    for group in groups:
        own = {number: widths[number] for number in group}
        while _total(list(own.values())) > width and (loose := [n for n in group if own[n] > least[n]]):
            own[max(loose, key=own.__getitem__)] -= 1
        picked = [[row[number] for number in group] if row else [] for row in rows]
        blocks.append(_Block([headers[number] for number in group], picked, list(own.values())))
    return blocks


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1) + 1


def _headers(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Split column names into lines, so that a table of many columns still fits into 80 characters."""
    found = []
    for number, name in enumerate(names):
        cells = [len(line) for row in rows if row for line in row[number].split("\n")]
        # The name of a task or a rule may be split behind its underscore.
        text = plain_text(name).replace("_", "_ ")
        lines = textwrap.wrap(text, max([8, len(text) // 3, *cells]), break_long_words=False) or [""]
        found.append([line.replace("_ ", "_") for line in lines])
    return found


def _lines(headers: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return all lines of each column."""
    return [
        [*lines, *(line for row in rows if row for line in row[number].split("\n"))]
        for number, lines in enumerate(headers)
    ]


def _natural(headers: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, lines)) for lines in _lines(headers, rows)]


def _least(headers: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the widths below which columns would be hard to read: the longest word, number or interval, and short texts."""
    found = []
    for lines in _lines(headers, rows):
        words = [word for line in lines for word in re.findall(r"\[[^\]]*\]|\S+", line)]
        found.append(max([min(40, max(map(len, words), default=0)), *(len(line) for line in lines if len(line) <= 14)]))
    return found
