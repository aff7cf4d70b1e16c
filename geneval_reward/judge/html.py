"""Verdicts and detections as a notebook shows them: boxes on an empty canvas, and the reasons in words. No pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Final

from geneval_reward.judge.boxes import PALETTE, boxes

if TYPE_CHECKING:
    from geneval_reward.judge.detections import Detections
    from geneval_reward.judge.verdict import Verdict

_SIDE: Final = 320  # pixels of the longer side of a canvas
_SHOWN: Final = 60  # boxes of bare detections; a detector may return hundreds
_Drawn = tuple[tuple[float, float, float, float], str, str, bool]


def verdict_html(verdict: Verdict) -> str:
    """Show a verdict: the boxes that the judge looked at, the prompt, every failure and the graded credits."""
    spec = verdict.spec
    sign, hue = ("✓ correct", "#1a9160") if verdict.correct else ("✗ wrong", "#d6453d")
    drawn = [(box.xyxy, box.label if box.counts else "", box.hue, box.counts) for box in boxes(verdict)]
    picture = _svg(verdict.detections.image_size, drawn) if verdict.has_detections else ""
    graded = {name: verdict.credit(name) for name in ("strict", "partial", "dense")}
    lines = [
        f'<b style="color: {hue}">{sign}</b> {escape(spec.prompt)} <small>({escape(spec.tag)})</small>',
        *(f'<span style="color: {hue}">{escape(line)}</span>' for line in verdict.reason.splitlines()),
        "<small>"
        + ", ".join(f"{name} {value:.3f}" for name, value in graded.items() if math.isfinite(value))
        + "</small>",
    ]
    return f"<div>{picture}{''.join(f'<div>{line}</div>' for line in lines)}</div>"


def detections_html(detections: Detections) -> str:
    """Show detections: the most confident boxes, one colour per class."""
    names = detections.class_names
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    rows = detections.confidence.argsort(kind="stable")[-_SHOWN:].tolist()
    drawn = [
        (
            tuple(detections.xyxy[row].tolist()),
            f"{names[row]} {detections.confidence[row]:.2f}",
            PALETTE[order[names[row]] % len(PALETTE)],
            True,
        )
        for row in rows
    ]
    more = f"; the {_SHOWN} most confident are drawn" if len(names) > _SHOWN else ""
    return f"<div>{_svg(detections.image_size, drawn)}<div><small>{escape(repr(detections))}{more}</small></div></div>"


def _svg(size: tuple[int, int], drawn: Iterable[_Drawn]) -> str:
    width, height = size
    scale = _SIDE / max(width, height, 1)
    shapes = []
    for (x1, y1, x2, y2), label, hue, strong in drawn:
        left, top = x1 * scale, y1 * scale
        shapes.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.0, (x2 - x1) * scale):.1f}" '
            f'height="{max(0.0, (y2 - y1) * scale):.1f}" fill="none" stroke="{hue}" stroke-width="{2.5 if strong else 1}"/>'
        )
        if label:
            # Above the box where there is room, and never beyond the right side; the width of text is an estimate.
            space = 6.4 * len(label) + 6
            x, y = min(left, max(0.0, width * scale - space)), top - 15 if top >= 15 else top
            shapes.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{space:.1f}" height="15" fill="{hue}" class="label"/>'
                f'<text x="{x + 3:.1f}" y="{y + 11.5:.1f}" fill="white" font-size="11" font-family="sans-serif">'
                f"{escape(label)}</text>"
            )
    wide, tall = f"{width * scale:.0f}", f"{height * scale:.0f}"
    return (
        f'<svg viewBox="0 0 {wide} {tall}" width="{wide}" role="img" aria-label="boxes" '
        f'style="max-width: 100%; height: auto; background: #8882; border: 1px solid #8886">{"".join(shapes)}</svg>'
    )
