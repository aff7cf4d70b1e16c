"""Reading in threads what is needed next, while something slower goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD: Final = 2  # batches that are read before they are needed


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result], batch_size: int, threads: int = 1
) -> Iterator[list[tuple[Item, Result]]]:
    """Yield batches of items with what was read for each, two batches ahead.

    Args:
        items: What to read, in order.
        read: Reads an item, in another thread.
        batch_size: Items per batch.
        threads: Number of threads.

    Examples:
        >>> list(read_ahead(["a", "bc", "def"], len, 2))
        [[('a', 1), ('bc', 2)], [('def', 3)]]
    """
    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        queue: list[list[tuple[Item, Future[Result]]]] = []
        while True:
            while len(queue) < _AHEAD and (chunk := list(islice(source, batch_size))):
                queue.append([(item, pool.submit(read, item)) for item in chunk])
            if not queue:
                return
            yield [(item, future.result()) for item, future in queue.pop(0)]
