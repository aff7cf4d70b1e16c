"""A sweep as a picture: score against seconds per image, with intervals. Needs matplotlib (extra `report`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from geneval_reward.errors import UsageError
from geneval_reward.study.figures import save_figure
from geneval_reward.study.sweep.table import SweepRow, SweepTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers (jfly.uni-koeln.de/color, 2008).
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("o", "s", "D", "^", "v", "P", "X")
_LABELS = 40
"""So many settings are named in the picture; of more only the front and the best one."""


def plot(table: SweepTable) -> Figure:
    """Draw a sweep.

    Settings are coloured by the last axis that has few values. A hollow mark: the metric chose the images. A ring: the best of
    several, and beside it what that choice scores on prompts that had no part in it.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If no setting was timed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    except ImportError as error:
        raise ImportError("plot: expected matplotlib, got none; pip install 'geneval-reward[report]'") from error
    rows = [row for row in table.rows if not math.isnan(row.timing.seconds)]
    if not rows:
        raise UsageError("table: expected a setting with timed images, got none")
    figure = Figure(figsize=(8.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axis = _color_axis(rows)
    values = list(dict.fromkeys(str(dict(row.cell.values).get(axis)) for row in rows)) if axis else [""]
    for number, value in enumerate(values):
        own = [row for row in rows if not axis or str(dict(row.cell.values).get(axis)) == value]
        _draw(axes, own, number, f"{axis} {value}" if axis else "")
    front = sorted((row for row in rows if row.front), key=lambda row: row.timing.seconds)
    if len(front) > 1:
        axes.step(
            [row.timing.seconds for row in front],
            [100 * row.overall.value for row in front],
            where="post",
            color="0.6",
            linewidth=1,
            linestyle=":",
            label="best so far",
            zorder=1,
        )
    _draw_selection(axes, table)
    _label(axes, rows, axis)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    seconds = [row.timing.seconds for row in rows]
    axes.set_xlim(min(seconds) / 1.5, max(seconds) * 1.9)
    axes.set_xlabel("seconds per image")
    axes.set_ylabel(f"score in points, {table.level:.0%} intervals")
    part = "" if table.prompts == table.whole else f" of {table.whole}"
    axes.set_title(
        f"{len(table.rows)} settings, {table.prompts}{part} prompts x {table.images_per_prompt}",
        loc="left",
        fontsize=10,
    )
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def save_plot(table: SweepTable, path: str | Path) -> Path:
    """Draw a sweep into a file; the suffix says what kind (`.png`, `.svg`, `.pdf`).

    Raises:
        ValueError: If matplotlib cannot write that kind, or no setting was timed.
        ImportError: If matplotlib is not installed.
    """
    return save_figure(plot(table), path)


def _color_axis(rows: list[SweepRow]) -> str | None:
    """The last axis with two to seven values; the first one is what a reader follows along a colour."""
    for name in reversed([name for name, _ in rows[0].cell.values]):
        count = len({str(dict(row.cell.values)[name]) for row in rows})
        if 2 <= count <= len(_COLORS) and len(rows) > count:
            return name
    return None


def _draw(axes: Axes, rows: list[SweepRow], number: int, label: str) -> None:
    color, mark = _COLORS[number % len(_COLORS)], _MARKS[number % len(_MARKS)]
    for chosen in (False, True):
        own = [row for row in rows if (row.best_of > 1) is chosen]
        if not own:
            continue
        x = [row.timing.seconds for row in own]
        y = [100 * row.overall.value for row in own]
        axes.errorbar(
            x,
            y,
            xerr=[
                [0.0 if math.isnan(row.timing.low) else row.timing.seconds - row.timing.low for row in own],
                [0.0 if math.isnan(row.timing.high) else row.timing.high - row.timing.seconds for row in own],
            ],
            yerr=[
                [max(0.0, 100 * (row.overall.value - row.overall.interval.low)) for row in own],
                [max(0.0, 100 * (row.overall.interval.high - row.overall.value)) for row in own],
            ],
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
    x, y = best.timing.seconds, 100 * best.overall.value
    axes.plot([x], [y], "o", markersize=15, markerfacecolor="none", color="0.2", label="best of the grid: optimistic")
    if table.selection is None:
        return
    held = table.selection.held_out
    axes.errorbar(
        [x * 1.12],
        [100 * held.value],
        yerr=[
            [max(0.0, 100 * (held.value - held.interval.low))],
            [max(0.0, 100 * (held.interval.high - held.value))],
        ],
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
                text,
                (row.timing.seconds, 100 * row.overall.value),
                xytext=(7, 5),
                textcoords="offset points",
                fontsize=7,
                color="0.25",
            )
