"""The training part of `geneval-reward demo`: a live table, the scores before and after, and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from geneval_reward import GenEvalScorer
    from geneval_reward.demo.training import TrainingDemo
    from geneval_reward.demo.training.record import RunRecord

_ROWS = 12  # largest number of epochs in the live table
_COLUMNS = (
    "epoch",
    "images",
    "seconds",
    "reward",
    "held out",
    "audit gap, points",
    "zero-std groups",
    "velocity drift",
)


def train_and_report(
    out: Path, method: str, quick: bool, seed: int, scorer: GenEvalScorer, messages: Console, output: Console
) -> Path:
    """Fine-tune the pocket model, print the scores before and after, write `training-<method>.html` and return its path."""
    from geneval_reward.demo.training import train_pocket
    from geneval_reward.demo.training.page import method_name, training_page
    from geneval_reward.demo.training.record import RunRecord, records_in
    from geneval_reward.results.notation import points_text, share_text
    from geneval_reward.support.files import write_whole

    with LiveTable(method_name(method), messages) as table:
        result = train_pocket(
            method,  # type: ignore[arg-type]
            quick=quick,
            seed=seed,
            out=out / f"train-{method}",
            scorer=scorer,
            progress=table.update,
        )
    output.print(_by_task(result))
    RunRecord.of(result).save(out)
    runs = records_in(out)
    print_methods(runs, output)
    audit = result.audit_after
    output.print(
        f"audit: first judge {share_text(audit.score)}, second judge {share_text(audit.audit)}, gap {points_text(audit.gap)} "
        f"points (before training {points_text(result.audit_before.gap)}); the second confirms {share_text(audit.confirmed)} of "
        f"what the first one passes (before {share_text(result.audit_before.confirmed)})"
    )
    page = out / f"training-{method}.html"
    write_whole(page, training_page(result, runs))
    return page


def print_methods(runs: Sequence[RunRecord], output: Console) -> None:
    """Print what each recorded run reached with how many images and seconds."""
    from geneval_reward.demo.training.page import methods_table
    from geneval_reward.results import tables
    from geneval_reward.results.terminal import terminal

    table = tables.Table("score against images and seconds", *methods_table(runs))
    output.print(terminal(tables.Document([table], table), output.width))


class LiveTable:
    """Shows a progress bar and a table of the last epochs; without a terminal, a line per measurement on held-out prompts.

    Args:
        title: Title of the table.
        console: The console to show it on.
    """

    def __init__(self, title: str, console: Console) -> None:
        self.title, self.console = title, console
        self.points: list[Any] = []
        self.bar = Progress(
            TextColumn("{task.fields[stage]}"), BarColumn(40), TimeElapsedColumn(), console=console, auto_refresh=False
        )
        self.task = self.bar.add_task("", total=1.0, stage="measuring before")
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def update(self, point: Any) -> None:
        """Show a new point of the training curve, as `train_pocket` reports it."""
        stage = {"before": "training", "train": "training", "after": "done"}[point.stage]
        self.bar.update(self.task, completed=point.fraction, stage=stage)
        if point.stage != "after":
            self.points.append(point)
        if not self.console.is_terminal and (point.stage != "train" or not math.isnan(point.held_out)):
            cells = zip(_COLUMNS, _cells(point), strict=True)
            self.console.print(
                point.stage, *(f"{name} {cell}" for name, cell in cells if cell), sep="  ", soft_wrap=True
            )

    def _render(self) -> Group:
        table = Table(*_COLUMNS, title=f"{self.title} on the pocket model", title_justify="left")
        first, last = self.points[:1], self.points[1:][-_ROWS:]
        for point in (*first, *last):
            table.add_row(*_cells(point))
        return Group(table, self.bar)


def _cells(point: Any) -> tuple[str, ...]:
    from geneval_reward.results.notation import points_text, share_text

    def number(value: float, form: str) -> str:
        return "" if math.isnan(value) else format(value, form)

    found = point.metrics
    return (
        str(point.epoch or "before"),
        f"{point.images:,}",
        f"{point.seconds:.0f}",
        "" if math.isnan(point.reward) else share_text(point.reward),
        "" if math.isnan(point.held_out) else share_text(point.held_out),
        "" if math.isnan(point.audit_gap) else points_text(point.audit_gap),
        number(found.get("zero_std_ratio", math.nan), ".2f"),
        number(found.get("velocity_norm_drift", math.nan), "+.1%"),
    )


def _by_task(result: TrainingDemo) -> Table:
    from geneval_reward.results.notation import difference_text, share_text

    table = Table(
        "task", "before", "after", "difference, points", title="held-out prompts, same noise", title_justify="left"
    )

    def row(name: str, before: Any, after: Any, difference: Any) -> None:
        table.add_row(name, share_text(before.value), share_text(after.value), difference_text(difference))

    for name, before in result.before.tags.items():
        row(name, before, result.after.tags[name], result.difference.tags[name])
    table.add_section()
    row("overall", result.before.overall, result.after.overall, result.difference.overall)
    return table
