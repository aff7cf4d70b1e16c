"""`SweepTable`: every setting's score and seconds per image, and what choosing among them costs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError
from geneval_reward.results import Results, read_results
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
        overall: Its score, with an interval as if it had been chosen beforehand.
        tags: Task scores.
        timing: Seconds per image; of a best-of-N setting those of N.
        difference: To the first setting, paired image by image, p-values corrected over the settings; None for the first, and
            for all where a task has a single prompt, whose spread cannot be estimated.
        selected: Whether it is the best setting of several: its `overall` is too high on average.
        front: Whether no other setting is both better and faster.
        path: Its results file.
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
        """Among how many candidates the metric chose each image; 1: not chosen."""
        return self.cell.best_of


@dataclass(frozen=True)
class SweepTable:
    """A sweep's results.

    Attributes:
        rows: The settings in the order of the grid.
        selection: What choosing the best is worth; None with a single setting or too few prompts. Settings whose images the
            metric chose take no part, unless there are no others.
        prompts: Number of prompts that all settings have.
        whole: Number of prompts of the whole set.
        images_per_prompt: Images of each that count.
        level: Nominal level of the intervals.
        notes: What a reader must know.
    """

    rows: tuple[SweepRow, ...]
    selection: Selection | None
    prompts: int
    whole: int
    images_per_prompt: int
    level: float
    notes: tuple[str, ...]

    @property
    def selected(self) -> SweepRow | None:
        """The best setting, if there was something to choose from."""
        return next((row for row in self.rows if row.selected), None)


def sweep_table(sweep: Sweep, whole: int, *, draws: int = 10_000, level: float = 0.95) -> SweepTable:
    """Read the cells of a finished sweep.

    Args:
        sweep: What was swept.
        whole: Number of prompts of the whole set, to say of which part this is.
        draws: Bootstrap draws.
        level: Nominal level of the intervals.

    Raises:
        ResultsError: If a cell has no results, or no image is scored in all of them.
    """
    found = [_read(sweep, cell) for cell in sweep.cells]
    keys = _common(found)
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
    # Without two prompts of every task there is no held-out estimate, but the best is the best of several all the same.
    best = plain[int(np.argmax([intervals[i].overall.value for i in plain]))] if len(plain) > 1 else None
    if best is not None:
        notes.append(
            f"{sweep.cells[best].name} is the best of {len(plain)} settings on these prompts: its score is too high on average"
            + (
                f" ({100 * selection.apparent:.1f} here; {_score(selection.held_out)} for a choice by four fifths of the "
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
        rows, selection, len(set(prompt_ids.tolist())), whole, sweep.images_per_prompt, level, tuple(notes)
    )


_Scores = dict[tuple[int, int], float]


def _read(sweep: Sweep, cell: Cell) -> tuple[Results, _Scores]:
    """A cell's verdicts by (number of the prompt in the sweep, index)."""
    path = sweep.folder(cell) / RESULTS
    if cell.best_of > 1:
        source, path = path, path.with_name(f"best_of_{cell.best_of}.jsonl")
        choose_best_of(source, path, cell.best_of, sweep.images_per_prompt)
    results = read_results(path)
    number = {spec.to_json(): i for i, spec in enumerate(sweep.specs)}
    own = [number.get(record) for record in results.records]
    values: _Scores = {}
    for row, (prompt_id, index) in enumerate(zip(results.prompt_ids.tolist(), results.index.tolist(), strict=True)):
        prompt = own[prompt_id]
        if prompt is not None and index < sweep.images_per_prompt:
            values[prompt, index] = float(results.correct[row])
    return results, values


def _common(found: Sequence[tuple[Results, _Scores]]) -> list[tuple[int, int]]:
    keys = set(found[0][1])
    for _, values in found[1:]:
        keys &= values.keys()
    if not keys:
        raise ResultsError(
            f"{found[0][0].path}: expected images that are scored in every setting, got none; run the sweep to its end"
        )
    return sorted(keys)


def _differences(
    scores: npt.NDArray[np.float64],
    prompt_ids: npt.NDArray[np.int64],
    tags: npt.NDArray[np.str_],
    draws: int,
    level: float,
    notes: list[str],
) -> list[Difference | None]:
    """Each setting against the first, which nobody chose after the fact; p-values corrected over the settings."""
    lone = [tag for tag in np.unique(tags) if len(np.unique(prompt_ids[tags == tag])) < 2]
    if lone and len(scores) > 1:
        notes.append(
            f"no change to the first setting is given: expected at least two prompts of every task, got one of "
            f"{', '.join(lone)}; sweep more prompts"
        )
        return [None] * len(scores)
    pairs = [compare_paired(scores[0], row, prompt_ids, tags, draws=draws, level=level).overall for row in scores[1:]]
    corrected = holm([pair.p_value for pair in pairs]) if pairs else []
    return [None, *(replace(pair, p_holm=float(p)) for pair, p in zip(pairs, corrected, strict=True))]


def _front(scores: Sequence[float], seconds: Sequence[float], plain: Sequence[int]) -> set[int]:
    """Settings that no other one beats in score and seconds at once, by the points as measured."""

    def beaten(i: int) -> bool:
        return any(
            scores[j] >= scores[i] and seconds[j] <= seconds[i] and (scores[j], seconds[j]) != (scores[i], seconds[i])
            for j in plain
        )

    return {i for i in plain if not math.isnan(seconds[i]) and not beaten(i)}


LEGEND = (
    "score in points with its interval; change: to the first setting, * if it is shown (paired by prompt, corrected over the "
    "settings); selected: the best of this grid, so optimistic; held out: the best setting by four fifths of the prompts, "
    "scored on the last fifth; front: no setting is both better and faster"
)
_HEADER = ("score", "s/image", "change", "note")


def cells_of(table: SweepTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text; `LEGEND` says what they mean."""
    names = [name for name, _ in table.rows[0].cell.values]
    header = [*names, *_HEADER]
    rows = []
    for row in table.rows:
        one, time = row.overall, row.timing
        change = "" if row.difference is None else _change(row.difference)
        marks = ["selected"] if row.selected else []
        marks += [f"best of {row.best_of}"] if row.best_of > 1 else []
        marks += ["front"] if row.front else []
        values = [str(value) for _, value in row.cell.values]
        rows.append([*values, _score(one), _seconds(time), change, ", ".join(marks)])
    if table.selection is not None:
        rows.append([*(["held out"] + [""] * (len(names) - 1)), _score(table.selection.held_out), "", "", "choice"])
    return header, rows


def to_markdown(table: SweepTable) -> str:
    """A Markdown table, the notes above it."""
    header, rows = cells_of(table)
    lines = [f"> {note}" for note in table.notes]
    lines += ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + f"\n\n{LEGEND}\n"


def to_dict(table: SweepTable) -> dict[str, Any]:
    """Everything as plain values; numbers that are not finite become None."""
    held = None if table.selection is None else _estimate(table.selection.held_out)
    return {
        "prompts": table.prompts,
        "prompts_of_the_set": table.whole,
        "images_per_prompt": table.images_per_prompt,
        "level": table.level,
        "notes": list(table.notes),
        "held_out": held,
        "rows": [
            {
                "setting": dict(row.cell.values),
                "overall": _estimate(row.overall),
                "tags": {tag: _estimate(one) for tag, one in row.tags.items()},
                "seconds_per_image": _number(row.timing.seconds),
                "seconds_low": _number(row.timing.low),
                "seconds_high": _number(row.timing.high),
                "images_timed": row.timing.images,
                "difference_to_first": None
                if row.difference is None
                else {
                    "value": _number(row.difference.value),
                    "low": _number(row.difference.interval.low),
                    "high": _number(row.difference.interval.high),
                    "p_holm": _number(row.difference.p_holm),
                    "shown": row.difference.shown,
                },
                "selected": row.selected,
                "chosen_share": _share(table, row),
                "best_of": row.best_of if row.best_of > 1 else None,
                "front": row.front,
                "results": row.path,
            }
            for row in table.rows
        ],
    }


def to_csv(table: SweepTable) -> str:
    """A line per setting."""
    buffer = io.StringIO()
    writer = None
    for record in to_dict(table)["rows"]:
        difference = record["difference_to_first"] or {}
        line = {
            **record["setting"],
            **{name: record["overall"][name] for name in ("value", "low", "high", "images", "prompts")},
            **{name: record[name] for name in ("seconds_per_image", "seconds_low", "seconds_high")},
            "difference": difference.get("value"),
            "p_holm": difference.get("p_holm"),
            **{name: record[name] for name in ("selected", "front", "results")},
        }
        if writer is None:
            writer = csv.DictWriter(buffer, list(line), lineterminator="\n")
            writer.writeheader()
        writer.writerow(line)
    return buffer.getvalue()


def _share(table: SweepTable, row: SweepRow) -> float | None:
    plain = [one for one in table.rows if one.best_of == 1] or list(table.rows)
    if table.selection is None or row not in plain:
        return None
    return round(table.selection.chosen[plain.index(row)], 4)


def _change(difference: Difference) -> str:
    return f"{100 * difference.value:+.1f}{' *' if difference.shown else ''}"


def _score(one: Estimate) -> str:
    return f"{100 * one.value:.1f} [{100 * one.interval.low:.1f}, {100 * one.interval.high:.1f}]"


def _seconds(time: Timing) -> str:
    if math.isnan(time.seconds):
        return "?"
    half = time.high - time.seconds
    return f"{time.seconds:.3g}" if math.isnan(half) else f"{time.seconds:.3g} ± {half:.1g}"


def _estimate(one: Estimate) -> dict[str, Any]:
    return {
        "value": _number(one.value),
        "low": _number(one.interval.low),
        "high": _number(one.interval.high),
        "images": one.images,
        "prompts": one.prompts,
    }


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
