"""Helpers for an optimizer step over all ranks: errors raised together, gradients summed once, numbers read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from geneval_reward.support import ranks
from geneval_reward.train.sharded_tensors import is_sharded


@contextmanager
def errors_together(what: str, trainer: Any = None) -> Iterator[None]:
    """Raise on all ranks if the block fails on any of them, so that no rank waits for one that is gone.

    Args:
        what: What the block does, for the message on the other ranks.
        trainer: The Trainer of the run. Under `fsdp2` the other ranks may be waiting for this rank's share of a weight
            instead of its status; the error is then raised at once, and the launcher ends the other processes.

    Raises:
        Exception: The error itself where it happened; a RuntimeError with its text on the other ranks.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # noqa: BLE001  the other ranks are notified before it is raised
        error = caught
    if error is not None and getattr(getattr(trainer, "strategy", None), "strategy_name", None) == "fsdp2":
        raise error
    ranks.raise_together(error, what)


def local_gradients(trainer: Any) -> AbstractContextManager[Any]:
    """Return a context in which backward passes accumulate gradients on this rank only.

    Gradients are summed over ranks once afterwards (`sum_gradients`), so ranks may make different numbers of backward
    passes.
    """
    block: Callable[[], AbstractContextManager[Any]] | None = getattr(trainer.strategy, "block_backward_sync", None)
    return nullcontext() if block is None else block()


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of all ranks; those of sharded weights are already sums and are left alone."""
    ranks.sum_gradients([p for p in parameters if not is_sharded(p)])


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Clip gradients to a norm over all shards; return the norm before clipping."""
    norm = torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], max_norm)
    whole: Tensor = norm.full_tensor() if is_sharded(norm) else norm  # type: ignore[attr-defined]
    return whole


class MetricSums:
    """Numbers to log, summed on their device while a rank trains and read once at the end.

    Reading a number from a GPU waits until everything launched so far has run. Reading at each timestep would leave the GPU
    idle while the next passes are launched.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, numbers: Mapping[str, Tensor]) -> None:
        """Add one loss's share of each number; ranks and losses may have different names."""
        for name, value in numbers.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def count_step(self) -> None:
        """Count an optimizer step; numbers are averaged over the steps."""
        self._steps += 1

    def over_ranks(self) -> dict[str, float]:
        """Add up the sums of all ranks and divide by the number of steps."""
        shares = ranks.gather({name: float(value) for name, value in self._sums.items()})
        names = sorted({name for share in shares for name in share})
        return {name: sum(share.get(name, 0.0) for share in shares) / max(self._steps, 1) for name in names}


def sum_counts(counts: Mapping[str, int]) -> dict[str, float]:
    """Add up counts over the ranks, on every rank."""
    total: Counter[str] = Counter()
    for share in ranks.gather(dict(counts)):
        total.update(share)
    return {name: float(count) for name, count in total.items()}
