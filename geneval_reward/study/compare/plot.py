"""A comparison as a picture: scores per task with intervals, and the differences. Needs matplotlib (extra `report`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geneval_reward.study.compare.table import Comparison
from geneval_reward.study.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by colour-blind readers (jfly.uni-koeln.de/color, 2008).
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = ("o", "s", "D", "^", "v", "P", "X")


def plot(comparison: Comparison) -> Figure:
    """Draw a comparison.

    Returns:
        A matplotlib figure: at the left the scores of every run, at the right each run's difference to the first; a filled
        mark is a difference that is shown after correction.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plot: expected matplotlib, got none; pip install 'geneval-reward[report]'") from error
    rows = [*dict.fromkeys(tag for run in comparison.runs for tag in run.scores.tags), "overall"]
    figure = Figure(figsize=(10, 1.6 + 0.28 * len(rows) * max(2, len(comparison.runs))), layout="constrained")
    scores, differences = figure.subplots(1, 2, sharey=True)
    _draw_scores(scores, comparison, rows)
    _draw_differences(differences, comparison, rows)
    scores.set_yticks(range(len(rows)), [row.replace("_", " ") for row in rows])
    scores.set_ylim(len(rows) - 0.5, -0.5)
    for axes in (scores, differences):
        axes.axhline(len(rows) - 1.5, color="0.6", linewidth=0.8)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(4, len(comparison.runs)), frameon=False)
    return figure


def save_plot(comparison: Comparison, path: str | Path) -> Path:
    """Draw a comparison into a file; the suffix says what kind (`.png`, `.svg`, `.pdf`).

    Raises:
        ValueError: If matplotlib cannot write that kind.
        ImportError: If matplotlib is not installed.
    """
    return save_figure(plot(comparison), path)


def _draw_scores(axes: Axes, comparison: Comparison, rows: list[str]) -> None:
    for number, run in enumerate(comparison.runs):
        shift = _shift(number, len(comparison.runs))
        estimates = [run.scores.overall if row == "overall" else run.scores.tags.get(row) for row in rows]
        known = [(i, one) for i, one in enumerate(estimates) if one is not None]
        x = [100 * one.value for _, one in known]
        axes.errorbar(
            x,
            [i + shift for i, _ in known],
            xerr=[
                [max(0.0, 100 * (one.value - one.interval.low)) for _, one in known],
                [max(0.0, 100 * (one.interval.high - one.value)) for _, one in known],
            ],
            fmt=_MARKS[number % len(_MARKS)],
            color=_COLORS[number % len(_COLORS)],
            markersize=5,
            capsize=2,
            label=run.name,
        )
    axes.set_xlim(-2, 102)
    axes.set_xlabel(f"score in points, {comparison.level:.0%} intervals")


def _draw_differences(axes: Axes, comparison: Comparison, rows: list[str]) -> None:
    axes.axvline(0, color="0.3", linewidth=1)
    for number, pair in enumerate(comparison.pairs, 1):
        color = _COLORS[number % len(_COLORS)]
        for i, row in enumerate(rows):
            one = pair.comparison.overall if row == "overall" else pair.comparison.tags.get(row)
            if one is None:
                continue
            y = i + _shift(number - 1, len(comparison.pairs))
            axes.errorbar(
                [100 * one.value],
                [y],
                xerr=[
                    [max(0.0, 100 * (one.value - one.interval.low))],
                    [max(0.0, 100 * (one.interval.high - one.value))],
                ],
                fmt=_MARKS[number % len(_MARKS)],
                color=color,
                markerfacecolor=color if one.shown else "white",
                markersize=5,
                capsize=2,
            )
    first = comparison.runs[0].name
    axes.set_xlabel(f"difference to {first} in points (filled: shown after correction)")


def _shift(number: int, count: int) -> float:
    return (number - (count - 1) / 2) * min(0.22, 0.7 / max(count, 1))
