"""Draw what the judge looked at onto images."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from geneval_reward.judge.boxes import boxes
from geneval_reward.judge.verdict import Verdict
from geneval_reward.vision.images import as_image


def draw_verdict(image: Any, verdict: Verdict, side: int = 512) -> Image.Image:
    """Draw what the judge looked at.

    Objects that count are drawn in bold with class, confidence and, if it was asked for, colour. Detections below the
    threshold are drawn faintly, down to half of it.

    Args:
        image: The judged image, in any form that `geneval_reward.vision.images.as_image` takes.
        verdict: Its verdict.
        side: Longer side of the result in pixels.

    Returns:
        A new RGB image.

    Raises:
        ImageError: If it is not an image, or cannot be read.
    """
    if not isinstance(image, Image.Image):
        image = Image.fromarray(as_image(image).permute(1, 2, 0).cpu().numpy())
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas: Image.Image = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(canvas)
    for box in boxes(verdict):
        x1, y1, x2, y2 = (value * scale for value in box.xyxy)
        corners = (x1, y1, max(x1 + 1, x2 - 1), max(y1 + 1, y2 - 1))
        _box(draw, corners, box.label if box.counts else "", box.hue, canvas.width)
    return canvas


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
