"""Images as the client sends them, without loss."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
import torch
from PIL import Image

from geneval_reward.service.wire import ImagePayload

ENCODINGS: Final = ("raw", "png", "webp")


def encode(image: torch.Tensor, encoding: str) -> tuple[ImagePayload, bytes]:
    """Encode an image for a request.

    Args:
        image: `(3, h, w)` uint8, on any device.
        encoding: `raw`, `png` or `webp`.

    Returns:
        The description of the image and its bytes.

    Examples:
        >>> payload, data = encode(torch.zeros(3, 4, 5, dtype=torch.uint8), "raw")
        >>> payload.shape, payload.layout, len(data)
        ((3, 4, 5), 'chw', 60)
    """
    array = np.ascontiguousarray(image.cpu().numpy())
    if encoding == "raw":
        return ImagePayload(format="raw", shape=array.shape, layout="chw"), array.tobytes()
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))
    if encoding == "png":
        picture.save(buffer, "PNG", compress_level=1)
    else:
        picture.save(buffer, "WEBP", lossless=True, quality=0, method=0, exact=True)
    return ImagePayload(format=encoding), buffer.getvalue()  # type: ignore[arg-type]
