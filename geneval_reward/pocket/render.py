"""Draws scenes quickly: each drawing is prepared once per class, colour and size."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from geneval_reward.pocket.artwork import BACKGROUNDS, background
from geneval_reward.pocket.scene import LOOKS, SIZES, Scene, drawing

RESOLUTION: Final = 256
"""Side of a picture in pixels."""

_STEP: Final = 4  # sizes are rounded to multiples of this, so that few drawings are prepared
_LIGHTS: Final = 4  # steps of lightness of the ground
_SHADOW: Final = (40, 40, 48)
_SHADOW_ALPHA: Final = 70

Bytes = npt.NDArray[np.uint8]


def render(scene: Scene) -> Bytes:
    """Draw a scene.

    Args:
        scene: Scene to show. Sizes are clipped to `geneval_reward.pocket.scene.SIZES`; objects may reach over the edge.

    Returns:
        `(256, 256, 3)` uint8 RGB.
    """
    picture = ground(*scene.ground).copy()
    for item in scene.items:
        size = round(float(np.clip(item.size, *SIZES)) * RESOLUTION / _STEP) * _STEP
        color, cover = _stamp(item.class_name, item.color, size)
        height, width = cover.shape[:2]
        left, top = round(item.x * RESOLUTION - width / 2), round(item.y * RESOLUTION - height / 2)
        # Cut off what reaches over the edge.
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, RESOLUTION), min(top + height, RESOLUTION)
        if x1 >= x2 or y1 >= y2:
            continue
        inside = slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)
        patch = picture[y1:y2, x1:x2]
        patch[:] = color[inside] + ((patch.astype(np.uint16) * cover[inside]) >> 8).astype(np.uint8)
    return picture


def ground(tone: float, light: float) -> Bytes:
    """Return the ground for two numbers in [-1, 1] as a shared `(256, 256, 3)` uint8 array; do not write into it."""
    return _ground(_index(tone, len(BACKGROUNDS)), _index(light, _LIGHTS))


def _index(value: float, count: int) -> int:
    return int(np.clip(np.floor((value + 1) / 2 * count), 0, count - 1))


@cache
def _ground(tone: int, light: int) -> Bytes:
    shade = np.asarray(background(RESOLUTION, seed=tone * _LIGHTS + light), np.float32)
    # The seed chooses the slope of light; the tone is set here.
    shade = shade - shade.mean((0, 1)) + np.array(BACKGROUNDS[tone], np.float32) - 20 * (_LIGHTS - 1 - light)
    tinted: Bytes = shade.round().clip(0, 255).astype(np.uint8)
    return tinted


@lru_cache(maxsize=2048)
def _stamp(class_name: str, color: str | None, size: int) -> tuple[Bytes, npt.NDArray[np.uint16]]:
    """A drawing with its shadow: colour times cover, and what is left of the ground in 256ths `(H, W, 1)`."""
    image = drawing(class_name, color)
    scale = size / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    blur = max(1, image.height // 24)
    margin = 3 * blur
    frame = Image.new("RGBA", (image.width + 2 * margin, image.height + 2 * margin))
    frame.paste(image, (margin, margin))
    under = Image.new("L", frame.size)
    under.paste(image.getchannel("A").point(lambda a: a * _SHADOW_ALPHA // 255), (margin, margin + blur))
    rgba = np.asarray(frame, np.float32)
    alpha = rgba[..., 3:] / 255
    shadow = np.asarray(under.filter(ImageFilter.GaussianBlur(blur)), np.float32)[..., None] / 255 * (1 - alpha)
    grain = LOOKS[class_name].grain
    rgb = rgba[..., :3]
    if grain:
        rng = np.random.default_rng(size)
        rgb = (rgb + rng.normal(0, grain, rgb.shape).astype(np.float32)).clip(0, 255)
    color_part = rgb * alpha + np.array(_SHADOW, np.float32) * shadow
    left = (256 * (1 - alpha - shadow)).clip(0, 256)
    # Rounded down, so that the sum with the ground stays within a byte.
    return np.floor(color_part).clip(0, 255).astype(np.uint8), np.floor(left).astype(np.uint16)
