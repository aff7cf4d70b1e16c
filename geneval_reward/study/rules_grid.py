"""Threshold studies: stored detections judged again over a grid of rules, without a model."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.judge.rules import Rules
from geneval_reward.prompts.vocabulary import sort_tags
from geneval_reward.results import ResultRow, Results
from geneval_reward.results.notation import (
    ESTIMATE_COLUMNS,
    estimate_cells,
    percent_text,
    rules_text,
    score_text,
    share_text,
)
from geneval_reward.results.tables import Document, Table
from geneval_reward.stats import Estimate, clustered_bootstrap
from geneval_reward.study.figures import PALETTE, new_axes, save_figure
from geneval_reward.study.summary import summarize
from geneval_reward.support.counts import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES: Final = ("confidence", "counting_confidence", "max_objects", "max_overlap", "position")
"""Rules that stored detections can be judged by again; the others change what the verifier sees."""

MOST: Final = 2_500
"""Most cells of a grid."""


@dataclass(frozen=True)
class GridCell:
    """The scores under one set of rules.

    Attributes:
        rules: The rules.
        overall: The overall score.
        tags: Task scores.
    """

    rules: Rules
    overall: Estimate
    tags: dict[str, Estimate]


@dataclass(frozen=True)
class RulesGrid:
    """A file's scores over a grid of rules.

    Attributes:
        axes: The values of each rule that is varied; one or two rules.
        cells: The scores in the order of the grid, the last rule varying fastest.
        base: The rules that hold for everything else.
        credit: The credit that was averaged.
        images: Number of images.
        notes: Sentences that a reader must know.
        complete: Whether the file is complete, as `geneval_reward.study.summary.Summary.complete` defines it.
    """

    axes: dict[str, tuple[float, ...]]
    cells: tuple[GridCell, ...]
    base: Rules
    credit: str
    images: int
    notes: tuple[str, ...]
    complete: bool = True

    @property
    def spread(self) -> float:
        """Difference between the largest and the smallest overall score: what the thresholds alone decide."""
        values = [cell.overall.value for cell in self.cells]
        return max(values) - min(values)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "axes": {name: list(values) for name, values in self.axes.items()},
            "base": self.base.to_dict(),
            "credit": self.credit,
            "images": self.images,
            "notes": list(self.notes),
            "complete": self.complete,
            "cells": [
                {
                    **{name: getattr(cell.rules, name) for name in self.axes},
                    "overall": cell.overall.to_dict(),
                    "tags": {tag: one.to_dict() for tag, one in cell.tags.items()},
                }
                for cell in self.cells
            ],
        }

    def document(self) -> Document:
        """The grid as a table: all scores along one rule, or the overall scores over two; CSV has one line per score."""
        names = list(self.axes)
        if len(names) == 1:
            tags = sort_tags(self.cells[0].tags)
            header = [names[0], "overall", *tags]
            rows = [
                [
                    f"{getattr(cell.rules, names[0]):g}",
                    score_text(cell.overall),
                    *(share_text(cell.tags[tag].value) for tag in tags),
                ]
                for cell in self.cells
            ]
        else:
            down, across = self.axes.values()
            header = [" \\ ".join(names), *(f"{value:g}" for value in across)]
            scores = [share_text(cell.overall.value) for cell in self.cells]
            rows = [[f"{value:g}", *scores[i * len(across) : (i + 1) * len(across)]] for i, value in enumerate(down)]
        rest = {name: value for name, value in self.base.to_dict().items() if name not in self.axes}
        title = f"{self.credit} scores, {counted(self.images, 'image')} JUDGED AGAIN over a grid of rules"
        values = [
            [*(getattr(cell.rules, name) for name in names), task, *estimate_cells(one), rules_text(rest)]
            for cell in self.cells
            for task, one in (("overall", cell.overall), *cell.tags.items())
        ]
        return Document(
            [Table(title, header, rows, [f"all other rules: {rules_text(rest)}"])],
            Table("", [*names, "task", *ESTIMATE_COLUMNS, "other_rules"], values),
            self.to_dict(),
        )


def is_grid(texts: Sequence[str]) -> bool:
    """Tell whether values of `--rules` name a range rather than single rules."""
    return any(":" in text for text in texts)


def parse_grid(texts: Sequence[str], stored: Rules | None = None) -> tuple[dict[str, tuple[float, ...]], Rules]:
    """Read `confidence=.1:.9:.1` (from, to, step; both ends included) and plain rules beside it.

    Args:
        texts: Values of `--rules`: one or two ranges; the others are rules as `Rules.parse` takes them.
        stored: Rules that hold where `texts` say nothing; None takes the benchmark's.

    Returns:
        The values of each varied rule, and the rules that hold for everything else.

    Raises:
        UsageError: If a range is not one, its rule cannot be varied, or there are more than two ranges or too many
            combinations.

    Examples:
        >>> parse_grid(["confidence=.1:.3:.1"])[0]
        {'confidence': (0.1, 0.2, 0.3)}
    """
    axes: dict[str, tuple[float, ...]] = {}
    plain = []
    for text in texts:
        if ":" not in text:
            plain.append(text)
            continue
        name, equals, span = (part.strip() for part in text.partition("="))
        if not equals or name not in AXES:
            raise UsageError(
                f"rules: expected a range of {', '.join(AXES)}, got {text!r}; other rules change what the colour verifier sees, "
                "so score the images again"
            )
        if name in axes:
            raise UsageError(f"rules: expected one range of {name}, got two")
        axes[name] = _values(name, span, text)
    if not 1 <= len(axes) <= 2:
        raise UsageError(f"rules: expected one or two ranges such as confidence=.1:.9:.1, got {len(axes)}")
    count = math.prod(len(values) for values in axes.values())
    if count > MOST:
        raise UsageError(f"rules: expected at most {MOST} combinations, got {count}; take larger steps")
    base = Rules.parse(",".join(plain), base=stored)
    # A value out of range, at either end, is reported before any work is done.
    for name, values in axes.items():
        for value in (values[0], values[-1]):
            Rules.parse(base.to_dict() | {name: value})
    return axes, base


def judge_grid(
    results: Results, texts: Sequence[str], credit: str = "official", *, draws: int = 2_000, level: float = 0.95
) -> RulesGrid:
    """Judge the stored detections of a file by every combination of a grid.

    Args:
        results: What `geneval_reward.results.read_results` returns.
        texts: Ranges and rules, as `parse_grid` takes them.
        credit: The credit to average.
        draws: Bootstrap draws of each interval.
        level: Nominal level of the intervals.

    Raises:
        ResultsError: If the file holds no detections, the grid asks for less confident ones than were kept, a combination needs
            a colour that was not asked for, or the file is by several judges and no rules are given.
        UsageError: If `texts` do not describe a grid.
    """
    ranges = [text for text in texts if ":" in text]
    stored = None
    # A file with several judges has no one set of rules to start from, so the texts must name a profile.
    if len(results) and (len(ranges) == len(texts) or len(results.identities) == 1):
        text = results.identity.rules
        stored = None if text is None else Rules.parse(json.loads(text))
    axes, base = parse_grid(texts, stored)
    if not len(results):
        raise ResultsError(f"{results.path}: expected at least one scored image, got none; see its failures")
    combinations = [
        dataclasses.replace(base, **dict(zip(axes, values, strict=True)))
        for values in np.array(np.meshgrid(*axes.values(), indexing="ij"), dtype=object)
        .reshape(len(axes), -1)
        .T.tolist()
    ]
    values = np.empty((len(combinations), len(results)))
    for column, row in enumerate(results.rows()):
        _check_floor(row, combinations, results.path)
        known: dict[Rules, float] = {}
        for i, rules in enumerate(combinations):
            # Only one of the two thresholds matters to an image: judge it once for each.
            own = dataclasses.replace(rules, **{_other(row.tag): getattr(base, _other(row.tag))})
            if own not in known:
                known[own] = _credit(row, own, credit, results.path)
            values[i, column] = known[own]
    cells = []
    for rules, line in zip(combinations, values, strict=True):
        scores = clustered_bootstrap(line, results.prompt_ids, results.tags, draws=draws, level=level)
        cells.append(GridCell(rules, scores.overall, scores.tags))
    grid = RulesGrid(axes, tuple(cells), base, credit, len(results), ())
    # What is missing or double is the same under any rules, and the intervals of this summary are not shown.
    summary = summarize(results, draws=100)
    return dataclasses.replace(grid, notes=(_best(grid), *summary.problems), complete=summary.complete)


def plot(grid: RulesGrid) -> Figure:
    """Draw a grid: lines with an interval for one rule, a heat map for two. The rules in force are marked.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure, axes = new_axes(8, 5)
    return _draw_lines(grid, figure, axes) if len(grid.axes) == 1 else _draw_map(grid, figure, axes)


def _draw_lines(grid: RulesGrid, figure: Figure, axes: Axes) -> Figure:
    ((name, x),) = grid.axes.items()
    for number, tag in enumerate(sort_tags(grid.cells[0].tags)):
        y = [cell.tags[tag].value for cell in grid.cells]
        # Tasks often lie on one another, at 0 or at 1: dashes of their own and ever smaller marks let all be seen.
        dashes = (number * 2, (6, 2 + 2 * number))
        size = max(11 - 1.5 * number, 2)
        axes.plot(x, y, color=PALETTE[number % len(PALETTE)], lw=1.4, ls=dashes, marker="o", ms=size, label=tag)
    axes.plot(x, [cell.overall.value for cell in grid.cells], color="black", linewidth=2.2, label="overall")
    ends = [cell.overall.interval for cell in grid.cells]
    low, high = [one.low for one in ends], [one.high for one in ends]
    axes.fill_between(x, low, high, color="black", alpha=0.12, linewidth=0)
    here = getattr(grid.base, name)
    axes.axvline(here, color="0.5", linestyle=":", label=f"the rule in force ({here:g})")
    axes.set_xlabel(name)
    axes.set_ylabel(f"{grid.credit} score, {percent_text(ends[0].level)} interval")
    axes.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _draw_map(grid: RulesGrid, figure: Figure, axes: Axes) -> Figure:
    (name_down, down), (name_across, across) = grid.axes.items()
    table = np.array([cell.overall.value for cell in grid.cells]).reshape(len(down), len(across))
    axes.grid(visible=False)
    picture = axes.imshow(table, cmap="viridis", aspect="auto", origin="lower")
    axes.set_xticks(range(len(across)), [f"{value:g}" for value in across])
    axes.set_yticks(range(len(down)), [f"{value:g}" for value in down])
    axes.set_xlabel(name_across)
    axes.set_ylabel(name_down)
    if table.size <= 150:
        middle = (table.min() + table.max()) / 2
        for i, j in np.ndindex(table.shape):
            color = "black" if table[i, j] > middle else "white"
            axes.text(j, i, share_text(float(table[i, j])), ha="center", va="center", fontsize=8, color=color)
    here = getattr(grid.base, name_across), getattr(grid.base, name_down)
    place = [
        [i for i, value in enumerate(values) if abs(value - own) < 1e-9]
        for values, own in zip((across, down), here, strict=True)
    ]
    if all(place):
        axes.plot(*place, "s", markersize=26, markerfacecolor="none", color=PALETTE[1])
        axes.set_title("square: the rules in force", loc="left", fontsize=9)
    figure.colorbar(picture, label=f"{grid.credit} score")
    return figure


def save_plot(grid: RulesGrid, path: str | Path) -> Path:
    """Draw a grid into a file; see `geneval_reward.study.figures.save_figure` for what can be written and raised."""
    return save_figure(plot(grid), path)


def _values(name: str, span: str, text: str) -> tuple[float, ...]:
    parts = span.split(":")
    try:
        low, high, step = (float(part) for part in parts)
    except ValueError as error:
        raise UsageError(f"rules: expected from:to:step such as {name}=.1:.9:.1, got {text!r}") from error
    if not (math.isfinite(low) and math.isfinite(high) and step > 0 and high >= low and math.isfinite(step)):
        raise UsageError(f"rules: expected from <= to and a step > 0, got {text!r}")
    count = math.floor((high - low) / step + 1e-9) + 1
    if count > MOST:
        raise UsageError(f"rules: expected at most {MOST} values, got {count} in {text!r}; take larger steps")
    digits = max((len(found[1]) for part in parts if (found := re.search(r"\.(\d+)", part))), default=0)
    # .1 + 2 * .1 is to be .3 and not its neighbour, to which a stored confidence would compare otherwise.
    values = [round(low + i * step, max(digits, 6)) for i in range(count)]
    if name == "max_objects":
        if any(value != int(value) for value in values):
            raise UsageError(f"rules: max_objects: expected whole numbers, got {text!r}")
        return tuple(int(value) for value in values)
    return tuple(values)


def _other(tag: str) -> str:
    """The threshold that says nothing about images of this tag."""
    return "confidence" if tag == "counting" else "counting_confidence"


def _check_floor(row: ResultRow, combinations: Sequence[Rules], path: Path) -> None:
    floor = row.min_confidence
    lowest = min(rules.threshold(row.tag) for rules in combinations)
    if floor is not None and lowest < floor:
        name = "counting_confidence" if row.tag == "counting" else "confidence"
        raise ResultsError(
            f"{path}: expected thresholds of at least {floor:g}, got {name} {lowest:g}; detections at or below {floor:g} were "
            f"not kept, so start the range at {floor:g}, or score the images again"
        )


def _credit(row: ResultRow, rules: Rules, credit: str, path: Path) -> float:
    try:
        return row.verdict(rules).credit(credit)
    except ResultsError:
        raise
    except ValueError as error:
        raise ResultsError(f"{path}: {row.filename}: {error}") from error


def _best(grid: RulesGrid) -> str:
    best = max(grid.cells, key=lambda cell: cell.overall.value)
    where = ", ".join(f"{name} {getattr(best.rules, name):g}" for name in grid.axes)
    return (
        f"the thresholds alone move the overall score by {100 * grid.spread:.1f} points over this grid; the highest, "
        f"{share_text(best.overall.value)} at {where}, was found on these images: check it on others before using it as a rule"
    )
