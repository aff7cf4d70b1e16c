"""`object_crop`: the image of one object that a CLIP verifier sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from geneval_reward.vision.protocols import ColorQuery

ORIGINAL = "original"


def object_crop(query: ColorQuery, background: str = "#999", crop: bool = True) -> Image.Image | None:
    """Cut an object out, on a plain background, as the benchmark does.

    The background replaces the image outside the mask. Then the box is cut out: its corners are rounded to whole pixels (half to
    even), right and bottom exclusive. Parts of the box outside the image are black, as in Pillow.

    Args:
        query: The object.
        background: `#rgb` or `#rrggbb`, or `original` to keep the image.
        crop: Whether to cut out the box; if not, the whole image is returned.

    Returns:
        An RGB image, or None if the box contains no pixel.

    Examples:
        >>> import torch
        >>> image = torch.full((3, 4, 4), 255, dtype=torch.uint8)
        >>> mask = np.eye(4, dtype=np.bool_)
        >>> shown = object_crop(ColorQuery(image, np.array([0, 0, 2, 1], np.float32), "cup", mask))
        >>> [shown.getpixel((x, 0)) for x in range(2)]
        [(255, 255, 255), (153, 153, 153)]
    """
    height, width = query.image.shape[1:]
    x0, y0, x1, y1 = (round(float(value)) for value in query.xyxy) if crop else (0, 0, width, height)
    if x1 <= x0 or y1 <= y0:
        return None
    inner = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if inner[2] <= inner[0] or inner[3] <= inner[1]:
        return None
    rows, columns = slice(inner[1], inner[3]), slice(inner[0], inner[2])
    pixels = np.ascontiguousarray(query.image[:, rows, columns].permute(1, 2, 0).cpu().numpy())
    if query.mask is not None and background != ORIGINAL:
        fill = np.array(ImageColor.getrgb(background), np.uint8)
        pixels = np.where(query.mask[rows, columns, None], pixels, fill)
    if inner != (x0, y0, x1, y1):
        pixels = _extend(pixels, (x0, y0, x1, y1), inner)
    return Image.fromarray(pixels)


def _extend(
    pixels: npt.NDArray[np.uint8], box: tuple[int, int, int, int], inner: tuple[int, int, int, int]
) -> npt.NDArray[Any]:
    x0, y0, x1, y1 = box
    whole = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    whole[inner[1] - y0 : inner[3] - y0, inner[0] - x0 : inner[2] - x0] = pixels
    return whole
