"""`WorkerPool`: worker processes that are fed, watched and replaced."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from geneval_reward.service.server.items import Answer, Item, ItemQueue
from geneval_reward.service.server.process import WorkerFailedError, WorkerProcess
from geneval_reward.service.wire import ItemReply

_log = logging.getLogger(__name__)

_MIN_BACKOFF, _MAX_BACKOFF = 0.1, 30.0
_LONG_LIVED = 60.0  # a worker that lived longer is replaced at once


class Observer(Protocol):
    """What the pool tells; see `geneval_reward.service.server.metrics.Metrics`."""

    def batch_done(self, size: int, seconds: float) -> None:
        """A batch was scored."""

    def worker_died(self) -> None:
        """A worker ended that should not have."""


@dataclass(frozen=True)
class PoolConfig:
    """What the workers run.

    Attributes:
        devices: One worker each; a device may be named more than once.
        backend: For `GenEvalScorer.from_pretrained`.
        options: Its other arguments, or those of `factory`; JSON-serialisable.
        factory: `module:function` that makes the scorer instead.
        swap_rb: Show detectors with the weights of Flow-GRPO's public server red and blue swapped, as it does.
        batch_size: Images a batch; None for the scorer's own.
        max_wait: Seconds that an image waits for others to fill a batch.
        threads: PyTorch threads of each worker; None for PyTorch's default.
        max_queue: Images that may wait.
        max_pixels: Of one image.
        max_attempts: Times that an image is tried when workers die of it.
        stall_timeout: Seconds after which a worker that answers nothing is killed.
        start_timeout: Seconds that a worker may take to load and test itself.
    """

    devices: tuple[str, ...] = ("cpu",)
    backend: str = "lite"
    options: dict[str, Any] = field(default_factory=dict)
    factory: str | None = None
    swap_rb: bool = False
    batch_size: int | None = None
    max_wait: float = 0.005
    threads: int | None = None
    max_queue: int = 1024
    max_pixels: int = 4096 * 4096
    max_attempts: int = 3
    stall_timeout: float = 300.0
    start_timeout: float = 600.0

    def worker_config(self, device: str) -> dict[str, Any]:
        """The first message to a worker."""
        return {
            "backend": self.backend,
            "options": self.options,
            "factory": self.factory,
            "swap_rb": self.swap_rb,
            "device": device,
            "threads": self.threads,
            "max_pixels": self.max_pixels,
            "log_level": logging.getLogger("geneval_reward").getEffectiveLevel(),
        }


class WorkerPool:
    """Scores items in worker processes.

    Args:
        config: What to run.
        observer: Is told of batches and deaths.

    Attributes:
        queue: Items that wait.
        info: What the workers say of their scorer; None until the first one is ready.
        fatal: Why no worker can ever start; None while there is hope.
        loop: The event loop it runs in; None before the start.
    """

    def __init__(self, config: PoolConfig, observer: Observer | None = None) -> None:
        self.config = config
        self.queue = ItemQueue(config.max_queue, config.max_wait)
        self.info: dict[str, Any] | None = None
        self.fatal: str | None = None
        self.started = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._observer = observer
        self._workers: dict[int, WorkerProcess] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._seconds_per_item = 0.05

    @property
    def ready_workers(self) -> int:
        """Workers that can score now."""
        return sum(worker.ready for worker in self._workers.values())

    @property
    def process_ids(self) -> list[int]:
        """Of the workers that run."""
        return [worker.pid for worker in self._workers.values()]

    @property
    def in_flight(self) -> int:
        """Items that workers have."""
        return sum(worker.in_flight for worker in self._workers.values())

    def start(self) -> None:
        """Start the workers; `started` is set when the first is ready or none can be."""
        self.loop = asyncio.get_running_loop()
        self._tasks = [
            asyncio.create_task(self._keep_alive(number, device)) for number, device in enumerate(self.config.devices)
        ]

    async def stop(self) -> None:
        """End the workers; what waits is not answered any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def submit(self, items: list[Item]) -> None:
        """Queue items; their futures get the answers.

        Raises:
            QueueFullError: If there is no room for all of them.
        """
        self.queue.put(items)

    def retry_after(self) -> int:
        """Seconds until there will be room, by what the queue holds and how fast it was lately."""
        waiting = (len(self.queue) + self.in_flight) * self._seconds_per_item / max(1, self.ready_workers)
        return int(min(60, max(1, waiting)))

    async def _keep_alive(self, number: int, device: str) -> None:
        """One worker after the other in one place."""
        backoff = _MIN_BACKOFF
        while True:
            begun = time.monotonic()
            worker = WorkerProcess(number, self.config.stall_timeout)
            try:
                await worker.start(self.config.worker_config(device), self.config.start_timeout)
                self._workers[number] = worker
                self._welcome(worker)
                await worker.serve(self.queue, self._batch_size, self._batch_done)
            except WorkerFailedError as error:
                _log.error("worker %d on %s: %s", number, device, error)
                if self.info is None and error.hopeless:
                    self.fatal = str(error)
                    self.started.set()
                    return
            except Exception:  # noqa: BLE001 - whatever it was, a place must not stay empty for good.
                _log.exception(
                    "worker %d on %s: expected an answer or its end, got an error of our own", number, device
                )
            finally:
                self._workers.pop(number, None)
                lost = await asyncio.shield(worker.end())
                self._rescue(lost)
            if self._observer is not None:
                self._observer.worker_died()
            if time.monotonic() - begun > _LONG_LIVED:
                backoff = _MIN_BACKOFF
            _log.warning("worker %d on %s: starting another in %.1f s", number, device, backoff)
            await asyncio.sleep(backoff)
            backoff = min(_MAX_BACKOFF, backoff * 2)

    @property
    def _batch_size(self) -> int:
        if self.config.batch_size is not None:
            return self.config.batch_size
        return int(self.info["batch_size"]) if self.info else 1

    def _welcome(self, worker: WorkerProcess) -> None:
        info = {name: value for name, value in worker.info.items() if name != "device"}
        if self.info is None:
            self.info = info
        for name in ("fingerprint", "rules"):
            if info[name] != self.info[name]:
                raise WorkerFailedError(
                    f"expected the {name} {self.info[name]} of the first worker, got {info[name]}; restart the server after "
                    "weights or packages changed",
                    hopeless=False,
                )
        _log.info(
            "worker %d ready: %s on %s, process %d", worker.number, info["backend"], worker.info["device"], worker.pid
        )
        worker.ready = True
        self.started.set()

    def _batch_done(self, batch: list[Item], head: dict[str, Any], texts: list[bytes]) -> None:
        for item, text, failed in zip(batch, texts, head["failed"], strict=True):
            if not item.future.done():
                item.future.set_result(Answer(text, failed))
        self._seconds_per_item += 0.1 * (head["seconds"] / len(batch) - self._seconds_per_item)
        if self._observer is not None:
            self._observer.batch_done(len(batch), head["seconds"])

    def _rescue(self, lost: list[Item]) -> None:
        """Queue again what a dead worker had, or give it up."""
        again = []
        for item in lost:
            item.attempts += 1
            if not item.wanted:
                continue
            if item.attempts < self.config.max_attempts:
                again.append(item)
            else:
                text = f"image: expected a verdict, got {item.attempts} workers that died with it; look at the server's log"
                item.future.set_result(Answer(ItemReply(error=text).model_dump_json().encode(), failed=True))
        if lost:
            _log.warning("%d images of a dead worker: %d are tried again", len(lost), len(again))
        self.queue.put_back(again)
