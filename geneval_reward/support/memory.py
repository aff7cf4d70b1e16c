"""Batches that shrink when memory runs out; scorers and generators share this."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Final, TypeVar

import torch

_log = logging.getLogger(__name__)

_SIGNS: Final = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out.

    Only CUDA's caching allocator has an exception of its own. The allocators of the CPU, Metal, cuBLAS and cuDNN raise a
    `RuntimeError` that says so in words.

    Examples:
        >>> is_out_of_memory(RuntimeError("MPS backend out of memory")), is_out_of_memory(RuntimeError("shape mismatch"))
        (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def run_in_batches(
    call: Callable[[slice], list[T]],
    count: int,
    batch_size: int,
    *,
    name: str,
    describe: Callable[[int], str] = lambda index: "one image",
) -> tuple[list[T], int]:
    """Run a function batch by batch, and halve the batch whenever memory runs out.

    Args:
        call: Gets a slice of the items and returns one result per item.
        count: Number of items.
        batch_size: Largest batch to begin with, >= 1.
        name: Name of the caller, for the log and the error message.
        describe: Describes the item at an index that does not fit alone, for the error message.

    Returns:
        One result per item, in order, and the largest batch that may be tried next time.

    Raises:
        torch.OutOfMemoryError: If a single item does not fit.

    Examples:
        >>> run_in_batches(lambda part: list(range(9))[part], 9, 4, name="example")
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], 4)
    """
    results: list[T] = []
    while len(results) < count:
        size = min(batch_size, count - len(results))
        try:
            results += call(slice(len(results), len(results) + size))
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise torch.OutOfMemoryError(
                    f"{name}: expected room for {describe(len(results))}, got out of memory; free some or use the CPU"
                ) from error
        # This is outside of `except` because the error keeps the tensors of the failed batch alive.
        batch_size = size // 2
        _log.warning("%s: out of memory; going on with batches of %d", name, batch_size)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return results, batch_size
