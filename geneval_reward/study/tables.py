"""Tables as Markdown, LaTeX and CSV: the one place where cells are escaped."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Final

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
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right; ends with a newline.

    Example:
        >>> print(markdown(["model", "score"], [["a|b", "0.5"]]), end="")
        | model | score |
        |---|---:|
        | a\\|b | 0.5 |
    """
    lines = [_row(header), "|---" + "|---:" * (len(header) - 1) + "|", *map(_row, rows)]
    return "\n".join(lines) + "\n"


def markdown_cell(text: str) -> str:
    """Text that cannot end a cell, a line, or become HTML."""
    text = re.sub(r"\s+", " ", text).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("<", "&lt;").replace(">", "&gt;")


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    r"""A LaTeX table for the `booktabs` package; ends with a newline.

    Args:
        header: Column names; the first column is set left, the others right.
        rows: Cells as plain text; an empty row becomes a rule.
        caption: Plain text; none leaves the table without a float around it.

    Example:
        >>> print(latex(["", "score"], [["a_b", "50%"]]), end="")
        \begin{tabular}{lr}
        \toprule
         & score \\
        \midrule
        a\_b & 50\% \\
        \bottomrule
        \end{tabular}
    """
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", _latex_row(header), r"\midrule"]
    lines += [_latex_row(row) if row else r"\midrule" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption:
        caption_line = rf"\caption{{{latex_text(caption)}}}"
        lines = [r"\begin{table}", r"\centering", caption_line, *lines, r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    r"""Plain text with everything escaped that LaTeX would act on.

    Example:
        >>> latex_text(r"50% of \input{x}")
        '50\\% of \\textbackslash{}input\\{x\\}'
    """
    return "".join(_LATEX.get(character, character) for character in re.sub(r"\s+", " ", text))


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """CSV with a header; None becomes an empty cell.

    A text that a spreadsheet would take for a formula is kept from being one by an apostrophe before it.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(cell) for cell in header])
    writer.writerows([[_cell(cell) for cell in row] for row in rows])
    return buffer.getvalue()


def _cell(cell: object) -> object:
    return "'" + cell if isinstance(cell, str) and cell[:1] in ("=", "+", "@", "\t", "\r") else cell


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_cell, cells)) + " |"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"
