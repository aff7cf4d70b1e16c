"""The score and the seconds per image of every setting, and the bias from choosing the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError
from geneval_reward.results import Results, read_results
from geneval_reward.results.notation import DASH, judge_text, points_text, score_text, share_text
from geneval_reward.results.tables import Document, Table, finite
from geneval_reward.stats import Difference, Estimate, clustered_bootstrap, compare_paired, holm
from geneval_reward.study.sweep.grid import Cell
from geneval_reward.study.sweep.run import RESULTS, TIMES, Sweep, choose_best_of
from geneval_reward.study.sweep.selection import Selection, select_best
from geneval_reward.study.sweep.timing import Timing, read_batches, timing


@dataclass(frozen=True)
class SweepRow:
    """One setting.

    Attributes:
        cell: The setting.
        overall: The score, with an interval as if the setting had been chosen beforehand.
        tags: Task scores.
        timing: Seconds per image; in a best-of-N setting, those of all N candidates.
        difference: Difference from the first setting, paired image by image, with p-values corrected over the settings. None
            for the first, and for all where a task has a single prompt, whose spread cannot be estimated.
        selected: Whether this is the best setting of several, so that its `overall` is too high on average.
        front: Whether no other setting is both better and faster.
        path: The results file.
    """

    cell: Cell
    overall: Estimate
    tags: dict[str, Estimate]
    timing: Timing
    difference: Difference | None
    selected: bool
    front: bool
    path: str

    @property
    def best_of(self) -> int:
        """Number of candidates that the metric chose each image from; 1 for no choice."""
        return self.cell.best_of


@dataclass(frozen=True)
class SweepTable:
    """A sweep's results.

    Attributes:
        rows: The settings in the order of the grid.
        selection: What choosing the best setting is worth; None with a single setting or too few prompts. Settings whose images
            the metric chose take no part, unless there are no others.
        prompts: Number of prompts that all settings have.
        whole: Number of prompts of the whole set.
        images_per_prompt: Number of scored images per prompt.
        level: Nominal level of the intervals.
        notes: Sentences that a reader must know.
        judged_by: Which judge scored the images, and under which rules.
    """

    rows: tuple[SweepRow, ...]
    selection: Selection | None
    prompts: int
    whole: int
    images_per_prompt: int
    level: float
    notes: tuple[str, ...]
    judged_by: str

    @property
    def selected(self) -> SweepRow | None:
        """The best setting, if there was something to choose from."""
        return next((row for row in self.rows if row.selected), None)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values; numbers that are not finite become None."""
        record: dict[str, Any] = finite(
            {
                "prompts": self.prompts,
                "prompts_of_the_set": self.whole,
                "images_per_prompt": self.images_per_prompt,
                "level": self.level,
                "judged_by": self.judged_by,
                "notes": self.notes,
                "held_out": None if self.selection is None else self.selection.held_out.to_dict(),
                "rows": [_record(self, row) for row in self.rows],
            }
        )
        return record

    def document(self) -> Document:
        """The table in every format; CSV has one line per setting."""
        record = self.to_dict()
        names = [name for name, _ in self.rows[0].cell.values]
        rows = [_cells(row) for row in self.rows]
        if self.selection is not None:
            held_out = ["held out", *[""] * (len(names) - 1)]
            rows.append([*held_out, score_text(self.selection.held_out), "", "", "choice"])
        strong = [number for number, row in enumerate(self.rows) if row.selected]
        header = [*names, "score", "s/image", "change", "note"]
        values = [_values(row) for row in record["rows"]]
        return Document(
            [Table("", header, rows, [f"judged by {self.judged_by}", LEGEND], strong)],
            Table("", list(values[0]), [list(row.values()) for row in values]),
            record,
            problems=self.notes,
        )


def sweep_table(sweep: Sweep, whole: int, *, draws: int = 10_000, level: float = 0.95) -> SweepTable:
    """Read the results of a finished sweep.

    Args:
        sweep: The sweep.
        whole: Number of prompts in the whole set, to say which part of it was used.
        draws: Bootstrap draws.
        level: Nominal level of the intervals.

    Raises:
        ResultsError: If a cell has no results, or no image is scored in all of them.
    """
    found = [_read(sweep, cell) for cell in sweep.cells]
    keys = sorted(set.intersection(*(set(values) for _, values in found)))
    if not keys:
        raise ResultsError(
            f"{found[0][0].path}: expected images that are scored in every setting, got none; run the sweep to its end"
        )
    notes = []
    expected = len(sweep.specs) * sweep.images_per_prompt
    if len(keys) < expected:
        notes.append(
            f"{expected - len(keys)} of {expected} images are not scored in every setting and left out of all: see the cells' "
            "failures"
        )
    if len(sweep.specs) < whole:
        notes.append(f"a subset: {len(sweep.specs)} of {whole} prompts; not comparable with scores on the full suite")
    prompt_ids = np.array([prompt for prompt, _ in keys], np.int64)
    tags = np.array([sweep.specs[prompt].tag for prompt in prompt_ids], np.str_)
    scores = np.array([[values[key] for key in keys] for _, values in found], np.float64)
    intervals = [clustered_bootstrap(row, prompt_ids, tags, draws=draws, level=level) for row in scores]
    differences = _differences(scores, prompt_ids, tags, draws, level, notes)
    timings = [
        timing(read_batches(sweep.folder(cell) / TIMES), level).times(float(cell.best_of)) for cell in sweep.cells
    ]
    plain = [i for i, cell in enumerate(sweep.cells) if cell.best_of == 1] or list(range(len(sweep.cells)))
    selection = select_best(scores[plain], prompt_ids, tags, draws=draws) if len(plain) > 1 else None
    # Without two prompts per task there is no held-out estimate, but the best is still the best of several.
    best = plain[int(np.argmax([intervals[i].overall.value for i in plain]))] if len(plain) > 1 else None
    if best is not None:
        notes.append(
            f"{sweep.cells[best].name} is the best of {len(plain)} settings on these prompts: its score is too high on average"
            + (
                f" ({share_text(selection.apparent)} here; {score_text(selection.held_out)} for a choice by four fifths of the "
                "prompts, scored on the last fifth)"
                if selection
                else "; a task has a single prompt, so it cannot be said by how much"
            )
        )
    chosen = sorted({cell.best_of for cell in sweep.cells if cell.best_of > 1})
    if chosen:
        notes.append(
            f"rows with best_of {', '.join(map(str, chosen))}: each image was chosen by this very metric among so many; not "
            "comparable with the others, or with published scores"
        )
    untimed = [cell.name for cell, one in zip(sweep.cells, timings, strict=True) if not one.images]
    if untimed:
        notes.append(f"no image was timed for {untimed[0]}" + (f" and {len(untimed) - 1} more" if untimed[1:] else ""))
    front = _front([one.overall.value for one in intervals], [one.seconds for one in timings], plain)
    rows = tuple(
        SweepRow(
            cell=cell,
            overall=intervals[i].overall,
            tags=intervals[i].tags,
            timing=timings[i],
            difference=differences[i],
            selected=i == best,
            front=i in front,
            path=found[i][0].path.relative_to(sweep.root).as_posix(),
        )
        for i, cell in enumerate(sweep.cells)
    )
    return SweepTable(
        rows=rows,
        selection=selection,
        prompts=len(set(prompt_ids.tolist())),
        whole=whole,
        images_per_prompt=sweep.images_per_prompt,
        level=level,
        notes=tuple(notes),
        judged_by=judge_text(list(dict.fromkeys(one for results, _ in found for one in results.identities))),
    )


_Scores = dict[tuple[int, int], float]


def _read(sweep: Sweep, cell: Cell) -> tuple[Results, _Scores]:
    """Read a cell's verdicts by (number of the prompt in the sweep, index of the image)."""
    path = sweep.folder(cell) / RESULTS
    if cell.best_of > 1:
        source, path = path, path.with_name(f"best_of_{cell.best_of}.jsonl")
        choose_best_of(source, path, cell.best_of, sweep.images_per_prompt)
    results = read_results(path)
    number = {spec.core.to_json(): i for i, spec in enumerate(sweep.specs)}
    own = [number.get(record) for record in results.records]
    values: _Scores = {}
    for row, (prompt_id, index) in enumerate(zip(results.prompt_ids.tolist(), results.index.tolist(), strict=True)):
        prompt = own[prompt_id]
        if prompt is not None and index < sweep.images_per_prompt:
            values[prompt, index] = float(results.correct[row])
    return results, values


def _differences(
    scores: npt.NDArray[np.float64],
    prompt_ids: npt.NDArray[np.int64],
    tags: npt.NDArray[np.str_],
    draws: int,
    level: float,
    notes: list[str],
) -> list[Difference | None]:
    """Compare each setting with the first, which was not picked by its score; p-values are corrected over the settings."""
    lone = [tag for tag in np.unique(tags) if len(np.unique(prompt_ids[tags == tag])) < 2]
    if lone and len(scores) > 1:
        notes.append(
            f"no change from the first setting is given: expected at least two prompts of every task, got one of "
            f"{', '.join(lone)}; sweep more prompts"
        )
        return [None] * len(scores)
    pairs = [compare_paired(scores[0], row, prompt_ids, tags, draws=draws, level=level).overall for row in scores[1:]]
    corrected = holm([pair.p_value for pair in pairs]) if pairs else []
    return [None, *(replace(pair, p_holm=float(p)) for pair, p in zip(pairs, corrected, strict=True))]


def _front(scores: Sequence[float], seconds: Sequence[float], plain: Sequence[int]) -> set[int]:
    """Find the settings that no other one beats in both measured score and measured seconds."""
    front: set[int] = set()
    best = -math.inf
    # Starting from the fastest, a setting must beat all before it; ties share their place.
    for i in sorted((i for i in plain if not math.isnan(seconds[i])), key=lambda i: (seconds[i], -scores[i])):
        if scores[i] > best or any((scores[i], seconds[i]) == (scores[j], seconds[j]) for j in front):
            front.add(i)
            best = max(best, scores[i])
    return front


LEGEND = (
    "score: with its interval; change: from the first setting in points, * if it is shown (paired by prompt, corrected over the "
    "settings); selected: the best of this grid, so its score is optimistic; held out: the best setting by four fifths of the "
    "prompts, scored on the last fifth; front: no setting is both better and faster"
)


def _cells(row: SweepRow) -> list[object]:
    marks = ["selected"] if row.selected else []
    marks += [f"best of {row.best_of}"] if row.best_of > 1 else []
    marks += ["front"] if row.front else []
    change = ""
    if row.difference is not None:
        change = points_text(row.difference.value) + (" *" if row.difference.shown else "")
    values = [str(value) for _, value in row.cell.values]
    return [*values, score_text(row.overall), _seconds(row.timing), change, ", ".join(marks)]


def _record(table: SweepTable, row: SweepRow) -> dict[str, Any]:
    change = row.difference
    plain = [one for one in table.rows if one.best_of == 1] or list(table.rows)
    chosen = table.selection.chosen[plain.index(row)] if table.selection is not None and row in plain else None
    return {
        "setting": dict(row.cell.values),
        "overall": row.overall.to_dict(),
        "tags": {tag: one.to_dict() for tag, one in row.tags.items()},
        "seconds_per_image": round(row.timing.seconds, 6),
        "seconds_low": round(row.timing.low, 6),
        "seconds_high": round(row.timing.high, 6),
        "images_timed": row.timing.images,
        "difference_to_first": None
        if change is None
        else {
            "value": round(change.value, 6),
            "low": round(change.interval.low, 6),
            "high": round(change.interval.high, 6),
            "p_holm": round(change.p_holm, 6),
            "shown": change.shown,
        },
        "selected": row.selected,
        "chosen_share": None if chosen is None else round(chosen, 4),
        "best_of": row.best_of if row.best_of > 1 else None,
        "front": row.front,
        "results": row.path,
    }


def _values(record: Mapping[str, Any]) -> dict[str, object]:
    """Pick the columns of the CSV file from a row's record."""
    change = record["difference_to_first"] or {}
    times = ("seconds_per_image", "seconds_low", "seconds_high")
    return {
        **record["setting"],
        **record["overall"],
        **{name: record[name] for name in times},
        "difference": change.get("value"),
        "p_holm": change.get("p_holm"),
        **{name: record[name] for name in ("selected", "front", "results")},
    }


def _seconds(time: Timing) -> str:
    if math.isnan(time.seconds):
        return DASH
    return f"{time.seconds:.3g}" + ("" if math.isnan(time.low) else f" [{time.low:.3g}, {time.high:.3g}]")
