"""A request of the public Flow-GRPO client: what it may hold and how much of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import torch
from PIL import Image, UnidentifiedImageError

from geneval_reward.errors import GenEvalError, ImageError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.service.flow_grpo.unpickle import Limits
from geneval_reward.vision.images import as_image

_RECORD_KEYS: Final = ("tag", "include", "exclude", "prompt")


class RequestError(GenEvalError, ValueError):
    """A request that cannot be answered, however often it is sent."""


@dataclass(frozen=True)
class Capacity:
    """What the server takes on; beyond it, it refuses.

    Attributes:
        concurrency: Requests decoded and scored at a time. Two keep one GPU busy; a pool of workers wants one more than it has.
        pickle: Of one request's body; see `geneval_reward.service.flow_grpo.unpickle.Limits`.
        images: Images in one request. The public client sends at most 64.
        pixels: Pixels of all images of a request together.
        waiting: Requests at once; further ones are told to come back.
        bytes: Bytes of all bodies in memory at once.
        body_seconds: Time for a client to send its body.
    """

    concurrency: int = 2
    pickle: Limits = field(default_factory=Limits)
    images: int = 256
    pixels: int = 128_000_000
    waiting: int = 64
    bytes: int = 512 * 1024**2
    body_seconds: float = 30.0


def read_request(body: Any, capacity: Capacity) -> tuple[list[torch.Tensor], list[PromptSpec], bool]:
    """Check an unpickled request and decode its images.

    Args:
        body: What `restricted_loads` gave.
        capacity: Limits.

    Returns:
        `(3, h, w)` uint8 images, specs, and `only_strict`.

    Raises:
        RequestError: If it is not a request, or too large a one.
        ImageError: If an image is not a whole JPEG.
        SpecError: If a record is not valid.
    """
    if type(body) is not dict or not {"images", "meta_datas", "only_strict"} <= body.keys():
        raise RequestError("request: expected a dict with images, meta_datas and only_strict, got something else")
    files, records = body["images"], body["meta_datas"]
    if type(files) not in (list, tuple) or type(records) not in (list, tuple):
        raise RequestError("request: expected lists of images and of meta_datas, got something else")
    if not 0 < len(files) <= capacity.images or len(files) != len(records):
        raise RequestError(
            f"request: expected 1 to {capacity.images} images and as many meta_datas, "
            f"got {len(files)} images and {len(records)} meta_datas"
        )
    specs = [_spec(record, index) for index, record in enumerate(records)]
    opened = [_open(file, index) for index, file in enumerate(files)]
    pixels = sum(image.width * image.height for image in opened)
    if pixels > capacity.pixels:
        raise RequestError(f"images: expected at most {capacity.pixels:,} pixels together, got {pixels:,}; send fewer")
    return [as_image(image, f"images[{index}]") for index, image in enumerate(opened)], specs, bool(body["only_strict"])


def _spec(record: Any, index: int) -> PromptSpec:
    if type(record) is not dict:
        raise RequestError(f"meta_datas[{index}]: expected a dict, got {type(record).__name__}")
    try:
        # Further keys of a data set's rows are not the record's; the public server does not read them either.
        return PromptSpec.parse({key: record[key] for key in _RECORD_KEYS if key in record})
    except SpecError as error:
        raise SpecError(f"meta_datas[{index}]: {error}") from error


def _open(file: Any, index: int) -> Image.Image:
    if type(file) not in (bytes, bytearray):
        raise RequestError(f"images[{index}]: expected the bytes of a JPEG, got {type(file).__name__}")
    try:
        # Reads the header only; the size is checked before anything is decoded.
        return Image.open(BytesIO(file), formats=["jpeg"])
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        raise ImageError(f"images[{index}]: expected a JPEG, got something else ({error})") from error
