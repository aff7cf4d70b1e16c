"""Drawings of 62 of the classes, in their own colours or in the ten of the benchmark, and scenes composed of them.

The drawings are emoji of Noto Color Emoji (SIL Open Font License 1.1); source, hashes and licence lie beside them
in the package data. A composed scene has a known truth, so a judge can be watched at work and a small generator can
be trained without a data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.prompts.vocabulary import COLORS

Box = tuple[float, float, float, float]
Placed = tuple[str, str | None, Box]

PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 32, 36),
    "orange": (248, 130, 16),
    "yellow": (250, 214, 20),
    "green": (34, 152, 54),
    "blue": (32, 88, 220),
    "purple": (124, 44, 168),
    "pink": (250, 132, 188),
    "brown": (124, 74, 36),
    "black": (40, 40, 43),
    "white": (248, 248, 248),
}
"""What each colour name looks like here, sRGB: the middle tone of a recoloured drawing."""

BACKGROUNDS: Final[tuple[tuple[int, int, int], ...]] = (
    (225, 229, 232),
    (219, 226, 220),
    (232, 229, 222),
    (217, 223, 230),
    (229, 223, 227),
    (212, 218, 218),
    (234, 233, 230),
    (222, 220, 215),
)
"""Soft ground tones, sRGB: pale and greyish, so that all ten colours stand out from them."""

_FOLDER: Final = files("geneval_reward") / "data" / "artwork"


@cache
def _index() -> dict[str, Any]:
    return json.loads((_FOLDER / "artwork.json").read_text(encoding="utf-8"))["sprites"]  # type: ignore[no-any-return]


SPRITE_CLASSES: Final[tuple[str, ...]] = tuple(_index())
"""Classes that have a drawing, in the benchmark's order."""


def sprite(class_name: str, size: int, color: str | None = None) -> Image.Image:
    """The drawing of a class.

    Args:
        class_name: One of `SPRITE_CLASSES`.
        size: Length of the longer side in pixels, >= 1. The artwork's own is about 122.
        color: One of the ten colour names, or None for the drawing's own colours.

    Returns:
        RGBA image, cut to what is drawn, so that its frame is the object's box.

    Raises:
        SpecError: If there is no drawing of the class, or no such colour.

    Examples:
        >>> sprite("umbrella", 64, "red").size
        (64, 63)
    """
    if size < 1:
        raise UsageError(f"size: expected at least 1 pixel, got {size}")
    drawing = Image.fromarray(_recoloured(class_name, color))
    scale = size / max(drawing.size)
    width, height = (max(1, round(side * scale)) for side in drawing.size)
    return drawing.resize((width, height), Image.Resampling.LANCZOS)


def aspect(class_name: str) -> float:
    """Width by height of a class's drawing.

    Raises:
        SpecError: If there is no drawing of the class.
    """
    width, height = _entry(class_name)["size"]
    return float(width / height)


def recolor(rgba: npt.NDArray[np.uint8], color: str) -> npt.NDArray[np.uint8]:
    """Paint a drawing in one colour and keep its light and shade.

    The drawing's tones are stretched to the full range and bent so that the median tone becomes the colour of
    `PALETTE`; darker tones run down to black, so lines stay lines, and lighter ones are mixed with white, so
    lamps, windows and dials stay visible.

    Args:
        rgba: `(H, W, 4)` uint8.
        color: One of the ten colour names.

    Returns:
        `(H, W, 4)` uint8 with the same alpha.

    Raises:
        SpecError: If the colour is not one of the ten.
    """
    if color not in PALETTE:
        raise SpecError(f"color: expected one of {', '.join(COLORS)}, got {color!r}")
    target = np.array(PALETTE[color], np.float32)
    tone = _stretched(rgba)[..., None]
    painted: npt.NDArray[np.floating[Any]]
    if color == "white":
        # White has no room above it: shadows are kept shallow and only the lines go dark.
        painted = target * np.minimum(0.45 + 0.66 * tone**0.6, 1)
    elif color == "black":
        painted = 0.3 * target + 60 * tone
    else:
        light = np.clip((tone - _MIDDLE) / (1 - _MIDDLE), 0, 1)
        painted = target * (0.15 + 0.85 * np.minimum(tone / _MIDDLE, 1))
        painted = painted + (255 - painted) * 0.3 * light
    return np.dstack([painted.round().clip(0, 255).astype(np.uint8), rgba[..., 3]])


_MIDDLE: Final = 0.6
"""The stretched tone that is painted in the full colour."""


def _stretched(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Tones `(H, W)` of a drawing from 0 (darkest) to 1 (lightest), bent so that the median is `_MIDDLE`."""
    tone = rgba[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    solid = rgba[..., 3] > 128
    if not solid.any():
        return np.full_like(tone, _MIDDLE)
    darkest, lightest = np.quantile(tone[solid], [0.02, 0.98])
    tone = np.clip((tone - darkest) / max(lightest - darkest, 12.0), 0, 1)
    median = float(np.clip(np.median(tone[solid]), 0.15, 0.85))
    bent: npt.NDArray[np.float32] = tone ** np.float32(np.log(_MIDDLE) / np.log(median))
    return bent


def fitted(class_name: str, box: Box) -> tuple[int, int, int, int]:
    """Where a drawing comes to lie when it is fitted into a box: whole pixels, its own aspect, centred.

    Args:
        class_name: One of `SPRITE_CLASSES`.
        box: `(x1, y1, x2, y2)` in pixels, y down.

    Raises:
        SpecError: If there is no drawing of the class.
        ValueError: If the box is empty.
    """
    x1, y1, x2, y2 = box
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise UsageError(f"box: expected (x1, y1, x2, y2) at least a pixel wide and high, got {box}")
    width, height = _entry(class_name)["size"]
    scale = min((x2 - x1) / width, (y2 - y1) / height)
    longer = max(1, round(max(width, height) * scale))
    scale = longer / max(width, height)
    wide, high = (max(1, round(side * scale)) for side in (width, height))
    left, top = round((x1 + x2 - wide) / 2), round((y1 + y2 - high) / 2)
    return left, top, left + wide, top + high


def background(size: tuple[int, int] | int, seed: int = 0) -> Image.Image:
    """A soft ground: one pale tone with a gentle slope of light and two out-of-focus patches.

    Args:
        size: `(width, height)` or one number for a square, in pixels.
        seed: Chooses tone, slope and patches; one seed is one picture.

    Returns:
        RGB image.
    """
    width, height = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(seed)
    tone = np.array(BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))], np.float32)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(2, 7)
    shade = strength * (np.cos(angle) * x + np.sin(angle) * y)
    for _ in range(2):
        cx, cy, radius = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.4, 0.9)
        shade += rng.uniform(-5, 5) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)
    return Image.fromarray((tone + shade[..., None]).round().clip(0, 255).astype(np.uint8))


def compose(ground: Image.Image, objects: Iterable[Placed], shadow: bool = True) -> Image.Image:
    """Draw objects onto a ground, in order, the last on top.

    Args:
        ground: Any image; it is converted to RGB and left as it was.
        objects: `(class_name, color or None, (x1, y1, x2, y2))`; each drawing is fitted into its box
            (`fitted` says where it comes to lie).
        shadow: Lay a soft shadow below each object.

    Returns:
        A new RGB image.

    Raises:
        SpecError: If there is no drawing of a class, or no such colour.
    """
    scene = ground.convert("RGB").copy()
    for class_name, color, box in objects:
        left, top, right, bottom = fitted(class_name, box)
        drawing = sprite(class_name, max(right - left, bottom - top), color)
        if shadow:
            blur = max(1, drawing.height // 24)
            alpha = Image.new("L", (drawing.width + 6 * blur, drawing.height + 6 * blur))
            alpha.paste(drawing.getchannel("A").point(lambda a: a * 70 // 255), (3 * blur, 3 * blur))
            scene.paste((40, 40, 48), (left - 3 * blur, top - 2 * blur), alpha.filter(ImageFilter.GaussianBlur(blur)))
        scene.paste(drawing, (left, top), drawing)
    return scene


def _entry(class_name: str) -> dict[str, Any]:
    entry: dict[str, Any] | None = _index().get(class_name)
    if entry is None:
        raise SpecError(
            f"class_name: expected a class with a drawing, got {class_name!r}; "
            "see geneval_reward.pocket.artwork.SPRITE_CLASSES"
        )
    return entry


@cache
def _drawing(class_name: str) -> npt.NDArray[np.uint8]:
    with (_FOLDER / _entry(class_name)["file"]).open("rb") as file, Image.open(file) as image:
        return np.asarray(image.convert("RGBA"))


@lru_cache(maxsize=1024)
def _recoloured(class_name: str, color: str | None) -> npt.NDArray[np.uint8]:
    drawing = _drawing(class_name)
    return drawing if color is None else recolor(drawing, color)
