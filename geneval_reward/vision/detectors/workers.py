"""Threads that each take some images of a batch, for networks too small to be split within a layer.

PyTorch lets all its threads work on one layer and wait for one another after it. A hundred layers of a tenth of a
millisecond spend much of their time in that wait, and most of it on a machine that is busy with other things as well.
Here each thread takes whole images and computes alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

MAX_WORKERS = 8
"""More threads than this wait for Python's lock."""

_lock = threading.Lock()


def workers() -> int:
    """How many threads `run_parts` would use: those that PyTorch may use, at most `MAX_WORKERS`."""
    return min(torch.get_num_threads(), MAX_WORKERS)


def run_parts(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Does some work on each part, in threads of one PyTorch thread each.

    Args:
        work: Called once for each part. Modes of the calling thread (gradients, autocast) do not reach it.
        parts: What to work on. A single part is done in the calling thread, with all of PyTorch's threads.

    Returns:
        The results, in the order of `parts`.

    Example:
        >>> run_parts(len, ["one", "three"])
        [3, 5]
    """
    if len(parts) < 2 or workers() < 2:
        return [work(part) for part in parts]
    with _lock:
        pool = _pool(os.getpid(), workers())
    return list(pool.map(work, parts))


@lru_cache(maxsize=4)
def _pool(pid: int, count: int) -> ThreadPoolExecutor:
    """A pool of this process (a fork has none of its parent's threads)."""
    threads = torch.get_num_threads()
    ready = threading.Barrier(count + 1)
    pool = ThreadPoolExecutor(count, "geneval-lite", _compute_alone)
    for _ in range(count):
        pool.submit(ready.wait)
    ready.wait()  # now every thread has begun
    torch.set_num_threads(threads)  # what the threads set for themselves was noted as the process's default too
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # PyTorch gives a thread the default number when first asked, and would do so after the next line
    torch.set_num_threads(1)
