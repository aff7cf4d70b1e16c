r"""Tables for people and for programs: the terminal, Markdown, LaTeX, CSV and JSON.

Prompts, file names and names of runs are written by other people. This is the only place where text is escaped for the
format that it goes into, so a cell stays a cell whatever it holds.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final

from geneval_reward.errors import UsageError

FORMATS: Final = ("table", "markdown", "latex", "csv", "json")

_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
}
# Spreadsheets take a cell that begins with one of these for a formula; the wide forms are those of Asian keyboards.
_FORMULA: Final = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        title: What the table shows; empty for none.
        header: Column names. The first column is set left, the others right.
        rows: Cells, as many as the header has. A row without cells is a rule. None is an empty cell.
        notes: Sentences to print under the table.
        strong: Numbers of the rows that a terminal shows in bold.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    notes: Sequence[str] = ()
    strong: Collection[int] = ()


@dataclass(frozen=True)
class Document:
    """What a command prints, whichever format is asked for.

    Attributes:
        tables: Tables with formatted cells, for the terminal, Markdown and LaTeX.
        values: One table of plain values, for CSV.
        record: Plain values by name, for JSON; numbers that are not finite become null.
        title: Heading of the Markdown form; empty for none.
        problems: Sentences that a reader must know before the tables.
        conclusions: Sentences that follow the tables.
    """

    tables: Sequence[Table]
    values: Table
    record: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    problems: Sequence[str] = ()
    conclusions: Sequence[str] = ()


def render(document: Document, format: str, *, width: int = 160) -> str:
    r"""Turn a document into text.

    Args:
        document: What to print.
        format: One of `FORMATS`. LaTeX needs the package `booktabs`.
        width: Columns of the terminal; only used by the format `table`.

    Returns:
        Text that ends with a newline.

    Raises:
        UsageError: If the format is unknown.

    Examples:
        >>> table = Table("", ["model", "score"], [["a|b", "0.5"]])
        >>> print(render(Document([table], table), "markdown"), end="")
        | model | score |
        |---|---:|
        | a\|b | 0.5 |
    """
    if format == "table":
        from rich.console import Console

        from geneval_reward.results.terminal import terminal

        console = Console(width=width, file=io.StringIO(), highlight=False)
        with console.capture() as capture:
            console.print(terminal(document, width))
        return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
    if format == "markdown":
        return _markdown(document)
    if format == "latex":
        return _latex(document)
    if format == "csv":
        return _csv(document.values)
    if format == "json":
        return json.dumps(finite(document.record), indent=2, allow_nan=False) + "\n"
    raise UsageError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")


def html(document: Document) -> str:
    """Render a document as HTML for a notebook, with the notes under their tables.

    Examples:
        >>> table = Table("", ["model", "score"], [["<b>", "0.5"]])
        >>> html(Document([table], table))
        '<table><thead><tr><th>model</th><th>score</th></tr></thead><tbody><tr><td>&lt;b&gt;</td><td>0.5</td></tr></tbody></table>'
    """

    def line(name: str, cells: Iterable[object], open_: str = "<tr>") -> str:
        return open_ + "".join(f"<{name}>{escape(plain_text(cell_text(cell)))}</{name}>" for cell in cells) + "</tr>"

    parts = [f"<p><b>! {escape(plain_text(problem))}</b></p>" for problem in document.problems]
    for table in document.tables:
        title = f"<caption>{escape(plain_text(table.title))}</caption>" if table.title else ""
        rows = (
            line("td", row, '<tr style="font-weight: bold">' if number in table.strong else "<tr>")
            for number, row in enumerate(table.rows)
            if row
        )
        head = f"<thead>{line('th', table.header)}</thead>"
        parts.append(f"<table>{title}{head}<tbody>{''.join(rows)}</tbody></table>")
        parts += [f"<p><small>{escape(plain_text(note))}</small></p>" for note in table.notes]
    parts += [f"<p>{escape(plain_text(conclusion))}</p>" for conclusion in document.conclusions]
    return "".join(parts)


def finite(value: Any) -> Any:
    """Copy nested mappings and sequences with None in the place of numbers that are not finite.

    Examples:
        >>> finite({"low": float("nan"), "values": (1, float("inf"))})
        {'low': None, 'values': [1, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _markdown(document: Document) -> str:
    blocks = [f"# {_markdown_cell(document.title)}"] if document.title else []
    if document.problems:
        blocks.append("\n>\n".join(f"> **!** {_markdown_cell(problem)}" for problem in document.problems))
    for table in document.tables:
        blocks += [f"**{_markdown_cell(table.title)}**"] if table.title else []
        blocks.append(markdown_table(table.header, table.rows))
        blocks += [_markdown_cell(note) for note in table.notes]
    blocks += [_markdown_cell(conclusion) for conclusion in document.conclusions]
    return "\n\n".join(blocks) + "\n"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""Render a table alone as Markdown, without a newline at its end.

    Args:
        header: Column names; the first column is set left, the others right.
        rows: Cells, as many as the header has.

    Examples:
        >>> print(markdown_table(["prompt"], [["<b>bold</b> | [link](x)"]]))
        | prompt |
        |---|
        | &lt;b&gt;bold&lt;/b&gt; \| [link]\(x) |
    """
    lines = ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in (header, *rows) if row]
    return "\n".join([lines[0], "|---" + "|---:" * (len(header) - 1) + "|", *lines[1:]])


def _markdown_cell(cell: object) -> str:
    """Text that cannot end a cell or a line, and cannot become HTML, a link or an image."""
    text = plain_text(cell_text(cell)).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def _latex(document: Document) -> str:
    parts = [_latex_comment(problem) for problem in document.problems]
    for table in document.tables:
        columns = "l" + "r" * (len(table.header) - 1)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row(table.header), r"\midrule"]
        lines += [_latex_row(row) if row else r"\midrule" for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}"]
        if table.title:
            caption = rf"\caption{{{_latex_cell(table.title)}}}"
            lines = [r"\begin{table}", r"\centering", caption, *lines, r"\end{table}"]
        parts += [*lines, *map(_latex_comment, table.notes), ""]
    return "\n".join([*parts, *map(_latex_comment, document.conclusions)]).rstrip("\n") + "\n"


def _latex_comment(text: str) -> str:
    # A comment ends with its line, so no line break may be left in the text.
    return "% " + " ".join(text.split())


def _latex_row(cells: Sequence[object]) -> str:
    line = " & ".join(map(_latex_cell, cells)) + r" \\"
    # After `\\` and `\midrule` a bracket would begin an optional argument, and a star would be swallowed.
    return "{}" + line if line.startswith(("[", "*")) else line


def _latex_cell(cell: object) -> str:
    return "".join(_LATEX.get(character, character) for character in plain_text(cell_text(cell)))


def _csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([_csv_cell(cell) for cell in row] for row in (table.header, *table.rows) if row)
    return buffer.getvalue()


def _csv_cell(cell: object) -> object:
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if not isinstance(cell, str):
        return cell
    # The csv module does not quote a lone carriage return, which readers take for the end of a line.
    text = cell.replace("\r", " ")
    # With an apostrophe before it, a spreadsheet shows the text instead of calculating it.
    return "'" + text if text.lstrip().startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None


def cell_text(cell: object) -> str:
    """Write a cell; None is an empty one."""
    return "" if cell is None else str(cell)


def plain_text(text: str) -> str:
    """A text in one line, without the control characters that move a terminal's cursor."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text).split())
