"""A report's figures for papers, as PNG and SVG. Needs matplotlib (extra `report`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from geneval_reward.results.generator_notes import generator_marks
from geneval_reward.study.compare.plot import plot
from geneval_reward.study.figures import (
    GREYS,
    PALETTE,
    error_bars,
    new_axes,
    new_figure,
    plain_text,
    save_figure,
    style_of,
    tidy,
)
from geneval_reward.study.report.calibration import SHIFT, Threshold
from geneval_reward.study.report.collect import Report, RunReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS: Final = ("png", "svg")


def save_figures(report: Report, folder: str | Path) -> list[Path]:
    """Draw a report's figures into a folder, each as PNG and SVG.

    `scores` (tasks beside published models), `failures`, `confidence` where detections are stored, and `comparison`
    where there is one.

    Args:
        report: What `geneval_reward.study.report.collect.collect` returns.
        folder: The folder, which is made if needed; files of the same names are replaced.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    folder = Path(folder)
    makers: list[tuple[str, Callable[[Report], Figure]]] = [("scores", scores_figure), ("failures", failures_figure)]
    if any(run.thresholds for run in report.runs):
        makers.append(("confidence", confidence_figure))
    if report.comparison is not None:
        comparison = report.comparison
        makers.append(("comparison", lambda _: plot(comparison)))
    files = []
    for name, maker in makers:
        figure = maker(report)
        files += [save_figure(figure, folder / f"{name}.{kind}", dpi=200) for kind in KINDS]
    return files


def scores_figure(report: Report) -> Figure:
    """Draw bars per task: ours with intervals, then published models; a hatched bar means rewritten prompts."""
    published = report.published
    names = [*report.tags, "overall"]
    figure, axes = new_axes(10, 3.8, grid="y")
    width = 0.8 / (len(report.runs) + len(published))
    places = np.arange(len(names))
    for number, run in enumerate(report.runs):
        _own_bars(axes, run, number, names, places - 0.4 + (number + 0.5) * width, width)
    for number, row in enumerate(published):
        values = [row.overall if name == "overall" else row.tags.get(name) for name in names]
        axes.bar(
            places - 0.4 + (len(report.runs) + number + 0.5) * width,
            [np.nan if value is None else value for value in values],
            width,
            color=GREYS[number % len(GREYS)],
            hatch="///" if row.rewritten else None,
            edgecolor="white",
            linewidth=0.4,
            label=plain_text(row.label) + (" (rewritten prompts)" if row.rewritten else ""),
        )
    axes.set_xticks(places, names)
    axes.set(ylim=(0, 1.02), ylabel="score")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _own_bars(axes: Axes, run: RunReport, number: int, names: list[str], at: np.ndarray, width: float) -> None:
    scores = run.summary.scores
    found = [scores.overall if name == "overall" else scores.tags.get(name) for name in names]
    values = np.array([np.nan if one is None else one.value for one in found])
    low = np.array([np.nan if one is None else one.interval.low for one in found])
    high = np.array([np.nan if one is None else one.interval.high for one in found])
    marks = [text for text, there in (("rewritten prompts", run.results.rewritten.any()),) if there]
    marks += [f"selected by {', '.join(run.summary.selected_by)}"] if run.summary.selected_by else []
    marks += generator_marks(run.results.generators)
    marks += [f"best of {int(run.results.best_of.max())}"] if run.results.best_of.any() else []
    marks += [] if run.summary.complete else ["PARTIAL"]
    axes.bar(
        at,
        values,
        width,
        color=style_of(number)[0],
        yerr=error_bars(values.tolist(), low.tolist(), high.tolist()),
        error_kw={"linewidth": 1, "capsize": 2},
        label=plain_text(run.name) + (f" ({', '.join(marks)})" if marks else ""),
    )


def failures_figure(report: Report) -> Figure:
    """Draw the number of failed images by reason, with a bar per run."""
    causes = list(dict.fromkeys(group.cause for run in report.runs for group in run.groups))
    figure, axes = new_axes(7, 1.2 + 0.38 * max(1, len(causes)) * max(1.0, 0.6 * len(report.runs)), grid="x")
    height = 0.8 / len(report.runs)
    for number, run in enumerate(report.runs):
        counts = {group.cause: group.images for group in run.groups}
        at = np.arange(len(causes)) - 0.4 + (number + 0.5) * height
        values = [counts.get(cause, 0) for cause in causes]
        bars = axes.barh(at, values, height, color=style_of(number)[0], label=plain_text(run.name))
        axes.bar_label(bars, fontsize=8, padding=2)
    axes.set_yticks(range(len(causes)), [cause.title for cause in causes])
    axes.invert_yaxis()
    axes.set_xlabel("failed images (an image can fail in two ways)")
    if len(report.runs) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure


def confidence_figure(report: Report) -> Figure:
    """Draw the detections around each threshold, with a row per run."""
    runs = [run for run in report.runs if run.thresholds]
    wide = max(len(run.thresholds) for run in runs)
    figure = new_figure(4.6 * wide, 2.7 * len(runs))
    grid = figure.subplots(len(runs), wide, squeeze=False)
    for row, run in zip(grid, runs, strict=True):
        for axes in row[len(run.thresholds) :]:
            axes.set_visible(False)
        for axes, one in zip(row, run.thresholds, strict=False):
            _draw_threshold(axes, one, run.name if len(runs) > 1 else "")
    return figure


def _draw_threshold(axes: Axes, one: Threshold, name: str) -> None:
    middles = (one.edges[:-1] + one.edges[1:]) / 2
    colors = np.where(middles > one.value, PALETTE[0], GREYS[2])
    axes.axvspan(one.value - SHIFT, one.value + SHIFT, color="#fff1d6", zorder=0)
    axes.bar(middles, one.counts, np.diff(one.edges) * 0.92, color=list(colors), zorder=2)
    axes.axvline(one.value, color="black", linestyle="--", linewidth=1, zorder=3)
    near = one.counts[abs(middles - one.value) < 0.1]
    if len(near) and near.max() > 0 and one.counts.max() > 3 * near.max():
        axes.set_yscale("symlog", linthresh=float(near.max()))
    axes.set_xlim(one.edges[0], one.edges[-1])
    axes.set_xlabel(f"{one.field} ({one.value:g})")
    axes.set_ylabel("detections")
    share = f"{one.fragile} of {one.images} verdicts flip within ±{SHIFT:.2f}"
    axes.set_title(f"{plain_text(name)}: {share}" if name else share, fontsize=9)
    tidy(axes, "y")
