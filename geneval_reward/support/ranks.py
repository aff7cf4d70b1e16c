"""What passes between the processes of a run: numbers, errors and gradients, shared before anything is done with them.

Every function here that communicates must be called by all ranks; alone, without a process group, each returns at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from geneval_reward.errors import RoundError

T = TypeVar("T")


def world_size() -> int:
    """Number of processes of this run; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather(item: T) -> list[T]:
    """Return every rank's item, in the order of ranks, on every rank. Items are pickled."""
    if world_size() == 1:
        return [item]
    items: list[T | None] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items  # type: ignore[return-value]


def describe(error: BaseException | None) -> str | None:
    """An error as text that every rank can show; of a `RoundError`, which says all there is, the text alone."""
    if error is None:
        return None
    return str(error) if isinstance(error, RoundError) else f"{type(error).__name__}: {error}"


def raise_together(
    error: BaseException | None,
    what: str,
    *,
    reports: Sequence[str | None] | None = None,
    kind: type[Exception] | None = None,
) -> None:
    """Raise on all ranks if there was an error on any, so that none waits for one that is gone.

    Args:
        error: What went wrong on this rank, or None.
        what: What was being done; begins the message.
        reports: `describe(error)` of every rank, where these were gathered already; None to gather them now.
        kind: What to raise on every rank, caused by the rank's own error. None: the error itself where it happened, and
            a RuntimeError with its text on the other ranks.

    Raises:
        Exception: As `kind` says. A `RoundError` of this rank was agreed upon before and is raised as it is.
    """
    reports = gather(describe(error)) if reports is None else reports
    failed = [(number, report) for number, report in enumerate(reports) if report is not None]
    if not failed:
        return
    if error is not None and (kind is None or isinstance(error, RoundError)):
        raise error
    text = "; ".join(f"rank {number}: {report}" if len(reports) > 1 else report for number, report in failed)
    if kind is None:
        raise RuntimeError(f"{what}: failed on another process; {text}")
    raise kind(f"{what}: {text}") from error


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all ranks, as one message; a missing gradient counts as 0.

    Args:
        parameters: The same on every rank, and whole: the gradients of sharded weights are sums already.
    """
    wanted = list(parameters)
    if world_size() == 1 or not wanted:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in wanted])
    dist.all_reduce(flat)
    for parameter, values in zip(wanted, flat.split([p.numel() for p in wanted]), strict=True):
        parameter.grad = values.view_as(parameter).clone()


def sum_over_ranks(sums: Mapping[str, float], divisor: float) -> dict[str, float]:
    """Add up named numbers over the ranks and divide; ranks may know different names.

    Args:
        sums: This rank's numbers. Where a name ends in `_max`, the maximum is taken instead, undivided.
        divisor: What sums are divided by.
    """
    shares = gather(dict(sums))
    totals: dict[str, float] = {}
    for name in sorted({name for share in shares for name in share}):
        values = [share[name] for share in shares if name in share]
        totals[name] = max(values) if name.endswith("_max") else sum(values) / divisor
    return totals
