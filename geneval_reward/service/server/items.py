"""What waits for a worker: items of many requests in one queue, taken out in batches."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from geneval_reward.service.server.frames import Blob

_BATCH_PIXELS: Final = 2**26
"""Pixels of one batch beyond its first image: bounds a worker's memory."""


class QueueFullError(Exception):
    """No room for so many items."""


class Room(Enum):
    """What a worker can take: nothing, a full batch to prepare while it scores another, or any batch at once."""

    NONE = auto()
    FULL = auto()
    ANY = auto()


@dataclass(eq=False, slots=True)
class Answer:
    """What became of an item.

    Attributes:
        text: Its `ItemReply` as JSON.
        failed: Whether that is an error.
    """

    text: bytes
    failed: bool


@dataclass(eq=False, slots=True)
class Item:
    """One image that waits for its verdict.

    Attributes:
        head: `format, shape, layout, spec, credit` for the worker.
        data: The image's bytes.
        pixels: Of the image.
        deadline: On the loop's clock; afterwards nobody waits for it.
        future: Gets the answer; cancelled when nobody waits for it.
        since: When it came.
        attempts: Workers that died with it.
    """

    head: dict[str, Any]
    data: Blob
    pixels: int
    deadline: float
    future: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)
    attempts: int = 0

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.future.done() and time.monotonic() < self.deadline


class ItemQueue:
    """Items in order of arrival, across requests.

    Args:
        capacity: Items that may wait.
        max_wait: Seconds that an item waits for others to fill a batch.
    """

    def __init__(self, capacity: int, max_wait: float) -> None:
        self._capacity = capacity
        self._max_wait = max_wait
        self._items: deque[Item] = deque()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, items: list[Item]) -> None:
        """All of them or none.

        Raises:
            QueueFullError: If they do not fit.
        """
        if len(self._items) + len(items) > self._capacity:
            self._items = deque(item for item in self._items if item.wanted)
        if len(self._items) + len(items) > self._capacity:
            raise QueueFullError
        self._items.extend(items)
        self._changed.set()

    def put_back(self, items: list[Item]) -> None:
        """Before all others; they were taken once and fit always."""
        self._items.extendleft(reversed(items))
        self._changed.set()

    def poke(self) -> None:
        """Something changed that `take`'s `room` looks at."""
        self._changed.set()

    async def take(self, size: int, room: Callable[[], Room]) -> list[Item]:
        """Wait for a batch.

        Args:
            size: Most items.
            room: What the worker can take at the moment: looked at again after every `poke`.

        Returns:
            At least one item. One that a worker died with comes alone, so that it cannot harm others again.
        """
        while True:
            while self._items and not self._items[0].wanted:
                self._items.popleft()
            now = room()
            if not self._items or now is Room.NONE:
                await self._wait(None)
                continue
            first = self._items[0]
            if first.attempts:
                if now is Room.ANY:
                    return [self._items.popleft()]
                await self._wait(None)
                continue
            patience = first.since + self._max_wait - time.monotonic()
            if len(self._items) >= size or (patience <= 0 and now is Room.ANY):
                return self._pop(size)
            await self._wait(patience if now is Room.ANY else None)

    async def _wait(self, seconds: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _pop(self, size: int) -> list[Item]:
        batch: list[Item] = []
        pixels = 0
        while self._items and len(batch) < size:
            item = self._items[0]
            if not item.wanted:
                self._items.popleft()
                continue
            if batch and (pixels + item.pixels > _BATCH_PIXELS or item.attempts):
                break
            pixels += item.pixels
            batch.append(self._items.popleft())
        return batch
