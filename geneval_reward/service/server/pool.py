"""`WorkerPool`: worker processes that share one queue, and are monitored and replaced.

Batches mix images from several requests. An idle worker waits a few milliseconds for more images; a busy one gets one full batch
in advance, which it decodes while it scores. Items of a worker that dies are retried one at a time, so that an item that kills
workers is found and does not affect the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.metrics import Metrics
from geneval_reward.service.server.process import WorkerFailedError, WorkerProcess
from geneval_reward.service.wire import ItemReply

_log = logging.getLogger(__name__)

_MIN_BACKOFF: Final = 0.1
_MAX_BACKOFF: Final = 30.0
_LONG_LIVED: Final = 60.0  # a worker that lived longer is replaced immediately


class QueueFullError(Exception):
    """The queue has no room for this many items."""


@dataclass(frozen=True)
class PoolConfig:
    """Configuration of the workers.

    Attributes:
        devices: One worker per entry; a device may be listed more than once.
        backend: A backend of `GenEvalScorer.from_pretrained`, or the import path of a scorer or of a function that makes one.
        options: The other arguments of `from_pretrained`; JSON-serialisable.
        swap_rb: Swap red and blue for the `paper` and `mmdet` detectors, as Flow-GRPO's public server does.
        batch_size: Images per batch; None for the scorer's own batch size.
        max_wait: Seconds that an image waits for others to fill a batch.
        threads: PyTorch threads per worker; None for PyTorch's default.
        limits: Limits on the queue, images and time.
        start_timeout: Seconds that a worker may take to load and test its scorer.
    """

    devices: tuple[str, ...] = ("cpu",)
    backend: str = "lite"
    options: dict[str, Any] = field(default_factory=dict)
    swap_rb: bool = False
    batch_size: int | None = None
    max_wait: float = 0.005
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    start_timeout: float = 600.0

    def worker_config(self, device: str) -> dict[str, Any]:
        """Return the first message to a worker."""
        names = ("backend", "options", "swap_rb", "threads")
        return {name: getattr(self, name) for name in names} | {
            "device": device,
            "max_pixels": self.limits.max_pixels,
            "decode_timeout": self.limits.decode_timeout,
            "log_level": logging.getLogger("geneval_reward").getEffectiveLevel(),
        }


class Answer(NamedTuple):
    """The answer to an item.

    Attributes:
        text: The answer as JSON text.
        failed: Whether it is an error.
    """

    text: bytes
    failed: bool


@dataclass(eq=False, slots=True)
class Item:
    """One image waiting for its verdict.

    Attributes:
        head: The worker's input: `format, shape, layout, spec, credit, protocol, where`.
        data: The image's bytes.
        deadline: The `time.monotonic` time at which the client stops waiting.
        future: Receives the answer; cancelled when the client stops waiting.
        since: When the item arrived.
        attempts: Number of workers that died while holding the item.
    """

    head: dict[str, Any]
    data: bytes
    deadline: float
    future: Future[Answer] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)
    attempts: int = 0

    @property
    def is_wanted(self) -> bool:
        """Return whether a client is still waiting."""
        return not self.future.cancelled() and time.monotonic() < self.deadline


class _Place:
    """A slot for successive workers: the current process and its batches."""

    def __init__(self, number: int, device: str) -> None:
        self.number = number
        self.device = device
        self.process: WorkerProcess | None = None
        self.ready = False
        self.batches: deque[tuple[int, list[Item]]] = deque()
        self.count = 0
        self.busy_since = 0.0


class WorkerPool:
    """Scores items in worker processes. Thread-safe.

    Args:
        config: Configuration of the workers.
        metrics: Counts batches and worker deaths.

    Attributes:
        info: The workers' description of their scorer; None until the first worker is ready.
        fatal: Why no worker can ever start; None unless that is known.
        started: Set when the first worker is ready, or when none can start.
    """

    def __init__(self, config: PoolConfig, metrics: Metrics | None = None) -> None:
        self.config = config
        self.info: dict[str, Any] | None = None
        self.fatal: str | None = None
        self.started = threading.Event()
        self._metrics = metrics or Metrics()
        self._changed = threading.Condition()
        self._queue: deque[Item] = deque()
        self._places = [_Place(number, device) for number, device in enumerate(config.devices)]
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._seconds_per_item = 0.05

    @property
    def waiting(self) -> int:
        """Number of items waiting for a worker."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Number of items held by workers."""
        with self._changed:
            return sum(len(batch) for place in self._places for _, batch in place.batches)

    @property
    def ready_workers(self) -> int:
        """Number of workers that can score now."""
        return sum(place.ready for place in self._places)

    def start(self) -> None:
        """Start the workers."""
        self._threads = [
            threading.Thread(target=self._keep_alive, args=(place,), name=f"geneval-worker-{place.number}", daemon=True)
            for place in self._places
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Kill the workers; the items they hold are lost."""
        self._closing.set()
        with self._changed:
            for place in self._places:
                if place.process is not None:
                    place.process.kill()
        for thread in self._threads:
            thread.join()

    def submit(self, items: list[Item]) -> None:
        """Queue all items or none; their futures receive the answers.

        Raises:
            QueueFullError: If there is no room for all of them.
        """
        with self._changed:
            if len(self._queue) + len(items) > self.config.limits.max_queue:
                self._queue = deque(item for item in self._queue if item.is_wanted)
            if len(self._queue) + len(items) > self.config.limits.max_queue:
                raise QueueFullError
            self._queue.extend(items)
            self._changed.notify_all()

    def retry_after(self) -> int:
        """Estimate the seconds until there is room, from the queue's length and recent throughput."""
        seconds = (self.waiting + self.in_flight) * self._seconds_per_item / max(1, self.ready_workers)
        return int(min(60, max(1, seconds)))

    def _keep_alive(self, place: _Place) -> None:
        backoff = _MIN_BACKOFF
        while not self._closing.is_set():
            begun = time.monotonic()
            try:
                self._run_worker(place)
            except WorkerFailedError as error:
                if self._closing.is_set():
                    return
                _log.error("worker %d on %s: %s", place.number, place.device, error)
                if self.info is None and error.hopeless:
                    self.fatal = str(error)
                    self.started.set()
                    return
            except Exception:  # noqa: BLE001 - the worker must be replaced after any error
                _log.exception(
                    "worker %d on %s: expected an answer or its end, got an error", place.number, place.device
                )
            self._metrics.worker_died()
            if time.monotonic() - begun > _LONG_LIVED:
                backoff = _MIN_BACKOFF
            _log.warning("worker %d on %s: starting another in %.1f s", place.number, place.device, backoff)
            self._closing.wait(backoff)
            backoff = min(_MAX_BACKOFF, backoff * 2)

    def _run_worker(self, place: _Place) -> None:
        """Start a worker and process its answers until it fails."""
        process = WorkerProcess()
        feeder = threading.Thread(target=self._feed, args=(place, process), daemon=True)
        try:
            with self._changed:
                place.process = process
            if self._closing.is_set():
                process.kill()
            info = process.start(self.config.worker_config(place.device), self.config.start_timeout)
            self._admit(place, process, info)
            feeder.start()
            while True:
                self._take_answer(place, *process.receive(self.config.limits.stall_timeout, lambda: _busy_since(place)))
        finally:
            process.kill()
            with self._changed:
                place.ready, place.process = False, None
                self._changed.notify_all()
            if feeder.ident is not None:
                feeder.join()
            process.close()
            self._rescue_items(place)

    def _admit(self, place: _Place, process: WorkerProcess, info: dict[str, Any]) -> None:
        with self._changed:
            if self.info is None:
                self.info = {name: value for name, value in info.items() if name not in ("device", "kind")}
            for name in ("fingerprint", "rules"):
                if info[name] != self.info[name]:
                    raise WorkerFailedError(
                        f"expected the {name} {self.info[name]} of the first worker, got {info[name]}; restart the server "
                        "after weights or packages changed"
                    )
            place.ready = True
        _log.info(
            "worker %d ready: %s on %s, process %d", place.number, info["backend"], place.device, process.process_id
        )
        self.started.set()

    def _feed(self, place: _Place, process: WorkerProcess) -> None:
        while (batch := self._next_batch(place)) is not None:
            head = {"number": place.count, "items": [item.head for item in batch]}
            try:
                process.send(head, [item.data for item in batch])
            except OSError:
                return  # the receiving thread finds out why

    def _next_batch(self, place: _Place) -> list[Item] | None:
        """Wait for a batch; None when the worker is gone."""
        with self._changed:
            while place.ready:
                while self._queue and not self._queue[0].is_wanted:
                    self._queue.popleft()
                patience = self._patience(place)
                if patience is None or patience > 0:
                    self._changed.wait(patience)
                    continue
                batch = self._pop_batch()
                if batch:
                    # Recorded before sending, so that these items can be rescued if the worker dies during or after sending.
                    place.count += 1
                    if not place.batches:
                        place.busy_since = time.monotonic()
                    place.batches.append((place.count, batch))
                    return batch
            return None

    def _patience(self, place: _Place) -> float | None:
        """Return the seconds until a worker should take the waiting items; None if something must change first."""
        if not self._queue or len(place.batches) > 1:
            return None
        first = self._queue[0]
        if first.attempts or any(item.attempts for _, batch in place.batches for item in batch):
            return None if place.batches else 0.0
        if len(self._queue) >= self._batch_size:
            return 0.0
        return None if place.batches else first.since + self.config.max_wait - time.monotonic()

    @property
    def _batch_size(self) -> int:
        return self.config.batch_size or (self.info or {}).get("batch_size", 1)

    def _pop_batch(self) -> list[Item]:
        """Take wanted items from the queue; one that a worker died with is taken alone."""
        batch: list[Item] = []
        while self._queue and len(batch) < self._batch_size:
            if batch and self._queue[0].attempts:
                break
            item = self._queue.popleft()
            if item.is_wanted and (item.attempts or item.future.set_running_or_notify_cancel()):
                batch.append(item)
                if item.attempts:
                    break
        return batch

    def _take_answer(self, place: _Place, head: dict[str, Any], texts: list[bytes]) -> None:
        with self._changed:
            number, batch = place.batches[0] if place.batches else (0, [])
            if head["number"] != number or len(texts) != len(batch):
                raise WorkerFailedError(f"expected the answer to batch {number}, got that to {head['number']}")
            place.batches.popleft()
            place.busy_since = time.monotonic()
            self._seconds_per_item += 0.1 * (head["seconds"] / len(batch) - self._seconds_per_item)
            self._changed.notify_all()
        for item, text, failed in zip(batch, texts, head["failed"], strict=True):
            item.future.set_result(Answer(text, failed))
        self._metrics.batch_done(len(batch), head["seconds"])

    def _rescue_items(self, place: _Place) -> None:
        """Requeue a dead worker's items, or give up on them."""
        with self._changed:
            lost = [item for _, batch in place.batches for item in batch]
            place.batches.clear()
            for item in lost:
                item.attempts += 1
            again = [item for item in lost if item.attempts < self.config.limits.max_attempts and item.is_wanted]
            # At the front, and regardless of the queue's limit, since they were accepted before.
            self._queue.extendleft(reversed(again))
            self._changed.notify_all()
        for item in lost:
            if item.attempts >= self.config.limits.max_attempts:
                text = f"image: expected a verdict, got {item.attempts} workers that died with it; look at the server's log"
                item.future.set_result(Answer(ItemReply(error=text).model_dump_json().encode(), failed=True))
        if lost:
            _log.warning("%d images of a dead worker: %d are tried again", len(lost), len(again))


def _busy_since(place: _Place) -> float | None:
    return place.busy_since if place.batches else None
