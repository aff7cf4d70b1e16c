"""`geneval-reward summary --rules confidence=.1:.9:.1`: a table and a picture over a grid of thresholds."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from geneval_reward.errors import UsageError

if TYPE_CHECKING:
    from geneval_reward.results import Results


def print_rules_grid(results: Results, rules: Sequence[str], credit: str, form: str, plot: Path | None) -> bool:
    """Judge a file's detections over a grid, print the table and write the picture.

    Args:
        results: What the file holds.
        rules: Values of `--rules`.
        credit: What is averaged.
        form: `table`, `json`, `csv` or `markdown`.
        plot: The picture; None: beside the file, as `NAME.rules.png`.

    Returns:
        Whether the file is complete, as for a summary without a grid.

    Raises:
        ValueError: For another format.
    """
    from rich import box
    from rich.table import Table

    from geneval_reward.study.rules_grid import cells_of, judge_grid, save_plot, to_dict

    if form not in ("table", "json", "csv", "markdown"):
        raise UsageError(f"format: expected table, json, csv or markdown for a grid of rules, got {form!r}")
    grid = judge_grid(results, rules, credit)
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    header, rows = cells_of(grid)
    if form == "json":
        sys.stdout.write(json.dumps(to_dict(grid), indent=2) + "\n")
    elif form == "csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([header, *rows])
        sys.stdout.write(buffer.getvalue())
    elif form == "markdown":
        lines = ["| " + " | ".join(header) + " |", "|" + "---:|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        sys.stdout.write("\n".join(lines) + "\n")
    else:
        table = Table(*header, box=box.SIMPLE_HEAD)
        for column in table.columns:
            column.justify = "right"
        for column in table.columns[1:]:
            column.no_wrap = True
        for row in rows:
            table.add_row(*row)
        Console(highlight=False).print(table)
    for note in grid.notes:
        messages.print(f"note: {note}")
    try:
        messages.print(f"picture: {save_plot(grid, plot or results.path.with_name(f'{results.path.stem}.rules.png'))}")
    except ImportError as error:
        messages.print(f"no picture: {error}")
    return grid.complete
