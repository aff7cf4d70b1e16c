"""Scoring in the background, on a CUDA stream of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class Worker:
    """One thread that runs calls in the order in which they were submitted.

    On CUDA the thread works on the caller's GPU, on a stream of its own, which first waits for what the caller's stream has
    queued, so that the images of a call need not be finished when it is submitted. The thread starts with the first call.

    Args:
        name: Name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._streams: dict[int, torch.cuda.Stream] = {}

    def submit(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Future[Result]:
        """Run `function(*args, **kwargs)` in the thread; returns a future of its result."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
            pool = self._pool
        # Asking for more than this would set CUDA up, which takes memory, for a scorer that may be on the CPU.
        if not torch.cuda.is_initialized():
            return pool.submit(function, *args, **kwargs)
        ready = torch.cuda.Event()
        ready.record()
        return pool.submit(self._run_on_stream, torch.cuda.current_device(), ready, function, args, kwargs)

    def close(self) -> None:
        """End the thread after what was submitted; the next call starts another."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def _run_on_stream(
        self, device: int, ready: torch.cuda.Event, function: Callable[..., Result], args: Any, kwargs: Any
    ) -> Result:
        # Only the one thread is here, so the streams need no lock. A thread starts with GPU 0 as its current one, whatever
        # its caller's is; the stream brings its own.
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        with torch.cuda.stream(stream):
            stream.wait_event(ready)
            return function(*args, **kwargs)
