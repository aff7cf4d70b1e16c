"""A comparison as a picture: scores per task with intervals, and the differences. Needs matplotlib (extra `report`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geneval_reward.results.notation import percent_text
from geneval_reward.study.compare.table import Comparison
from geneval_reward.study.figures import error_bars, estimate_bars, new_figure, plain_text, save_figure, style_of, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot(comparison: Comparison) -> Figure:
    """Draw a comparison.

    Returns:
        A matplotlib figure. At the left are the scores of every run, at the right the difference of each run from the first; a
        filled mark is a difference that is shown after correction.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    rows = [*dict.fromkeys(tag for run in comparison.runs for tag in run.scores.tags), "overall"]
    figure = new_figure(10, 1.6 + 0.28 * len(rows) * max(2, len(comparison.runs)))
    scores, differences = figure.subplots(1, 2, sharey=True)
    _draw_scores(scores, comparison, rows)
    _draw_differences(differences, comparison, rows)
    scores.set_yticks(range(len(rows)), rows)
    scores.set_ylim(len(rows) - 0.5, -0.5)
    for axes in (scores, differences):
        axes.axhline(len(rows) - 1.5, color="0.6", linewidth=0.8)
        tidy(axes, "x")
    figure.legend(loc="outside lower center", ncols=min(4, len(comparison.runs)), frameon=False)
    return figure


def save_plot(comparison: Comparison, path: str | Path) -> Path:
    """Draw a comparison into a file; see `geneval_reward.study.figures.save_figure` for what can be written and raised."""
    return save_figure(plot(comparison), path)


def _draw_scores(axes: Axes, comparison: Comparison, rows: list[str]) -> None:
    for number, run in enumerate(comparison.runs):
        estimates = {**run.scores.tags, "overall": run.scores.overall}
        known = [
            (i + _shift(number, len(comparison.runs)), estimates[row]) for i, row in enumerate(rows) if row in estimates
        ]
        color, mark = style_of(number)
        axes.errorbar(
            [one.value for _, one in known],
            [y for y, _ in known],
            xerr=estimate_bars([one for _, one in known]),
            fmt=mark,
            color=color,
            markersize=5,
            capsize=2,
            label=plain_text(run.name),
        )
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"score, {percent_text(comparison.level)} intervals")


def _draw_differences(axes: Axes, comparison: Comparison, rows: list[str]) -> None:
    axes.axvline(0, color="0.3", linewidth=1)
    for number, pair in enumerate(comparison.pairs, 1):
        color, mark = style_of(number)
        figures = pair.comparison.figures()
        for i, row in enumerate(rows):
            one = figures.get(row)
            if one is None:
                continue
            axes.errorbar(
                [100 * one.value],
                [i + _shift(number - 1, len(comparison.pairs))],
                xerr=error_bars([one.value], [one.interval.low], [one.interval.high], 100),
                fmt=mark,
                color=color,
                markerfacecolor=color if one.shown else "white",
                markersize=5,
                capsize=2,
            )
    first = plain_text(comparison.runs[0].name)
    axes.set_xlabel(f"difference to {first} in points (filled: shown after correction)")


def _shift(number: int, count: int) -> float:
    return (number - (count - 1) / 2) * min(0.22, 0.7 / max(count, 1))
