"""Small pictures of many images, as large as a number of bytes allows. They are decoded by threads."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from geneval_reward.errors import UsageError
from geneval_reward.vision.formats import open_image
from geneval_reward.vision.images import load_image

# Longer side in pixels and WebP quality, from generous to barely recognisable.
LADDER: Final = (
    (512, 60),
    (448, 56),
    (384, 52),
    (320, 48),
    (256, 45),
    (224, 42),
    (192, 40),
    (160, 38),
    (144, 35),
    (128, 32),
    (112, 30),
    (104, 25),
    (96, 22),
    (88, 18),
    (80, 14),
    (72, 10),
    (64, 8),
    (48, 5),
)
_SAMPLE: Final = 24
_MARGIN: Final = 0.96
_HELD: Final = 256 * 2**20  # largest number of bytes of decoded pictures to hold in memory

_Decoded = tuple[Image.Image, tuple[int, int]] | str
"""A small RGB image with the size of the image in the file, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture, or why there is none.

    Attributes:
        data: WebP bytes; None if the image is missing or cannot be decoded.
        size: `(width, height)` of the image itself in pixels; None if unknown.
        problem: Why there is no picture, in a few words; empty if there is one.
    """

    data: bytes | None
    size: tuple[int, int] | None
    problem: str = ""


MISSING: Final = Thumbnail(None, None, "image not found")


def thumbnails(paths: Sequence[Path | None], budget: int, workers: int | None = None) -> list[Thumbnail]:
    """Make small pictures.

    All pictures get the same side and quality, the largest of `LADDER` that fits.

    Args:
        paths: `(n,)` image files; None for one that was not found.
        budget: Bytes for all pictures together, > 0. It is exceeded if not even the smallest size fits.
        workers: Number of decoding threads; None takes one per processor.

    Returns:
        `(n,)` pictures in the same order.

    Raises:
        UsageError: If an argument is out of range.
    """
    if budget <= 0:
        raise UsageError(f"budget: expected a number of bytes > 0, got {budget}")
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected a number >= 1, got {workers}")
    there = [i for i, path in enumerate(paths) if path is not None]
    found = [MISSING] * len(paths)
    if not there:
        return found
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        step = _choose_step([paths[i] for i in there], budget, pool)
        side = LADDER[step][0]
        # Decoding costs most. A set that turns out too large is encoded again from the decoded pictures, if memory can hold them.
        held = len(there) * side * side * 3 <= _HELD
        decoded = list(pool.map(partial(_decode, side=side), (paths[i] for i in there))) if held else None
        while True:
            side, quality = LADDER[step]
            source = pool.map(partial(_decode, side=side), (paths[i] for i in there)) if decoded is None else decoded
            made = list(pool.map(partial(_thumbnail, side=side, quality=quality), source))
            total = sum(len(one.data or b"") for one in made)
            # The sample was smaller than the rest, so the next smaller size is tried.
            if total <= budget or step == len(LADDER) - 1:
                break
            step = min(len(LADDER) - 1, step + 1 + (total > 1.3 * budget))
    for i, one in zip(there, made, strict=True):
        found[i] = one
    return found


def _choose_step(paths: Sequence[Path | None], budget: int, pool: ThreadPoolExecutor) -> int:
    """Find the first step of the ladder whose sample, scaled up to all images, fits."""
    spread = paths[:: max(1, len(paths) // _SAMPLE)]
    decoded = list(pool.map(lambda path: _decode(path, LADDER[0][0]), spread))
    pictures = [one for one in decoded if isinstance(one, tuple)]
    for step, (side, quality) in enumerate(LADDER):
        sizes = pool.map(lambda one, side=side, quality=quality: len(_encode(one[0], side, quality)), pictures)
        if sum(sizes) / len(spread) * len(paths) <= _MARGIN * budget:
            return step
    return len(LADDER) - 1


def _thumbnail(decoded: _Decoded, side: int, quality: int) -> Thumbnail:
    if isinstance(decoded, str):
        return Thumbnail(None, None, decoded)
    image, size = decoded
    return Thumbnail(_encode(image, side, quality), size)


def _decode(path: Path | None, side: int) -> _Decoded:
    """Decode an image to at most `side` pixels, with the size of the image in the file; or say what is wrong with it."""
    if path is None:
        return MISSING.problem
    try:
        with open_image(path) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            size = (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size
            if image.mode.startswith(("I", "F")):
                return _deep(path, side)
            image.draft("RGB", (side, side))
            # The scorer also turns images by EXIF and drops alpha.
            small = (ImageOps.exif_transpose(image) if orientation != 1 else image).convert("RGB")
            small.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
            return small, size
    except Exception as error:  # noqa: BLE001 - a decoder raises whatever a damaged file makes it raise
        kind = error.__cause__ or error
        return "image cannot be read: " + ("not an image" if isinstance(kind, UnidentifiedImageError) else "damaged")


def _deep(path: Path, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Decode an image with sixteen bits per channel, scaled as the scorer scales it."""
    image = Image.fromarray(load_image(path).permute(1, 2, 0).numpy())
    size = image.size
    image.thumbnail((side, side))
    return image, size


def _encode(image: Image.Image, side: int, quality: int) -> bytes:
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()
