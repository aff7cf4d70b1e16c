"""``geneval-reward demo --train``: the training run as a live table, and its report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from geneval_reward import GenEvalScorer
    from geneval_reward.demo_training import TrainingDemo

_SHOWN_PER_TAG = 2


def train_and_report(
    out: Path, method: str, quick: bool, seed: int, scorer: GenEvalScorer, messages: Console, output: Console
) -> Path:
    """Fine-tune the pocket model, print before and after, and write ``training.html``; returns the page."""
    from geneval_reward.demo_training import train_pocket

    bar = Progress(
        TextColumn("training"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(), console=messages
    )
    task = bar.add_task("", total=1.0, note="")

    def told(step: Any) -> None:
        held_out = "" if math.isnan(step.held_out) else f"held out {step.held_out:.3f}"
        reward = "" if math.isnan(step.reward) else f"reward {step.reward:.3f}"
        note = f"{step.stage} epoch {step.epoch} images {step.images} {reward} {held_out}"
        bar.update(task, completed=step.fraction, note=note)

    with Live(bar, console=messages, refresh_per_second=4):
        result = train_pocket(method, quick=quick, seed=seed, out=out / f"train-{method}", scorer=scorer, progress=told)  # type: ignore[arg-type]
    output.print(_table(result))
    page = out / f"training-{method}.html"
    page.write_text(_page(result), encoding="utf-8")
    return page


def _table(result: TrainingDemo) -> Table:
    table = Table("task", "before", "after", "difference", title="held-out prompts, same noise", title_justify="left")
    for name in result.before.tags:
        before, after = result.before.tags[name], result.after.tags[name]
        table.add_row(name, f"{before.value:.3f}", f"{after.value:.3f}", f"{after.value - before.value:+.3f}")
    table.add_section()
    table.add_row("overall", *_overall(result))
    return table


def _overall(result: TrainingDemo) -> tuple[str, str, str]:
    before, after = result.before.overall, result.after.overall
    parts = [f"{e.value:.3f} ({e.interval.low:.3f} .. {e.interval.high:.3f})" for e in (before, after)]
    return parts[0], parts[1], f"{after.value - before.value:+.3f}"


def _page(result: TrainingDemo) -> str:
    from PIL import Image

    from geneval_reward.report.page import Card, Section, judged_page

    before, after, change = _overall(result)
    facts = [
        ("overall before", before),
        ("overall after", after),
        ("difference", change),
        ("images sampled", f"{result.images_trained:,}"),
        ("training", f"{result.train_seconds:.0f} s"),
    ]
    facts += [
        (tag, f"{estimate.value:.2f} → {result.after.tags[tag].value:.2f}")
        for tag, estimate in result.before.tags.items()
    ]
    shown: dict[str, list[Any]] = {}
    for pair in result.pairs:
        shown.setdefault(pair.spec.tag, []).append(pair)
    cards = []
    for pairs in shown.values():
        for pair in pairs[:_SHOWN_PER_TAG]:
            cards.append(Card(Image.fromarray(pair.before), pair.verdict_before, "before"))
            cards.append(Card(Image.fromarray(pair.after), pair.verdict_after, "after, same noise"))
    return judged_page(
        f"The pocket model, fine-tuned by {result.method}",
        "A small text-to-image model is rewarded for what the packaged COCO detector sees; the prompts below were held out of "
        f"training. The same on a large model: {result.launch_line}",
        facts,
        [
            Section(
                "Before and after",
                "The same held-out prompt and noise, before and after; the first of each task, not picked.",
                cards,
            )
        ],
        picture=_curve(result),
    )


def _curve(result: TrainingDemo) -> Any:
    """Reward and held-out score against seconds, as an image."""
    import io

    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    rows = [row for row in result.curve if not math.isnan(row.reward)]
    axes.plot(
        [row.seconds for row in rows], [row.reward for row in rows], color="#9aa4b2", lw=1, label="reward in training"
    )
    points = [row for row in result.curve if not math.isnan(row.held_out)]
    axes.plot(
        [row.seconds for row in points],
        [row.held_out for row in points],
        "o-",
        color="#0072B2",
        ms=3.5,
        label="held out",
    )
    axes.set(xlabel="seconds", ylabel="share right", ylim=(0, 1))
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)
