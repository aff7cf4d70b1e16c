"""A report's figures for papers, as PNG and SVG. Needs matplotlib (extra `report`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from geneval_reward.prompts.vocabulary import TAGS
from geneval_reward.study.compare.plot import save_plot
from geneval_reward.study.report.calibration import SHIFT, Threshold
from geneval_reward.study.report.collect import Report, RunReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS: Final = ("png", "svg")

# Okabe and Ito's palette, told apart by colour-blind readers (jfly.uni-koeln.de/color, 2008).
_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREYS: Final = ("#6f7782", "#8d95a0", "#a9b0ba", "#c3c9d1", "#d9dde3")


def save_figures(report: Report, folder: str | Path) -> list[Path]:
    """Draw a report's figures into a folder, each as PNG and SVG.

    `scores` (tasks beside published models), `failures`, `confidence` where detections are stored, and `comparison`
    where there is one.

    Args:
        report: What `geneval_reward.study.report.collect` gives.
        folder: Made if it is not there; files of the same names are replaced.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    makers: list[tuple[str, Callable[[Report], Figure]]] = [("scores", scores_figure), ("failures", failures_figure)]
    if any(run.thresholds for run in report.runs):
        makers.append(("confidence", confidence_figure))
    files = []
    for name, maker in makers:
        figure = maker(report)
        for kind in KINDS:
            path = folder / f"{name}.{kind}"
            # No date inside: equal reports give equal files.
            figure.savefig(path, dpi=200, metadata={"Date": None} if kind == "svg" else None)
            files.append(path)
    if report.comparison is not None:
        files += [save_plot(report.comparison, folder / f"comparison.{kind}") for kind in KINDS]
    return files


def scores_figure(report: Report) -> Figure:
    """Bars per task, ours with intervals, then published models; a hatched bar is of rewritten prompts."""
    published = report.published
    names = [*TAGS, "overall"]
    figure = _figure((10, 3.8))
    axes = figure.subplots()
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
            color=_GREYS[number % len(_GREYS)],
            hatch="///" if row.rewritten else None,
            edgecolor="white",
            linewidth=0.4,
            label=_plain(row.model) + (" (rewritten prompts)" if row.rewritten else ""),
        )
    axes.set_xticks(places, [name.replace("_", " ") for name in names])
    axes.set(ylim=(0, 1.02), ylabel="score")
    _tidy(axes, "y")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _own_bars(axes: Axes, run: RunReport, number: int, names: list[str], at: np.ndarray, width: float) -> None:
    scores = run.summary.scores
    found = [scores.overall if name == "overall" else scores.tags.get(name) for name in names]
    values = np.array([np.nan if one is None else one.value for one in found])
    low = np.array([np.nan if one is None else one.interval.low for one in found])
    high = np.array([np.nan if one is None else one.interval.high for one in found])
    marks = [text for text, there in (("rewritten prompts", run.results.rewritten.any()),) if there]
    marks += [f"best of {int(run.results.best_of.max())}"] if run.results.best_of.any() else []
    marks += [] if run.summary.complete else ["PARTIAL"]
    axes.bar(
        at,
        values,
        width,
        color=_COLORS[number % len(_COLORS)],
        yerr=np.clip(np.stack([values - low, high - values]), 0, None),
        error_kw={"linewidth": 1, "capsize": 2},
        label=_plain(run.name) + (f" ({', '.join(marks)})" if marks else ""),
    )


def failures_figure(report: Report) -> Figure:
    """Failed images by reason, a bar per run."""
    causes = list(dict.fromkeys(group.cause for run in report.runs for group in run.groups))
    figure = _figure((7, 1.2 + 0.38 * max(1, len(causes)) * max(1.0, 0.6 * len(report.runs))))
    axes = figure.subplots()
    height = 0.8 / len(report.runs)
    for number, run in enumerate(report.runs):
        counts = {group.cause: group.images for group in run.groups}
        at = np.arange(len(causes)) - 0.4 + (number + 0.5) * height
        values = [counts.get(cause, 0) for cause in causes]
        bars = axes.barh(at, values, height, color=_COLORS[number % len(_COLORS)], label=_plain(run.name))
        axes.bar_label(bars, fontsize=8, padding=2)
    axes.set_yticks(range(len(causes)), [cause.title for cause in causes])
    axes.invert_yaxis()
    axes.set_xlabel("failed images (an image can fail in two ways)")
    _tidy(axes, "x")
    if len(report.runs) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure


def confidence_figure(report: Report) -> Figure:
    """Detections around each threshold, a row per run."""
    runs = [run for run in report.runs if run.thresholds]
    wide = max(len(run.thresholds) for run in runs)
    figure = _figure((4.6 * wide, 2.7 * len(runs)))
    grid = figure.subplots(len(runs), wide, squeeze=False)
    for row, run in zip(grid, runs, strict=True):
        for axes in row[len(run.thresholds) :]:
            axes.set_visible(False)
        for axes, one in zip(row, run.thresholds, strict=False):
            _draw_threshold(axes, one, run.name if len(runs) > 1 else "")
    return figure


def _draw_threshold(axes: Axes, one: Threshold, name: str) -> None:
    middles = (one.edges[:-1] + one.edges[1:]) / 2
    colors = np.where(middles > one.value, _COLORS[0], _GREYS[2])
    axes.axvspan(one.value - SHIFT, one.value + SHIFT, color="#fff1d6", zorder=0)
    axes.bar(middles, one.counts, np.diff(one.edges) * 0.92, color=list(colors), zorder=2)
    axes.axvline(one.value, color="black", linestyle="--", linewidth=1, zorder=3)
    near = one.counts[abs(middles - one.value) < 0.1]
    if len(near) and near.max() > 0 and one.counts.max() > 3 * near.max():
        axes.set_yscale("symlog", linthresh=float(near.max()))
    axes.set_xlim(one.edges[0], one.edges[-1])
    axes.set_xlabel(f"{one.field.replace('_', ' ')} ({one.value:g})")
    axes.set_ylabel("detections")
    share = f"{one.fragile} of {one.images} verdicts flip within ±{SHIFT:.2f}"
    axes.set_title(f"{_plain(name)}: {share}" if name else share, fontsize=9)
    _tidy(axes, "y")


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures: expected matplotlib, got none; pip install 'geneval-reward[report]'") from error
    return Figure(figsize=size, layout="constrained")


def _tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(text: str) -> str:
    """Text of others without matplotlib's mathematics."""
    return text.replace("$", r"\$")
