"""Small pictures of many images, as large as a number of bytes allows. They are decoded by threads."""

from __future__ import annotations

import bisect
import io
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.vision.images import load_rgb

# Longer side in pixels and WebP quality, from generous to barely recognisable.
LADDER: Final = (
    (512, 60), (480, 58), (448, 56), (416, 54), (384, 52), (352, 50), (320, 48), (288, 47), (256, 45), (240, 44), (224, 42),
    (208, 41), (192, 40), (176, 39), (160, 38), (144, 35), (128, 32), (120, 30), (112, 28), (104, 25), (96, 22), (88, 18),
    (80, 14), (72, 11), (64, 8), (56, 6), (48, 5),
)  # fmt: skip
_METHOD: Final = 2  # WebP's effort, 0 to 6; 4 takes twice as long and saves 6 % of the bytes, which is 3 % of a side
_SAMPLE: Final = 48

_Decoded = tuple[Image.Image, tuple[int, int]] | str
"""An RGB image, which may be reduced, with its size in the file; or what is wrong with the file."""


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
    there = [path for path in paths if path is not None]
    made: list[Thumbnail] = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        few = there[:: -(-len(there) // _SAMPLE) or 1]
        sample = dict(zip(few, pool.map(lambda path: _decode(path, LADDER[0][0]), few), strict=True))
        for side, quality in LADDER[_first_step(list(sample.values()), len(there), budget, pool) :] if there else ():
            made = list(
                pool.map(lambda path, s=side, q=quality: _encode(sample.get(path) or _decode(path, s), s, q), there)
            )
            if sum(map(_bytes, made)) <= budget:
                break
    pictures = iter(made)
    return [MISSING if path is None else next(pictures) for path in paths]


def _first_step(sample: Sequence[_Decoded], count: int, budget: int, pool: ThreadPoolExecutor) -> int:
    """Find the largest step of the ladder at which all pictures should fit.

    Decoding is most of the work, and a step that turns out too large means decoding everything again. So the mean of the sample
    must fit by two standard errors (by none if the sample is everything).
    """

    def fits(step: int) -> bool:
        sizes = list(pool.map(lambda one: _bytes(_encode(one, *LADDER[step])), sample))
        unseen = 1 - len(sizes) / count
        error = math.sqrt(unseen * statistics.pvariance(sizes) / len(sizes))
        return (statistics.fmean(sizes) + 2 * error) * count <= budget

    # Pictures shrink along the ladder, so that `fits` is False up to the step that is looked for and True from there on.
    return min(bisect.bisect_left(range(len(LADDER)), True, key=fits), len(LADDER) - 1)


def _bytes(picture: Thumbnail) -> int:
    return len(picture.data or b"")


def _decode(path: Path, side: int) -> _Decoded:
    """Decode an image as the scorer does: turned by EXIF, without alpha, sixteen bits per channel scaled to eight."""
    try:
        image = load_rgb(path)
    except ImageError as error:
        kind = "not an image" if isinstance(error.__cause__, UnidentifiedImageError) else "damaged"
        return f"image cannot be read: {kind}"
    return _shrink(image, side), image.size


def _encode(decoded: _Decoded, side: int, quality: int) -> Thumbnail:
    if isinstance(decoded, str):
        return Thumbnail(None, None, decoded)
    image, size = decoded
    buffer = io.BytesIO()
    _shrink(image, side).save(buffer, "WEBP", quality=quality, method=_METHOD)
    return Thumbnail(buffer.getvalue(), size)


def _shrink(image: Image.Image, side: int) -> Image.Image:
    """Make the longer side of an image at most `side` pixels."""
    longer = max(image.size)
    if longer <= side:
        return image
    width, height = (max(1, round(length * side / longer)) for length in image.size)
    # With this gap, Pillow takes means of whole blocks first, which makes the filter four times as fast.
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=1.0)
