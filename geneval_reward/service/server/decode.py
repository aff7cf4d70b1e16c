"""Decode the images of a request. Runs only in worker processes, because a decoder that crashes or hangs costs a process."""

from __future__ import annotations

import io
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from geneval_reward.errors import ImageError
from geneval_reward.vision.images import as_image

_MAX_SCANS: Final = 100
"""Scans per JPEG. Real progressive files have about ten, and each takes a pass over the whole image."""

_FORMATS: Final = {"png": "a PNG", "webp": "a WebP", "jpeg": "a JPEG"}


def decode(image: dict[str, Any], data: bytes | memoryview, max_pixels: int, where: str = "image") -> torch.Tensor:
    """Decode an image.

    Args:
        image: `format` (`raw`, `png`, `webp` or `jpeg`), and for `raw` also `shape` and `layout`, as on the wire.
        data: The image's bytes.
        max_pixels: Larger images are refused before they are decoded.
        where: The image's name in error messages.

    Returns:
        `(3, h, w)` uint8.

    Raises:
        ImageError: If the image is damaged, too large, or in another format.
    """
    kind = image["format"]
    if kind == "raw":
        return _raw(image["shape"], image["layout"], data, max_pixels, where)
    if kind == "jpeg" and bytes(data).count(b"\xff\xda") > _MAX_SCANS:
        raise ImageError(f"{where}: expected a JPEG of at most {_MAX_SCANS} scans, got more; encode it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=(kind,)) as picture:
                _check_size(*picture.size, max_pixels, where)
                if kind == "webp" and not _is_lossless(data):
                    raise ImageError(
                        f"{where}: expected a lossless WebP, got a lossy or animated one; encode it lossless"
                    )
                return as_image(picture, where)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{where}: expected at most {max_pixels:,} pixels, got far more; scale it down") from error
    except Exception as error:  # a decoder may raise anything for hostile bytes
        raise ImageError(
            f"{where}: expected {_FORMATS[kind]}, got something else or a damaged one ({error}); send it again"
        ) from error


def split_by_pixels(images: Sequence[dict[str, Any]], blobs: Sequence[bytes], most: int) -> list[slice]:
    """Split a batch into parts of at most `most` pixels, by the images' headers; a larger image is a part by itself.

    Args:
        images: As for `decode`.
        blobs: Bytes of each image.
        most: Pixels per part, which limits a worker's memory.
    """
    parts: list[slice] = []
    held = 0
    for index, (image, data) in enumerate(zip(images, blobs, strict=True)):
        pixels = len(data) // 3 if image["format"] == "raw" else _header_pixels(image["format"], data)
        if parts and held + pixels <= most:
            parts[-1] = slice(parts[-1].start, index + 1)
            held += pixels
        else:
            parts.append(slice(index, index + 1))
            held = pixels
    return parts


def decode_all(
    images: Sequence[dict[str, Any]], blobs: Sequence[bytes], max_pixels: int, seconds: float
) -> tuple[list[torch.Tensor | str], bool]:
    """Decode the images of a batch concurrently.

    Args:
        images: As for `decode`, with `where`.
        blobs: Bytes of each image.
        max_pixels: Larger images are refused.
        seconds: Time limit for the batch. An image that takes longer gets an error, and its thread cannot be stopped.

    Returns:
        Pixels or an error per image, and whether a thread is still running, in which case this process should be replaced.
    """
    found: list[torch.Tensor | str | None] = [None] * len(images)

    def run(index: int) -> None:
        try:
            found[index] = decode(images[index], blobs[index], max_pixels, images[index]["where"])
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            found[index] = str(error) or type(error).__name__

    # One thread per image, so that a decoder that hangs does not hold up the others; raw values need none.
    threads = []
    for index, image in enumerate(images):
        if image["format"] == "raw":
            run(index)
        else:
            threads.append(threading.Thread(target=run, args=(index,), daemon=True))
            threads[-1].start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    stuck = any(thread.is_alive() for thread in threads)
    return [
        f"{image['where']}: expected an image that is decoded within {seconds:g} s, got one that is not; leave it out"
        if pixels is None
        else pixels
        for image, pixels in zip(images, found, strict=True)
    ], stuck


def _header_pixels(kind: str, data: bytes) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=(kind,)) as picture:
                return picture.size[0] * picture.size[1]
    except Exception:  # noqa: BLE001 - `decode` says what is wrong
        return 0


def _raw(shape: Sequence[int], layout: str, data: bytes | memoryview, max_pixels: int, where: str) -> torch.Tensor:
    height, width = shape[:2] if layout == "hwc" else shape[1:]
    _check_size(width, height, max_pixels, where)
    if len(data) != 3 * width * height:
        raise ImageError(
            f"{where}: expected {3 * width * height:,} bytes for the shape {list(shape)}, got {len(data):,}"
        )
    # Copied because the bytes of a message are read-only, and torch warns about read-only arrays.
    array = np.frombuffer(data, np.uint8).reshape(shape).copy()
    # The request states the layout; it is not guessed from the shape.
    tensor = torch.from_numpy(array)
    return tensor if layout == "chw" else tensor.permute(2, 0, 1).contiguous()


def _check_size(width: int, height: int, max_pixels: int, where: str) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{where}: expected at most {max_pixels:,} pixels, got {width} x {height}; scale it down")


def _is_lossless(data: bytes | memoryview) -> bool:
    """Return whether a WebP's first image chunk is lossless (RFC 9649, sections 2.5 to 2.7)."""
    offset = 12
    while offset + 8 <= len(data):
        kind = bytes(data[offset : offset + 4])
        if kind in (b"VP8L", b"VP8 ", b"ALPH", b"ANIM", b"ANMF"):
            return kind == b"VP8L"
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        offset += 8 + length + (length & 1)
    return False
