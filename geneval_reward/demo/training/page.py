"""The one-page report of a training run, compared with other runs in the same folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from geneval_reward.demo.training.record import Point, RunRecord
from geneval_reward.demo.training.run import TrainingDemo
from geneval_reward.results.notation import points_text, points_with_interval, share_text, share_with_interval
from geneval_reward.study.figures import PALETTE, error_bars, new_figure, tidy
from geneval_reward.study.report.page import Card, Part, Section, judged_page

_SHOWN_PER_TAG = 3
_SMOOTH = 5  # epochs; the share in a single rollout of a dozen prompts is noisy
_NAMES = {"nft": "DiffusionNFT", "flow-grpo": "Flow-GRPO"}
_COLORS = dict(zip(_NAMES, PALETTE, strict=False))

AUDIT_NAMES = {
    "geneval/audited_score": "first judge, which gives the rewards",
    "geneval/audit": "second judge",
    "geneval/audit_gap": "gap, points",
    "geneval/audit_confirmed": "share of what the first judge passes that the second one confirms",
    "geneval/brightness": "brightness, 0 to 1",
    "geneval/diversity": "diversity of images of one prompt, 0 to 1",
}


def method_name(method: str) -> str:
    """Return the method's name as its paper spells it."""
    return _NAMES[method]


def training_page(result: TrainingDemo, runs: Sequence[RunRecord]) -> str:
    """Write the report.

    Args:
        result: The run.
        runs: This run and others to compare it with, one per method.

    Returns:
        A self-contained HTML page.
    """
    own = RunRecord.of(result)
    facts = [
        ("held-out score before", _spanned(own.before)),
        ("after", _spanned(own.after)),
        ("difference, same noise", f"{points_with_interval(*own.difference)} points"),
        ("images sampled", f"{own.images:,}"),
        ("wall time", f"{own.total_seconds / 60:.1f} min"),
    ]
    parts = [
        Part(
            "Score against images and against seconds",
            "Large dots: the whole held-out suite, before and after. Small dots: a quarter of it, as the callback saw it in "
            f"training. Lines: the share of right images in rollouts, on training prompts, mean of {_SMOOTH} epochs.",
            picture=curves(runs),
        )
    ]
    if len(runs) > 1:
        parts.append(Part("The methods in one table", "Each with what it was given.", methods_table(runs)))
    by_task = [
        (tag, _spanned(row["before"]), _spanned(row["after"]), points_text(row["after"][0] - row["before"][0]))
        for tag, row in own.tags.items()
    ]
    audit = [*_audit_rows(own), ("velocity norm against the first epoch", "", _drift(own.curve))]
    parts += [
        Part(
            "By task",
            "95 % intervals, prompts resampled. Held-out prompts: no composition of two objects, colours or places among "
            "them is in the training prompts.",
            (("task", "before", "after", "difference, points"), by_task),
        ),
        Part(
            "Audit: is it the pictures that got better, or the judge that was fooled?",
            f"A second judge scored the same {result.audit_after.images} samples: another network (NanoDet), which gives no "
            "rewards. It misses some good images too, so the gap rises a little with the score; a confirmed share that "
            "falls, images that all brighten, or diversity near 0 would mean that rewards are being hacked. "
            f"Prompts with {' or '.join(result.settings.not_audited)}, which it does not see here, are left out.",
            (("", "before", "after"), audit),
        ),
        Part("The same on Stable Diffusion 3.5", "One 80 GB GPU:", line=result.launch_line),
    ]
    return judged_page(
        f"The pocket model, fine-tuned by {_NAMES[own.method]}",
        "A small text-to-image model that ships with the package was rewarded for what the packaged COCO detector sees in its "
        "images. All that is shown and counted here was held out of training.",
        facts,
        [
            Section(
                "Before and after",
                "The same held-out prompts and the same noise, left before and right after training; the first of each task, not "
                "picked.",
                _cards(result),
                paired=True,
            )
        ],
        parts=parts,
    )


def methods_table(runs: Sequence[RunRecord]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Compare runs in a table; return its column names and rows."""
    columns = ("method", "images", "seconds", "before", "after", "difference, points", "half of it at")
    rows: list[tuple[str, ...]] = []
    for run in runs:
        half = _half_way(run)
        rows.append(
            (
                f"{method_name(run.method)}, {run.minutes:g} min",
                f"{run.images:,}",
                f"{run.total_seconds:.0f}",
                share_text(run.before[0]),
                share_text(run.after[0]),
                points_with_interval(*run.difference),
                f"{half.images:,} images, {half.seconds:.0f} s" if half else "-",
            )
        )
    return columns, rows


def curves(runs: Sequence[RunRecord]) -> Image.Image:
    """Plot reward and held-out score of runs against images sampled and against seconds."""
    figure = new_figure(10, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, name, label in ((left, "images", "images sampled"), (right, "seconds", "seconds")):
        for run in runs:
            color = _COLORS[run.method]
            _line(axes, _smoothed(run.curve), name, "reward", color=color, lw=1, alpha=0.6)
            _line(
                axes, run.curve, name, "held_out", color=color, marker="o", ms=4.5, mec="white", mew=0.8, lw=0, zorder=5
            )
            ends = [0.0, float(run.images)] if name == "images" else [0.0, run.total_seconds]
            values = [run.before, run.after]
            own = [value for value, _, _ in values]
            axes.errorbar(
                ends,
                own,
                error_bars(own, [low for _, low, _ in values], [high for _, _, high in values]),
                color=color,
                fmt="o",
                ms=7,
                lw=1.2,
                capsize=3,
                label=_NAMES[run.method],
            )
        axes.set(xlabel=label, ylim=(0, 1))
        tidy(axes, "both")
    left.set_ylabel("share of right images")
    right.legend(loc="lower right", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return Image.open(buffer)


def _line(axes: Any, curve: Sequence[Point], x: str, y: str, **style: Any) -> None:
    points = [point for point in curve if getattr(point, y) is not None]
    axes.plot([getattr(point, x) for point in points], [getattr(point, y) for point in points], **style)


def _smoothed(curve: Sequence[Point]) -> list[Point]:
    known = [point for point in curve if point.reward is not None]
    parts = [known[max(0, end - _SMOOTH) : end] for end in range(1, len(known) + 1)]
    return [replace(part[-1], reward=sum(p.reward for p in part) / len(part)) for part in parts]  # type: ignore[misc]


def _half_way(run: RunRecord) -> Point | None:
    """Find the first check in training that shows half of the rise."""
    looks = [point for point in run.curve if point.held_out is not None]
    half = (run.before[0] + run.after[0]) / 2 - 1e-9  # allow for rounding
    return next((p for p in looks if p.held_out >= half), None)  # type: ignore[operator]


def _audit_rows(run: RunRecord) -> list[tuple[str, ...]]:
    def shown(name: str, value: float | None) -> str:
        return points_text(value) if name == "geneval/audit_gap" and value is not None else share_text(value)

    sides = (run.audit_before, run.audit_after)
    return [(text, *(shown(name, side[name]) for side in sides)) for name, text in AUDIT_NAMES.items()]


def _drift(curve: Sequence[Point]) -> str:
    known = [point.velocity_drift for point in curve if point.velocity_drift is not None]
    return f"{known[-1]:+.1%}" if known else "-"


def _cards(result: TrainingDemo) -> list[Card]:
    shown: dict[str, list[Any]] = {}
    for pair in result.pairs:
        shown.setdefault(pair.spec.tag, []).append(pair)
    return [
        card
        for pairs in shown.values()
        for pair in pairs[:_SHOWN_PER_TAG]
        for card in (
            Card(Image.fromarray(pair.before), pair.verdict_before, "before"),
            Card(Image.fromarray(pair.after), pair.verdict_after, "after, same noise"),
        )
    ]


def _spanned(value: Sequence[float]) -> str:
    return share_with_interval(*value)
