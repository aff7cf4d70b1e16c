"""Agreement between ranks: numbers and errors are shared before anything is done with them, so that none waits forever."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist

from geneval_reward.errors import RoundError

T = TypeVar("T")


class Ranks:
    """The processes of this run; alone, if there is no process group.

    Attributes:
        rank: This one's number.
        world_size: How many there are.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world_size = dist.get_world_size() if together else 1

    def gather(self, item: T) -> list[T]:
        """Every rank's item, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return [item]
        items: list[T | None] = [None] * self.world_size
        dist.all_gather_object(items, item)
        return items  # type: ignore[return-value]

    def agree(self, error: BaseException | None, what: str) -> None:
        """Raise on all ranks if there was an error on any; every rank must call it.

        Args:
            error: What went wrong on this rank.
            what: What was being done, for the message.

        Raises:
            RoundError: With the messages of all ranks that failed.
        """
        self.raise_any(self.gather(describe(error)), error, what)

    def raise_any(self, messages: list[str | None], error: BaseException | None, what: str) -> None:
        """As `agree`, with messages that were gathered already."""
        failed = [(rank, message) for rank, message in enumerate(messages) if message is not None]
        if not failed:
            return
        if isinstance(error, RoundError):
            raise error  # agreed upon before, so every rank is here with the same one
        told = "; ".join(f"rank {rank}: {message}" if self.world_size > 1 else message for rank, message in failed)
        raise RoundError(f"{what}: {told}") from error


def describe(error: BaseException | None) -> str | None:
    """An error as text that every rank can show; of a round's own error the text alone."""
    if error is None:
        return None
    if isinstance(error, RoundError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read now measures what was done on it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
