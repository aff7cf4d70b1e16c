"""Threads that each compute some images of a batch, for networks too small to be split within a layer.

By default, all of PyTorch's threads work on one layer and wait for one another after it. A network of a hundred layers of a
tenth of a millisecond spends much of its time in that wait, and most of it on a busy machine. Here each thread computes whole
images alone. As a consequence, the last bits of a result do not depend on the number of threads: oneDNN chooses other
kernels when it may use more than one.
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
    """Return how many threads `run_parts` uses: as many as PyTorch may use, at most `MAX_WORKERS`."""
    return min(torch.get_num_threads(), MAX_WORKERS)


def run_parts(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Do some work on each part, in threads that each use one PyTorch thread.

    Args:
        work: Called once for each part, in another thread. Modes of the calling thread (gradients, autocast) do not reach it.
        parts: What to work on.

    Returns:
        The results, in the order of `parts`.

    Examples:
        >>> run_parts(len, ["one", "three"])
        [3, 5]
    """
    if workers() < 2:
        return [work(part) for part in parts]
    with _lock:
        pool = _pool(os.getpid(), workers())
    return list(pool.map(work, parts))


@lru_cache(maxsize=4)
def _pool(pid: int, count: int) -> ThreadPoolExecutor:
    """Make the thread pool of a process; a fork does not inherit its parent's threads."""
    threads = torch.get_num_threads()
    ready = threading.Barrier(count + 1)
    pool = ThreadPoolExecutor(count, "geneval-lite", _compute_alone)
    for _ in range(count):
        pool.submit(ready.wait)
    ready.wait()  # now every thread has started
    torch.set_num_threads(threads)  # each thread's own setting also became the default of the process
    return pool


def _compute_alone() -> None:
    torch.get_num_threads()  # the first call in a thread applies the default, so it must come before the next line
    torch.set_num_threads(1)
