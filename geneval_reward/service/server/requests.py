"""Turning request bodies into items, passing them to the pool, and collecting the answers in order."""

from __future__ import annotations

import asyncio
import binascii
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from geneval_reward.errors import GenEvalError, ImageError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.service.server.door import RefusedError
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.pool import Answer, Item, QueueFullError, WorkerPool
from geneval_reward.service.wire import IMAGE_PART, REQUEST_PART, ItemReply, ScoreRequest

_VALUES_PER_ITEM: Final = 512  # JSON values; a record with its image takes about 30
_MAX_ERROR: Final = 400  # characters; an error quotes the input, which may be long


async def read_request(request: Request, limits: Limits) -> tuple[ScoreRequest, list[bytes]]:
    """Read and check a request, which is JSON or a form whose part `request` is that JSON.

    Args:
        request: The request, whose body size `Door` limits.
        limits: Limits on the number of images and JSON values.

    Returns:
        The request, and the bytes of each image part of the form.

    Raises:
        RefusedError: 415 or 422 if the request is invalid, 413 if it is too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    chunks = deque([chunk async for chunk in request.stream()])
    images: list[bytes] = []
    if kind == "application/json":
        text = b"".join(chunks)
    elif kind == "multipart/form-data":
        text, images = await _read_form(request.headers, chunks, limits)
    else:
        raise RefusedError(415, f"Content-Type: expected application/json or multipart/form-data, got {kind[:80]!r}")
    _check_values(text, limits.max_items)
    try:
        # In a thread, so that other requests are not held up.
        asked = await asyncio.to_thread(ScoreRequest.model_validate_json, text)
    except ValidationError as error:
        raise RefusedError(422, _explain(error)) from error
    if len(asked.images) > limits.max_items:
        raise RefusedError(
            413, f"images: expected at most {limits.max_items}, got {len(asked.images)}; send several requests"
        )
    wanted = sum(image.data is None for image in asked.images)
    if wanted != len(images):
        raise RefusedError(422, f"images: expected {wanted} form parts for images without data, got {len(images)}")
    return asked, images


async def _read_form(headers: Headers, chunks: deque[bytes], limits: Limits) -> tuple[bytes, list[bytes]]:
    # Chunks are freed as they are parsed, so that the body is not held twice.
    async def parts_of_body() -> AsyncGenerator[bytes, None]:
        while chunks:
            yield chunks.popleft()

    most = limits.max_items + 1
    try:
        parser = MultiPartParser(
            headers, parts_of_body(), max_files=most, max_fields=most, max_part_size=limits.max_body
        )
        # The body's size is limited, so nothing is written to disk.
        parser.spool_max_size = limits.max_body
        form = await parser.parse()
    except MultiPartException as error:
        too_many = error.message.startswith("Too many")
        raise RefusedError(
            413 if too_many else 422, f"form: expected multipart/form-data, got something else: {error.message}"
        ) from error
    except (KeyError, ValueError) as error:
        raise RefusedError(422, f"form: expected a boundary in Content-Type, got none ({error})") from error
    texts: list[bytes] = []
    images: list[bytes] = []
    for name, part in form.multi_items():
        data = await part.read() if isinstance(part, UploadFile) else part.encode()
        (texts if name == REQUEST_PART else images).append(data)
    await form.close()
    if len(texts) != 1 or any(name not in (REQUEST_PART, IMAGE_PART) for name in form):
        names = [name[:40] for name, _ in form.multi_items()[:10]]
        raise RefusedError(422, f"form: expected one part {REQUEST_PART!r} and parts {IMAGE_PART!r}, got {names}")
    return texts[0], images


def _check_values(body: bytes, max_items: int) -> None:
    """Refuse JSON with more values than `max_items` images need: creating an object for each blocks all threads."""
    # Every value but the first follows one of these bytes. Base64 contains none of them, and text few.
    values = 1 + sum(map(body.count, (b",", b"[", b"{")))
    most = _VALUES_PER_ITEM * (max_items + 1)
    if values > most:
        raise RefusedError(
            413, f"request: expected JSON of at most {most:,} values, got about {values:,}; send fewer images"
        )


def make_items(asked: ScoreRequest, parts: list[bytes], deadline: float) -> list[Item | str]:
    """Make an item per image of a request, or an error message for an image that cannot be scored.

    Args:
        asked: The request.
        parts: Bytes of the images sent as form parts.
        deadline: The `time.monotonic` time at which the client stops waiting.
    """
    rest = iter(parts)
    items: list[Item | str] = []
    for index, (image, prompt) in enumerate(zip(asked.images, asked.prompts, strict=True)):
        where = f"images[{index}]"
        try:
            data = next(rest) if image.data is None else _decode_base64(image.data, where)
            spec = _resolve(prompt, f"prompts[{index}]")
        except GenEvalError as error:
            items.append(shorten(str(error)))
            continue
        head = {"format": image.format, "shape": image.shape, "layout": image.layout, "where": where}
        items.append(Item(head | {"spec": spec.to_json(), "credit": asked.credit, "protocol": "score"}, data, deadline))
    return items


async def collect_answers(pool: WorkerPool, items: list[Item | str], deadline: float) -> list[Answer]:
    """Return the workers' answers in order, with an error where there is no item.

    Args:
        pool: The workers.
        items: The result of `make_items`.
        deadline: The `time.monotonic` time at which to give up.

    Raises:
        RefusedError: 413 if the queue can never hold the items, 429 if it is full, 504 if the deadline passes.
    """
    ready = [item for item in items if isinstance(item, Item)]
    room = pool.config.limits.max_queue
    if len(ready) > room:
        raise RefusedError(
            413,
            f"images: expected at most {room}, the room of the whole queue, got {len(ready)}; send several requests",
        )
    try:
        pool.submit(ready)
    except QueueFullError:
        raise RefusedError(429, "queue: expected room, got a full one; try again", pool.retry_after()) from None
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            # Ending the wait early cancels the futures, so that workers skip images that no client is waiting for.
            found = iter(await asyncio.gather(*(asyncio.wrap_future(item.future) for item in ready)))
    except TimeoutError:
        done = len(items) - len(ready) + sum(item.future.done() and not item.future.cancelled() for item in ready)
        raise RefusedError(
            504, f"deadline: expected all images in time, got {done} of {len(items)}; send fewer or allow more time"
        ) from None
    return [next(found) if isinstance(item, Item) else _error(item) for item in items]


async def wait_unless_gone(request: Request, work: Any) -> Any:
    """Return the result of a coroutine, which is cancelled if the client disconnects.

    Raises:
        RefusedError: 499 if the client disconnects first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RefusedError(499, "client: expected one that waits, got one that has hung up")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def shorten(text: str) -> str:
    """Shorten a message to a limited length."""
    return text if len(text) <= _MAX_ERROR else text[: _MAX_ERROR - 3] + "..."


def _error(text: str) -> Answer:
    return Answer(ItemReply(error=text).model_dump_json().encode(), failed=True)


def _decode_base64(text: str, where: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(
            f"{where}: expected base64, got something else or a part of it ({error}); send it again"
        ) from error


def _resolve(prompt: str | Mapping[str, Any], where: str) -> PromptSpec:
    try:
        return resolve(prompt)
    except (ValueError, RecursionError, OverflowError, TypeError) as error:
        raise SpecError(f"{where}: {error}") from error


def _explain(error: ValidationError) -> str:
    """Describe the first validation errors without quoting the input, which may be long or not JSON."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    shown = [f"{'.'.join(str(part) for part in entry['loc']) or 'request'}: {entry['msg']}" for entry in found[:3]]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return shorten("; ".join(shown) + more)
