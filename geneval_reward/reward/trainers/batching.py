"""`MicroBatcher`: scores items together that arrive one at a time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from geneval_reward.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Collects items that come one at a time from any thread or event loop, and has them scored together.

    A batch is closed when it is full or when its first item has waited `max_wait`, whichever is first; while one batch is
    being scored the next one fills. A thread runs while there is work and ends after `idle` seconds without, so that
    nothing keeps a process alive.

    Args:
        score: Returns one result or one exception per item, in order. If it raises an error, all items of the batch get it.
        max_batch: Items per batch, >= 1.
        max_wait: Seconds that the first item of a batch waits for others, >= 0.
        idle: Seconds without work after which the thread ends.

    Raises:
        UsageError: If a limit is out of range.

    Examples:
        >>> batcher = MicroBatcher(lambda items: [item * 2 for item in items], max_wait=0.01)
        >>> [future.result() for future in [batcher.submit(1), batcher.submit(2)]]
        [2, 4]
    """

    def __init__(
        self,
        score: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        max_batch: int = 32,
        max_wait: float = 0.02,
        idle: float = 5.0,
    ) -> None:
        if max_batch < 1 or max_wait < 0 or idle < 0:
            raise UsageError(f"expected max_batch >= 1, max_wait >= 0, idle >= 0, got {max_batch}, {max_wait}, {idle}")
        self.score, self.max_batch, self.max_wait, self.idle = score, max_batch, max_wait, idle
        self._start()

    def _start(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Item, Future[Result]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, item: Item) -> Future[Result]:
        """Add an item; returns a future of its result, which raises the error if there was one."""
        future: Future[Result] = Future()
        with self._lock:  # so that a thread that is about to end either sees the item or is replaced
            self._waiting.put((item, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="geneval-batches", daemon=True)
                self._thread.start()
        return future

    def _run(self) -> None:
        while batch := self._next():
            # A cancelled future is dropped here; one that is running can no longer be.
            batch = [pair for pair in batch if pair[1].set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _next(self) -> list[tuple[Item, Future[Result]]]:
        """Wait for the next batch; an empty one means that the thread should end."""
        try:
            batch = [self._waiting.get(timeout=self.idle)]
        except queue.Empty:
            with self._lock:
                if self._waiting.empty():
                    self._thread = None
                    return []
                batch = [self._waiting.get()]
        closing = time.monotonic() + self.max_wait
        while len(batch) < self.max_batch:
            try:
                batch.append(self._waiting.get(timeout=max(closing - time.monotonic(), 0.0)))
            except queue.Empty:
                break
        return batch

    def _answer(self, batch: Sequence[tuple[Item, Future[Result]]]) -> None:
        try:
            results = self.score([item for item, _ in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"score: expected {len(batch)} results, one per item, got {len(results)}")
        except Exception as error:  # noqa: BLE001 - it is raised where the results are awaited
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("score", "max_batch", "max_wait", "idle")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()
