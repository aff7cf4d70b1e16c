"""mmdet 2.x's test pipeline, bit for bit: read, resize, pad and normalise.

OpenCV's bilinear resize works on uint8, rounds, and does not smooth when it shrinks an image; those of PIL and torch differ.
Sizes, padding and constants are those of mmdet's configuration `mask2former_r50_lsj_8x2_50e_coco` (2.28).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch

from geneval_reward.errors import ImageError

LONG_SIDE: Final = 1333
SHORT_SIDE: Final = 800
_DIVISOR: Final = 32
_PAD_VALUE: Final = 128
_MEAN: Final = (123.675, 116.28, 103.53)
_STD: Final = (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of one image in the pipeline, each `(height, width)` in pixels.

    Attributes:
        original: Size of the image.
        resized: Size after the resize.
        padded: Size of the network input.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read an image as the benchmark's detector does: 8 bits, three channels, no alpha, rotated as EXIF says.

    Returns:
        `(3, H, W)` uint8 RGB.

    Raises:
        ImageError: If there is no such file, or it cannot be decoded.
    """
    import cv2

    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as error:
        raise ImageError(f"image: expected a readable file, got {error}") from error
    try:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        raise ImageError(f"image: expected an image that OpenCV can decode, got {path}: {error}") from error
    if bgr is None:
        raise ImageError(f"image: expected an image that OpenCV can decode, got {path} ({data.size:,} bytes)")
    return torch.from_numpy(np.ascontiguousarray(bgr[:, :, ::-1].transpose(2, 0, 1)))


def geometry(height: int, width: int) -> Geometry:
    """Compute the sizes of an image in the pipeline.

    The image is scaled to the largest size that fits into 1333 x 800 (long side x short side); each side is rounded half up, and
    then padded to a multiple of 32. A side that would be rounded to 0, with which mmdet fails, becomes 1.

    Examples:
        >>> geometry(512, 512).padded
        (800, 800)
        >>> geometry(768, 1024)
        Geometry(original=(768, 1024), resized=(800, 1067), padded=(800, 1088))
    """
    if height < 1 or width < 1:
        raise ImageError(f"image: expected at least one pixel, got {width}x{height}")
    factor = min(LONG_SIDE / max(height, width), SHORT_SIDE / min(height, width))
    resized = max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
    padded = -(-resized[0] // _DIVISOR) * _DIVISOR, -(-resized[1] // _DIVISOR) * _DIVISOR
    return Geometry((height, width), resized, padded)


def resize_and_pad(image: torch.Tensor) -> tuple[torch.Tensor, Geometry]:
    """Resize one image and pad it at the right and bottom with grey 128.

    Args:
        image: `(3, H, W)` uint8, on any device, with channels in any order.

    Returns:
        `(3, Hp, Wp)` uint8 on the CPU, and the sizes.

    Raises:
        ImageError: If the tensor has another shape or dtype.
    """
    import cv2

    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
        raise ImageError(f"image: expected uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
    sizes = geometry(image.shape[1], image.shape[2])
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    height, width = sizes.resized
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    padded = np.full((*sizes.padded, 3), _PAD_VALUE, np.uint8)
    padded[:height, :width] = resized
    return torch.from_numpy(padded).permute(2, 0, 1), sizes


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Normalise network inputs on their device.

    A table of the 256 values that a channel can have reproduces mmcv's arithmetic bit for bit on any device.

    Args:
        pixels: `(B, 3, H, W)` uint8 RGB.

    Returns:
        The same shape, float32.
    """
    table = _table(pixels.device)
    return torch.stack([table[channel][pixels[:, channel].int()] for channel in range(3)], dim=1)


@lru_cache(maxsize=16)
def _table(device: torch.device) -> torch.Tensor:
    # mmdet has both constants in float32. OpenCV subtracts in float32 and multiplies by 1 / std in float64.
    values = np.arange(256, dtype=np.float32)
    centred = values - np.asarray(_MEAN, np.float32)[:, None]
    inverse = 1.0 / np.asarray(_STD, np.float32).astype(np.float64)
    return torch.from_numpy((centred * inverse[:, None]).astype(np.float32)).to(device)
