"""Judged images with their boxes and reasons drawn on."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from geneval_reward.judge.evidence import Evidence
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.vocabulary import COLORS

# One hue per class of the record, in order; readable on photographs and for the colour-blind (Okabe & Ito 2008).
PALETTE: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_FAINT: Final = "#888888"


def draw_verdict(image: Image.Image, verdict: Verdict, side: int = 512) -> Image.Image:
    """Draw what the judge looked at.

    Objects that count are drawn boldly with class, confidence and, where it was asked, colour; detections below the threshold
    faintly, down to half of it.

    Args:
        image: The judged image.
        verdict: Its verdict.
        side: Longer side of the result in pixels.

    Returns:
        A new RGB image.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(canvas)
    evidence = Evidence(verdict.detections, verdict.rules, verdict.spec.tag)
    names = verdict.spec.class_names
    for order, name in enumerate(names):
        objects = set(evidence.objects(name))
        hue = PALETTE[order % len(PALETTE)]
        # Least confident first, so that what counts lies on top.
        for row in reversed(evidence.ranked(name)):
            if row in objects:
                _box(draw, _scaled(verdict, row, scale), _label(verdict, row, name), hue, canvas.width)
            elif evidence.confidence(row) > evidence.threshold / 2:
                _box(draw, _scaled(verdict, row, scale), "", _FAINT, canvas.width)
    return canvas


def _scaled(verdict: Verdict, row: int, scale: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) * scale for value in verdict.detections.xyxy[row])
    return x1, y1, max(x1 + 1, x2 - 1), max(y1 + 1, y2 - 1)


def _label(verdict: Verdict, row: int, name: str) -> str:
    detections = verdict.detections
    text = f"{name} {detections.confidence[row]:.2f}"
    if detections.color is not None and detections.color[row, 0] == detections.color[row, 0]:
        best = int(detections.color[row].argmax())
        share = float(detections.color[row, best])
        named = COLORS[best] if share >= 1 - float(detections.color[row].sum()) - 1e-6 else "no colour"
        text += f" · {named}" + (f" {share:.2f}" if named != "no colour" else "")
    return text


def _box(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], text: str, hue: str, width: int) -> None:
    draw.rectangle(box, outline=hue, width=3 if text else 1)
    if not text:
        return
    font = _font(max(11, width // 36))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    wide, tall = right - left + 8, bottom - top + 6
    x = min(max(0.0, box[0]), max(0.0, width - wide))
    y = box[1] - tall if box[1] >= tall else box[1]
    draw.rectangle((x, y, x + wide, y + tall), fill=hue)
    draw.text((x + 4 - left, y + 3 - top), text, fill="white", font=font)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
