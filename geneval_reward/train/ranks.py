"""What passes between the processes of a run: rewards, errors, gradients, numbers to log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from geneval_reward.train.sharding import is_sharded

T = TypeVar("T")


def world_size() -> int:
    """Processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(item: T) -> list[T]:
    """Every rank's item, in order, on every rank."""
    if world_size() == 1:
        return [item]
    items: list[T | None] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]


def raise_together(error: Exception | None, what: str, sharded: bool = False) -> None:
    """Raise on all ranks if there was an error on any, so that none waits for one that is gone.

    Args:
        error: This rank's, if any.
        what: What was tried.
        sharded: The others may be waiting for this rank's share of a weight and not for its word: raise here at once, and
            leave it to the launcher to end them.

    Raises:
        Exception: The error itself where it happened; a RuntimeError with its text on the other ranks.
    """
    if sharded and error is not None:
        raise error
    failed = [
        (rank, text)
        for rank, text in enumerate(gather(None if error is None else f"{type(error).__name__}: {error}"))
        if text is not None
    ]
    if error is not None:
        raise error
    if failed:
        told = "; ".join(f"rank {rank}: {text}" for rank, text in failed)
        raise RuntimeError(f"{what}: failed on another process; {told}")


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all ranks, as one message; a missing gradient counts as 0.

    Those of sharded weights are sums already.
    """
    if world_size() == 1:
        return
    wanted = [p for p in parameters if not is_sharded(p)]
    if not wanted:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in wanted])
    dist.all_reduce(flat)
    for parameter, values in zip(wanted, flat.split([p.numel() for p in wanted]), strict=True):
        parameter.grad = values.view_as(parameter).clone()


def sum_over_ranks(sums: dict[str, float], divisor: float, device: torch.device) -> dict[str, float]:
    """Sums (maxima, where a name ends in `_max`) over the ranks, divided by a number; ranks may know different names."""
    shares = gather(sums)
    totals: dict[str, float] = {}
    for name in sorted({name for share in shares for name in share}):
        values = [share[name] for share in shares if name in share]
        totals[name] = max(values) if name.endswith("_max") else sum(values) / divisor
    return totals
