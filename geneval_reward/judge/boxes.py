"""`boxes`: what the judge looked at in one image, in the form in which pages, loggers and notebooks show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from geneval_reward.judge.detections import Evidence

if TYPE_CHECKING:
    from geneval_reward.judge.verdict import Verdict

# One colour per class of the record, in order; readable on photographs and by colour-blind readers (Okabe & Ito 2008).
PALETTE: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
FAINT: Final = "#888888"
"""Colour of detections that are not confident enough to count."""


@dataclass(frozen=True, slots=True)
class Box:
    """A detection as it is shown.

    Attributes:
        row: Its row in the verdict's detections.
        order: Index of its class among the classes of the record, which decides the colour it is drawn in.
        name: Its class.
        xyxy: Corners in pixels of the judged image.
        confidence: Its confidence, in [0, 1].
        counts: Whether it counts as an object under the rules.
        color: The colour that the verifier saw, `no colour` if it is none of the ten, or None if that was not asked for.
        color_probability: The probability of that colour; NaN if there is none.
    """

    row: int
    order: int
    name: str
    xyxy: tuple[float, float, float, float]
    confidence: float
    counts: bool
    color: str | None
    color_probability: float

    @property
    def label(self) -> str:
        """Class, confidence and colour in a few words."""
        text = f"{self.name} {self.confidence:.2f}"
        if self.color is not None:
            text += f" · {self.color}" + (
                "" if math.isnan(self.color_probability) else f" {self.color_probability:.2f}"
            )
        return text

    @property
    def hue(self) -> str:
        """The colour that it is drawn in, as `#rrggbb`."""
        return PALETTE[self.order % len(PALETTE)] if self.counts else FAINT


def boxes(verdict: Verdict) -> list[Box]:
    """List what the judge looked at: the objects that count, and detections down to half of the threshold.

    Within a class the least confident come first, so that what counts is drawn on top.
    """
    evidence = Evidence(verdict.detections, verdict.rules, verdict.spec.tag)
    found = []
    for order, name in enumerate(verdict.spec.class_names):
        objects = set(evidence.objects(name))
        for row in reversed(evidence.ranked(name)):
            if row in objects or evidence.confidence(row) > evidence.threshold / 2:
                x1, y1, x2, y2 = verdict.detections.xyxy[row].tolist()
                color, share = _color(verdict, row)
                found.append(
                    Box(row, order, name, (x1, y1, x2, y2), evidence.confidence(row), row in objects, color, share)
                )
    return found


def _color(verdict: Verdict, row: int) -> tuple[str | None, float]:
    table = verdict.detections.color
    if table is None or math.isnan(table[row, 0]):
        return None, math.nan
    best = int(table[row].argmax())
    share = float(table[row, best])
    # A verifier that can abstain leaves the probability of "none of them" out of the row.
    return (
        (verdict.detections.colors[best], share)
        if share >= 1 - float(table[row].sum()) - 1e-6
        else ("no colour", math.nan)
    )
