"""Plot a sweep: score against seconds per image, with intervals. Needs matplotlib (extra `report`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from geneval_reward.errors import UsageError
from geneval_reward.results.notation import percent_text
from geneval_reward.study.figures import PALETTE, error_bars, estimate_bars, new_axes, plain_text, save_figure, style_of
from geneval_reward.study.sweep.table import SweepRow, SweepTable
from geneval_reward.support.counts import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS: Final = 40
"""The most settings that are named in the picture; of more, only the front and the best one are."""


def plot(table: SweepTable) -> Figure:
    """Draw a sweep.

    Settings are coloured by the last axis that has few values. A hollow mark means that the metric chose the images. A ring
    marks the best of several settings; its label is the score of that choice on prompts that played no part in it.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
        UsageError: If no setting was timed.
    """
    figure, axes = new_axes(8.5, 5.5)
    rows = [row for row in table.rows if not math.isnan(row.timing.seconds)]
    if not rows:
        raise UsageError("table: expected a setting with timed images, got none")
    axis = _color_axis(rows)
    values = list(dict.fromkeys(str(dict(row.cell.values).get(axis)) for row in rows)) if axis else [""]
    for number, value in enumerate(values):
        own = [row for row in rows if not axis or str(dict(row.cell.values).get(axis)) == value]
        _draw(axes, own, number, plain_text(f"{axis} {value}") if axis else "")
    front = sorted((row for row in rows if row.front), key=lambda row: row.timing.seconds)
    if len(front) > 1:
        x, y = [row.timing.seconds for row in front], [row.overall.value for row in front]
        axes.step(x, y, where="post", color="0.6", linewidth=1, linestyle=":", label="best so far", zorder=1)
    _draw_selection(axes, table)
    _label(axes, rows, axis)
    _scale_seconds(axes, [row.timing.seconds for row in rows])
    axes.set_ylabel(f"score, {percent_text(table.level)} intervals")
    part = "" if table.prompts == table.whole else f" of {table.whole}"
    title = f"{counted(len(table.rows), 'setting')}, {table.prompts}{part} prompts x {table.images_per_prompt}"
    axes.set_title(title, loc="left", fontsize=10)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        # Use two rows of equal length where they fit.
        columns = len(handles) if len(handles) < 4 else min(4, (len(handles) + 1) // 2)
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    return figure


def save_plot(table: SweepTable, path: str | Path) -> Path:
    """Draw a sweep into a file; see `geneval_reward.study.figures.save_figure` for what can be written and raised."""
    return save_figure(plot(table), path)


def _scale_seconds(axes: Axes, seconds: list[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(seconds) / 1.5, max(seconds) * 1.9)
    axes.set_xlabel("seconds per image")


def _color_axis(rows: list[SweepRow]) -> str | None:
    """Pick the last axis with two to seven values, so that a reader follows the first axis along one colour."""
    for name in reversed([name for name, _ in rows[0].cell.values]):
        count = len({str(dict(row.cell.values)[name]) for row in rows})
        if 2 <= count <= len(PALETTE) and len(rows) > count:
            return name
    return None


def _draw(axes: Axes, rows: list[SweepRow], number: int, label: str) -> None:
    color, mark = style_of(number)
    for chosen in (False, True):
        own = [row for row in rows if (row.best_of > 1) is chosen]
        if not own:
            continue
        x = [row.timing.seconds for row in own]
        y = [row.overall.value for row in own]
        axes.errorbar(
            x,
            y,
            xerr=error_bars(x, [row.timing.low for row in own], [row.timing.high for row in own]),
            yerr=estimate_bars([row.overall for row in own]),
            fmt=mark,
            color=color,
            markerfacecolor="white" if chosen else color,
            markersize=6,
            capsize=2,
            linewidth=1,
            label=(label + (" (images chosen by the metric)" if chosen else "")).strip() or None,
        )


def _draw_selection(axes: Axes, table: SweepTable) -> None:
    best = table.selected
    if best is None or math.isnan(best.timing.seconds):
        return
    x, y = best.timing.seconds, best.overall.value
    axes.plot([x], [y], "o", markersize=15, markerfacecolor="none", color="0.2", label="best of the grid: optimistic")
    if table.selection is None:
        return
    held = table.selection.held_out
    axes.errorbar(
        [x * 1.12],
        [held.value],
        yerr=estimate_bars([held]),
        fmt="_",
        color="0.2",
        markersize=12,
        capsize=2,
        label="the same choice on held-out prompts",
    )


def _label(axes: Axes, rows: list[SweepRow], axis: str | None) -> None:
    few = len(rows) <= _LABELS
    for row in rows:
        text = " ".join(f"{name} {value}" for name, value in row.cell.values if name != axis)
        if text and (few or row.front or row.selected):
            axes.annotate(
                plain_text(text),
                (row.timing.seconds, row.overall.value),
                xytext=(9, 7),
                textcoords="offset points",
                fontsize=7,
                color="0.25",
                # Whiskers of other settings often run through the place of a label.
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
                zorder=6,
            )
