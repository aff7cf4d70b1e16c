"""Images in, uint8 RGB tensors out. What cannot be scored is refused, naming its index or file.

As in the benchmark, EXIF rotation is applied, alpha is dropped (not composited), and other modes are converted to RGB.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps

from geneval_reward.errors import ImageError
from geneval_reward.vision.formats import MAX_PIXELS, damaged, open_image

# Floats that went through a resize or half precision may leave [0, 1] slightly.
_FLOAT_SLACK: Final = 2e-3
_CHANNELS: Final = (1, 3, 4)


def as_images(images: Any) -> list[torch.Tensor]:
    """Convert a batch of images in any accepted form to uint8 RGB tensors.

    Args:
        images: A sequence of images, or one array `(n, h, w, c)` or `(n, c, h, w)`. An image is a path, a PIL image, or a
            numpy array or torch tensor `(h, w, c)` or `(c, h, w)` with 1, 3 or 4 channels, uint8 in 0..255 or floating
            in [0, 1]. Where a shape can be read both ways, a tensor is channels first and an array is channels last. Pillow's
            16-bit modes are reduced to 8 bits by their high byte.

    Returns:
        One `(3, h, w)` uint8 tensor per image, on the image's device.

    Raises:
        ImageError: If something is not such an image; the message names its index, what was expected and what came.
    """
    if isinstance(images, torch.Tensor | np.ndarray):
        if images.ndim != 4:
            raise ImageError(
                f"images: expected a batch of 4 dimensions, got shape {tuple(images.shape)}; wrap a single image in a list"
            )
    elif isinstance(images, Image.Image | str | bytes | Path) or not isinstance(images, Sequence):
        raise ImageError(
            f"images: expected a sequence of images or a 4-d array, got {type(images).__name__}; wrap a single image in a list"
        )
    found = try_images(images)
    for tensor in found:
        if isinstance(tensor, ImageError):
            raise tensor
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor)]


def try_images(images: Iterable[Any]) -> list[torch.Tensor | ImageError]:
    """Convert each image as `as_images` does, or give the error that says what is wrong with it.

    Floats have to be read to be checked. Those on a GPU are read together: reading them one by one would wait for the GPU
    twice per image.
    """
    found: list[torch.Tensor | ImageError] = []
    floats: dict[torch.device, list[int]] = {}
    for index, image in enumerate(images):
        try:
            tensor = _rgb(image, f"images[{index}]")
        except ImageError as error:
            found.append(error)
            continue
        found.append(tensor)
        if tensor.is_floating_point():
            floats.setdefault(tensor.device, []).append(index)
    for members in floats.values():
        values = [one for index in members if isinstance(one := found[index], torch.Tensor)]
        ranges = torch.stack([torch.stack(torch.aminmax(value)).float() for value in values]).tolist()
        for index, value, (low, high) in zip(members, values, ranges, strict=True):
            try:
                found[index] = _quantised(value, low, high, f"images[{index}]")
            except ImageError as error:
                found[index] = error
    return found


def as_image(image: Any, where: str = "image") -> torch.Tensor:
    """Convert one image to a `(3, h, w)` uint8 RGB tensor.

    Args:
        image: An image in any form that `as_images` accepts.
        where: What error messages call it.

    Raises:
        ImageError: If it is not an image, or its values, type or shape are not accepted.
    """
    tensor = _rgb(image, where)
    if not tensor.is_floating_point():
        return tensor
    low, high = torch.stack(torch.aminmax(tensor)).tolist()
    return _quantised(tensor, low, high, where)


def _rgb(image: Any, where: str) -> torch.Tensor:
    """Return the `(3, h, w)` pixels of an image: uint8, or floats that are still to be checked."""
    if isinstance(image, Image.Image):
        return _from_pil(image, where)
    if isinstance(image, str | Path):
        return load_image(image, f"{where}: {image}")
    if isinstance(image, np.ndarray):
        return _from_array(_to_tensor(image, where), where, channels_last=True)
    if isinstance(image, torch.Tensor):
        return _from_array(image.detach(), where, channels_last=False)
    raise ImageError(f"{where}: expected a path, PIL image, numpy array or torch tensor, got {type(image).__name__}")


def load_image(path: str | Path | BinaryIO, where: str | None = None) -> torch.Tensor:
    """Read an image file as a `(3, h, w)` uint8 RGB tensor.

    Args:
        path: A PNG, JPEG or WebP file, or an open binary file.
        where: What error messages call it; the path if None.

    Raises:
        ImageError: If the file is missing, damaged, not an image, or has more than `MAX_PIXELS` pixels; the message names it.
    """
    where = str(path) if where is None else where
    with open_image(path, where) as image:
        return _from_pil(image, where)


def load_rgb(path: str | Path | BinaryIO, where: str | None = None) -> Image.Image:
    """Read an image file as a Pillow image of mode RGB with the pixels that `load_image` returns.

    It saves two copies of the pixels where Pillow goes on with them.

    Args:
        path: A PNG, JPEG or WebP file, or an open binary file.
        where: What error messages call it; the path if None.

    Raises:
        ImageError: As `load_image` does.
    """
    where = str(path) if where is None else where
    with open_image(path, where) as image:
        return _to_rgb(image, where)


@contextmanager
def refuse_invalid_casts(where: str) -> Iterator[None]:
    """Raise where NumPy casts NaN to integers inside the block, as pipelines do that return pictures of a diverged model.

    NumPy only warns, and the pictures are black ones that look like any other.

    Args:
        where: What made the pictures, for the message.

    Raises:
        ImageError: If NaN or infinity was cast.

    Examples:
        >>> with refuse_invalid_casts("generate"):
        ...     np.full((8, 8, 3), np.nan).astype(np.uint8)
        Traceback (most recent call last):
        ...
        geneval_reward.errors.ImageError: generate: expected finite pixels, got NaN or infinity; ...
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "invalid value encountered in cast", RuntimeWarning)
        try:
            yield
        except RuntimeWarning as error:
            raise ImageError(
                f"{where}: expected finite pixels, got NaN or infinity; a half precision has overflowed (try bf16 or fp32) or "
                "the weights have diverged"
            ) from error


def _from_pil(image: Image.Image, where: str) -> torch.Tensor:
    return torch.from_numpy(np.array(_to_rgb(image, where))).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Decode an image and turn it into mode RGB; an image that is plain RGB already is returned as it is."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{where}: expected at most {MAX_PIXELS:,} pixels, got {width} x {height}; scale it down")
    if width * height == 0:
        raise ImageError(f"{where}: expected at least one pixel, got {width} x {height}")
    try:
        # An image that Pillow opened lazily is decoded only here. Damaged files make decoders raise all kinds of errors
        # (struct.error from odd EXIF data, for example), and each of them is that file's error.
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise ImageError(damaged(where, error)) from error
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_high_bytes(np.asarray(image), where)).convert("RGB")
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"{where}: expected a mode that converts to RGB, got {image.mode}; convert it") from error


def _high_bytes(values: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    """Reduce grey values of 16 bits to 8 by their high byte, as OpenCV does; Pillow's own conversion clips at 255.

    Pillow's modes `I` (int32) and `I;16` do not say whether values of 0..255 are 8-bit values or nearly black 16-bit ones.
    Their high bytes would be a black image, so they are refused; an image of zeros is black in either reading.
    """
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" or low < 0 or high > 0xFFFF:
        raise ImageError(
            f"{where}: expected 8 or 16 bits per channel, got values from {low} to {high}; convert it to RGB"
        )
    if 0 < high <= 0xFF:
        raise ImageError(
            f"{where}: expected 16-bit values up to 65535, got at most {high}, which would be black; "
            "convert it to 8 bits (mode L or RGB) if that is what they are"
        )
    return (values.astype(np.uint32) >> 8).astype(np.uint8)


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
    return array


def _quantised(values: torch.Tensor, low: float, high: float, where: str) -> torch.Tensor:
    """Turn floats whose range is known into uint8."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{where}: expected finite values in [0, 1], got NaN or infinity; the generator has diverged")
    if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
        if high > 2:
            remedy = "divide by 255 or pass uint8"
        else:
            remedy = "map [-1, 1] by (x + 1) / 2" if low < -_FLOAT_SLACK else "clamp it to [0, 1]"
        raise ImageError(f"{where}: expected floats in [0, 1], got the range [{low:.3g}, {high:.3g}]; {remedy}")
    return (values.float().clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
