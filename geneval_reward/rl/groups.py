"""Which rank draws which prompt how often: groups of k samples per prompt, spread over the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from geneval_reward.errors import UsageError


class Slot(NamedTuple):
    """One image to sample.

    Attributes:
        prompt: Index of the prompt in the dataset.
        group: Number of the group in this epoch, 0 to `groups - 1`; the key for `group_advantages`.
        repeat: Number of the sample in its group, 0 to `group_size - 1`.
    """

    prompt: int
    group: int
    repeat: int


class DistributedKRepeatSampler(Sampler[int]):
    """Draw `groups` prompts per epoch without replacement, repeat each `group_size` times, shuffle, split by rank.

    A group may span ranks and batches, so rewards must be gathered before `group_advantages`. The epoch's slots depend
    on `seed` and the epoch alone: any world size samples the same set, and a resumed run continues exactly after
    `set_epoch` (Lightning calls it). Give it as `sampler=` to a DataLoader with `batch_size=batch_size`, or with
    `batch_size=len(sampler)` to receive a rank's whole share as one batch; with Lightning set
    `use_distributed_sampler=False`.

    Args:
        data: The dataset, or its length.
        group_size: Samples per prompt, k >= 1 (24 in the released GenEval settings; 6 and 12 collapse).
        groups: Prompts per epoch (48).
        batch_size: Samples a rank generates at once.
        num_replicas: World size; default that of torch.distributed, or 1.
        rank: This process; default that of torch.distributed, or 0.
        seed: The same on all ranks.

    Raises:
        UsageError: On an argument out of range, more groups than prompts, or sizes that do not divide; the message
            names sizes that do.

    Source: the sampler of DDPO-pytorch's lineage as Flow-GRPO and DiffusionNFT release it (facts, not code). They
    complete every group within one batch over all ranks; here an epoch need only divide as a whole.

    Examples:
        >>> ranks = [
        ...     DistributedKRepeatSampler(100, group_size=4, groups=3, batch_size=2, num_replicas=2, rank=r)
        ...     for r in (0, 1)
        ... ]
        >>> drawn = [index for sampler in ranks for index in sampler]
        >>> len(drawn), {drawn.count(index) for index in drawn}
        (12, {4})
    """

    def __init__(
        self,
        data: Sized | int,
        *,
        group_size: int,
        groups: int,
        batch_size: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
    ) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.num_replicas = num_replicas if num_replicas is not None else dist.get_world_size() if joined else 1
        self.rank = rank if rank is not None else dist.get_rank() if joined else 0
        self.num_prompts = data if isinstance(data, int) else len(data)
        self.group_size, self.groups, self.batch_size = group_size, groups, batch_size
        self.seed, self.epoch = seed, 0
        if group_size < 1:
            raise UsageError(f"group_size: expected >= 1, got {group_size}")
        if not 0 <= self.rank < self.num_replicas:
            raise UsageError(f"rank: expected 0 to {self.num_replicas - 1}, got {self.rank}")
        if not 1 <= groups <= self.num_prompts:
            raise UsageError(f"groups: expected 1 to {self.num_prompts}, the number of prompts, got {groups}")
        check_split(groups, group_size, batch_size, self.num_replicas)

    def __len__(self) -> int:
        """Samples of this rank per epoch."""
        return self.groups * self.group_size // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        """Dataset indices of this rank in the current epoch."""
        return (slot.prompt for slot in self.slots())

    def slots(self, epoch: int | None = None) -> list[Slot]:
        """This rank's slots, in the order of iteration: derive each image's seed from (seed, epoch, group, repeat).

        Args:
            epoch: Default the current epoch.

        Returns:
            `len(self)` slots.
        """
        generator = torch.Generator().manual_seed(self.seed + (self.epoch if epoch is None else epoch))
        prompts = torch.randperm(self.num_prompts, generator=generator)[: self.groups].tolist()
        order = torch.randperm(self.groups * self.group_size, generator=generator)
        # Batch b of the epoch is row b; each rank takes its stretch of every row.
        mine = order.view(-1, self.num_replicas, self.batch_size)[:, self.rank].flatten().tolist()
        numbers = (divmod(number, self.group_size) for number in mine)
        return [Slot(prompts[group], group, repeat) for group, repeat in numbers]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to draw; call it before iterating (Lightning does)."""
        if epoch < 0:
            raise UsageError(f"epoch: expected >= 0, got {epoch}")
        self.epoch = epoch


def check_split(groups: int, group_size: int, batch_size: int, num_replicas: int) -> None:
    """Raise unless `groups * group_size` samples divide into batches of `batch_size` on `num_replicas` ranks.

    Raises:
        ValueError: with the batch sizes, world sizes and numbers of groups that would do.

    Examples:
        >>> check_split(48, 24, 9, 8)
        >>> check_split(48, 24, 10, 8)
        Traceback (most recent call last):
            ...
        ValueError: expected groups * group_size = 48 * 24 = 1152 to be a multiple of num_replicas * batch_size = \
8 * 10 = 80; choose batch_size 9 (or another divisor of 144), num_replicas none with this batch_size, or groups 50
    """
    if min(groups, group_size, batch_size, num_replicas) < 1:
        raise UsageError(
            "expected groups, group_size, batch_size and num_replicas >= 1, "
            f"got {groups}, {group_size}, {batch_size} and {num_replicas}"
        )
    total, chunk = groups * group_size, num_replicas * batch_size
    if total % chunk == 0:
        return
    sizes = "none with this num_replicas"
    if total % num_replicas == 0:
        share = total // num_replicas
        sizes = f"{_near(_divisors(share), batch_size)} (or another divisor of {share})"
    worlds = "none with this batch_size"
    if total % batch_size == 0:
        share = total // batch_size
        worlds = f"{_near(_divisors(share), num_replicas)} (or another divisor of {share})"
    unit = math.lcm(group_size, chunk) // group_size
    counts = _near([n for n in (groups // unit * unit, (groups // unit + 1) * unit) if n], groups)
    raise UsageError(
        f"expected groups * group_size = {groups} * {group_size} = {total} to be a multiple of num_replicas * "
        f"batch_size = {num_replicas} * {batch_size} = {chunk}; choose batch_size {sizes}, "
        f"num_replicas {worlds}, or groups {counts}"
    )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _near(numbers: list[int], wanted: int) -> int:
    """The number nearest to the wanted one; the smaller of two."""
    return min(numbers, key=lambda n: (abs(n - wanted), n))
