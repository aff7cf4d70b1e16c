"""Small pictures of many images, as large as a number of bytes allows. They are decoded by threads."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.vision.images import load_image

# Longer side in pixels and WebP quality, from generous to barely recognisable.
LADDER: Final = (
    (512, 60), (448, 56), (384, 52), (320, 48), (256, 45), (224, 42), (192, 40), (160, 38), (128, 32), (112, 28), (96, 22),
    (80, 14), (64, 8), (48, 5),
)  # fmt: skip
_SAMPLE: Final = 24
_MARGIN: Final = 0.96

_Decoded = tuple[Image.Image, tuple[int, int]] | str
"""An RGB image of at most the largest side, with its size in the file; or what is wrong with the file."""


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
        sample = list(pool.map(_decode, there[:: max(1, len(there) // _SAMPLE)]))
        for side, quality in LADDER if there else ():
            smallest = (side, quality) == LADDER[-1]
            if not smallest:
                # A few pictures tell whether it is worth making all of them.
                few = _bytes(list(pool.map(lambda one, s=side, q=quality: _encode(one, s, q), sample)))
                if few / len(sample) * len(there) > _MARGIN * budget:
                    continue
            made = list(pool.map(lambda path, s=side, q=quality: _encode(_decode(path), s, q), there))
            if smallest or _bytes(made) <= budget:
                break
    pictures = iter(made)
    return [MISSING if path is None else next(pictures) for path in paths]


def _bytes(pictures: Sequence[Thumbnail]) -> int:
    return sum(len(one.data or b"") for one in pictures)


def _decode(path: Path) -> _Decoded:
    """Decode an image as the scorer does: turned by EXIF, without alpha, sixteen bits per channel scaled to eight."""
    try:
        image = Image.fromarray(load_image(path).permute(1, 2, 0).numpy())
    except ImageError as error:
        kind = "not an image" if isinstance(error.__cause__, UnidentifiedImageError) else "damaged"
        return f"image cannot be read: {kind}"
    size = image.size
    image.thumbnail((LADDER[0][0],) * 2, reducing_gap=2.0)
    return image, size


def _encode(decoded: _Decoded, side: int, quality: int) -> Thumbnail:
    if isinstance(decoded, str):
        return Thumbnail(None, None, decoded)
    image, size = decoded
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return Thumbnail(buffer.getvalue(), size)
