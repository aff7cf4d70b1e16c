"""Images in, uint8 RGB tensors out; what cannot be scored is refused with its index or file.

As the benchmark does: EXIF rotation is applied, alpha is dropped (not composited), other modes are converted to RGB.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from geneval_reward.errors import ImageError

MAX_PIXELS: Final = 100_000_000
"""Images of more pixels are refused: a detector sees at most about a million, and one such image fills the memory."""

# Floats that went through a resize or half precision may leave [0, 1] by a hair.
_FLOAT_SLACK: Final = 2e-3
_CHANNELS: Final = (1, 3, 4)


def as_images(images: Any) -> list[torch.Tensor]:
    """A batch of images in any accepted form as uint8 RGB tensors.

    Args:
        images: A sequence of images, or one array `(n, h, w, c)` or `(n, c, h, w)`. An image is a PIL image, or a
            numpy array or torch tensor `(h, w, c)` or `(c, h, w)` with 1, 3 or 4 channels, uint8 in 0..255 or floating
            in [0, 1]. Where both readings of a shape are possible, a tensor is channels first, an array channels last.

    Returns:
        One `(3, h, w)` uint8 tensor per image, on the device where it was.

    Raises:
        ImageError: For anything else; the message names the index, what was expected and what came.
    """
    if isinstance(images, torch.Tensor | np.ndarray):
        if images.ndim != 4:
            raise ImageError(
                f"images: expected a batch of 4 dimensions, got shape {tuple(images.shape)}; wrap a single image in a list"
            )
        return [as_image(image, f"images[{index}]") for index, image in enumerate(images)]
    if isinstance(images, Image.Image | str | bytes | Path) or not isinstance(images, Sequence):
        raise ImageError(f"images: expected a sequence of images or a 4-d array, got {type(images).__name__}")
    return [as_image(image, f"images[{index}]") for index, image in enumerate(images)]


def as_image(image: Any, where: str = "image") -> torch.Tensor:
    """One image as a `(3, h, w)` uint8 RGB tensor.

    Args:
        image: See `as_images`.
        where: How errors call it.

    Raises:
        ImageError: If it is not an image, or its values, type or shape are not accepted.
    """
    if isinstance(image, Image.Image):
        return _from_pil(image, where)
    if isinstance(image, np.ndarray):
        return _from_array(_to_tensor(image, where), where, channels_last=True)
    if isinstance(image, torch.Tensor):
        return _from_array(image.detach(), where, channels_last=False)
    raise ImageError(f"{where}: expected a PIL image, numpy array or torch tensor, got {type(image).__name__}")


def load_image(path: str | Path) -> torch.Tensor:
    """Read an image file as a `(3, h, w)` uint8 RGB tensor.

    Args:
        path: A file that Pillow can read.

    Raises:
        ImageError: If it is missing, truncated, no image, or larger than `MAX_PIXELS`; the message names it.
    """
    try:
        with warnings.catch_warnings():
            # The size is checked below, before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _from_pil(image, str(path))
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: expected at most {MAX_PIXELS:,} pixels, got far more ({error}); scale it down"
        ) from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: expected an image file, got nothing; check the path") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: expected an image that Pillow can read, got something else") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{path}: expected a file that can be read, got {error.strerror}; check the path") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(_damaged(str(path), error)) from error


def _damaged(where: str, error: Exception) -> str:
    return f"{where}: expected a whole image, got a damaged one ({error}); generate it again"


def _from_pil(image: Image.Image, where: str) -> torch.Tensor:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{where}: expected at most {MAX_PIXELS:,} pixels, got {width} x {height}; scale it down")
    if width * height == 0:
        raise ImageError(f"{where}: expected at least one pixel, got {width} x {height}")
    try:
        # An image that Pillow opened lazily is decoded only here.
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(_damaged(where, error)) from error
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return torch.from_numpy(_deep_to_rgb(np.asarray(image), where))
    try:
        array = np.array(image.convert("RGB"), dtype=np.uint8)
    except ValueError as error:
        raise ImageError(f"{where}: expected a mode that converts to RGB, got {image.mode}; convert it") from error
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _deep_to_rgb(values: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    """16-bit grey to 8 bits by its high byte, as OpenCV reads it; Pillow's own conversion clips at 255."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(
            f"{where}: expected 8 or 16 bits a channel, got values from {values.min()} to {values.max()}; convert it to RGB"
        )
    return np.repeat((values.astype(np.uint32) >> 8).astype(np.uint8)[None], 3, axis=0)


def _to_tensor(array: np.ndarray[Any, Any], where: str) -> torch.Tensor:
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise ImageError(f"{where}: expected a uint8 or floating array, got {array.dtype}; cast it") from error


def _from_array(array: torch.Tensor, where: str, *, channels_last: bool) -> torch.Tensor:
    if array.ndim != 3:
        raise ImageError(f"{where}: expected 3 dimensions (h, w, c) or (c, h, w), got shape {tuple(array.shape)}")
    first, last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
    if not first and not last:
        raise ImageError(f"{where}: expected 1, 3 or 4 channels first or last, got shape {tuple(array.shape)}")
    if last and (channels_last or not first):
        array = array.permute(2, 0, 1)
    if array.numel() == 0:
        raise ImageError(f"{where}: expected at least one pixel, got shape {tuple(array.shape)}")
    if array.shape[1] * array.shape[2] > MAX_PIXELS:
        raise ImageError(f"{where}: expected at most {MAX_PIXELS:,} pixels, got shape {tuple(array.shape)}")
    array = array.expand(3, -1, -1) if array.shape[0] == 1 else array[:3]
    if array.dtype == torch.uint8:
        return array.contiguous()
    if not array.is_floating_point():
        raise ImageError(f"{where}: expected uint8 or floating values, got {array.dtype}; cast 0..255 to uint8")
    return _from_floats(array, where)


def _from_floats(array: torch.Tensor, where: str) -> torch.Tensor:
    values = array.float()
    low, high = (value.item() for value in torch.aminmax(values))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{where}: expected finite values in [0, 1], got NaN or infinity; the generator has diverged")
    if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
        if high > 2:
            remedy = "divide by 255 or pass uint8"
        else:
            remedy = "map [-1, 1] by (x + 1) / 2" if low < -_FLOAT_SLACK else "clamp it to [0, 1]"
        raise ImageError(f"{where}: expected floats in [0, 1], got the range [{low:.3g}, {high:.3g}]; {remedy}")
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
