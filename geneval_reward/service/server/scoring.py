"""A request's way through the server: bytes to items, items to the workers, answers to a reply."""

from __future__ import annotations

import asyncio
import binascii
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from geneval_reward.errors import GenEvalError, ImageError, SpecError
from geneval_reward.prompts import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.service.server.frames import Blob
from geneval_reward.service.server.guard import RefusedError
from geneval_reward.service.server.headers import image_size
from geneval_reward.service.server.items import Answer, Item, QueueFullError
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.multipart import FormError, TooManyPartsError, parse_form
from geneval_reward.service.server.pool import WorkerPool
from geneval_reward.service.wire import IMAGE_PART, REQUEST_PART, ImagePayload, ItemReply, ScoreRequest

_VALUES_PER_ITEM = 512  # of JSON; a record with its image takes about 30
_MAX_ERROR = 400  # characters; an error quotes what came, and what came may be long


@dataclass(frozen=True)
class Prepared:
    """One image of a request, checked: what a worker needs."""

    head: dict[str, Any]
    data: Blob
    pixels: int


def parse_request(body: bytes | bytearray, content_type: str, limits: Limits) -> tuple[ScoreRequest, list[Blob]]:
    """A request and the image parts of its form.

    Raises:
        RefusedError: If it is none: 415, 422, or 413 for too many images or values.
    """
    kind = content_type.partition(";")[0].strip().lower()
    images: list[Blob] = []
    if kind == "multipart/form-data":
        try:
            parts = parse_form(body, content_type, limits.max_items + 1)
        except FormError as error:
            raise RefusedError(413 if isinstance(error, TooManyPartsError) else 422, str(error)) from error
        texts = [data for name, data in parts if name == REQUEST_PART]
        images = [data for name, data in parts if name == IMAGE_PART]
        if len(texts) != 1 or len(texts) + len(images) != len(parts):
            raise RefusedError(
                422,
                f"form: expected one part {REQUEST_PART!r} and parts {IMAGE_PART!r}, got {[name[:40] for name, _ in parts]}",
            )
        body = bytes(texts[0])
    elif kind != "application/json":
        raise RefusedError(415, f"Content-Type: expected application/json or multipart/form-data, got {kind[:80]!r}")
    _check_values(body, limits.max_items)
    try:
        request = ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        raise RefusedError(422, _explain(error)) from error
    if len(request.images) > limits.max_items:
        raise RefusedError(
            413, f"images: expected at most {limits.max_items}, got {len(request.images)}; send several requests"
        )
    parts_wanted = sum(image.data is None for image in request.images)
    if parts_wanted != len(images):
        raise RefusedError(
            422, f"images: expected {parts_wanted} form parts for images without data, got {len(images)}"
        )
    return request, images


def _check_values(body: bytes | bytearray, max_items: int) -> None:
    """Refuse JSON of more values than so many images need: each becomes an object while all threads stand still."""
    # Every value but the first comes after one of these bytes. Base64 has none of them, and texts few.
    values = 1 + sum(map(body.count, (b",", b"[", b"{")))
    most = _VALUES_PER_ITEM * (max_items + 1)
    if values > most:
        raise RefusedError(
            413, f"request: expected JSON of at most {most:,} values, got about {values:,}; send fewer images"
        )


def prepare(request: ScoreRequest, parts: list[Blob], limits: Limits) -> list[Prepared | str]:
    """What a worker needs of each image, or why it cannot be scored."""
    rest = iter(parts)
    prepared: list[Prepared | str] = []
    for index, (image, prompt) in enumerate(zip(request.images, request.prompts, strict=True)):
        part = next(rest) if image.data is None else None
        try:
            data = _data(image, part, f"images[{index}]")
            width, height = _checked_size(image, data, f"images[{index}]", limits.max_pixels)
            spec = _spec(prompt, index)
        except GenEvalError as error:
            prepared.append(_short(str(error)))
            continue
        head: dict[str, Any] = {
            "format": image.format,
            "shape": image.shape,
            "layout": image.layout,
            "spec": spec.to_json(),
            "credit": request.credit,
            "where": f"images[{index}]",
        }
        prepared.append(Prepared(head, data, width * height))
    return prepared


async def answer(pool: WorkerPool, prepared: list[Prepared | str], deadline: float) -> list[Answer]:
    """The answers of the workers, in order; errors stand where items could not be prepared.

    Args:
        pool: The workers.
        prepared: What `prepare` made.
        deadline: On `time.monotonic`.

    Raises:
        RefusedError: 413 if the queue can never hold them, 429 if it is full, 504 if the deadline passes.
    """
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in prepared]
    items = []
    for future, entry in zip(futures, prepared, strict=True):
        if isinstance(entry, str):
            future.set_result(Answer(ItemReply(error=entry).model_dump_json().encode(), failed=True))
        else:
            items.append(Item(entry.head, entry.data, entry.pixels, deadline, future))
    try:
        if len(items) > pool.config.max_queue:
            raise RefusedError(
                413,
                f"images: expected at most {pool.config.max_queue}, the room of the whole queue, got {len(items)}; "
                "send several requests",
            )
        try:
            pool.submit(items)
        except QueueFullError:
            raise RefusedError(429, "queue: expected room, got a full one; try again", pool.retry_after()) from None
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return list(await asyncio.gather(*futures))
        except TimeoutError:
            done = sum(future.done() and not future.cancelled() for future in futures)
            raise RefusedError(
                504, f"deadline: expected all {len(futures)} images in time, got {done}; send fewer or allow more time"
            ) from None
    finally:
        # Workers need not score what nobody waits for.
        for future in futures:
            future.cancel()


def _data(image: ImagePayload, part: Blob | None, where: str) -> Blob:
    if part is not None:
        return part
    try:
        return binascii.a2b_base64(image.data or "", strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            f"{where}: expected base64, got something else or a part of it ({error}); send it again"
        ) from error


def _checked_size(image: ImagePayload, data: Blob, where: str, max_pixels: int) -> tuple[int, int]:
    width, height = image.size or image_size(data, image.format, where)
    if width * height > max_pixels:
        raise ImageError(f"{where}: expected at most {max_pixels:,} pixels, got {width} x {height}; scale it down")
    if image.shape is not None and len(data) != 3 * width * height:
        raise ImageError(
            f"{where}: expected {3 * width * height:,} bytes for the shape {list(image.shape)}, got {len(data):,}"
        )
    return width, height


def _spec(prompt: str | Mapping[str, Any], index: int) -> PromptSpec:
    try:
        return resolve(prompt)
    except (ValueError, RecursionError, OverflowError, TypeError) as error:
        raise SpecError(f"prompts[{index}]: {error}") from error


def _short(text: str) -> str:
    return text if len(text) <= _MAX_ERROR else text[: _MAX_ERROR - 3] + "..."


def _explain(error: ValidationError) -> str:
    """The first complaints, without what was sent: it may be long, or no JSON."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    shown = [f"{'.'.join(str(part) for part in entry['loc']) or 'request'}: {entry['msg']}" for entry in found[:3]]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return _short("; ".join(shown) + more)
