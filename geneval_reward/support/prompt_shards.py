"""`Shard`: the share of the prompts that a process generates."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from geneval_reward.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several equal parts of a prompt set.

    Attributes:
        index: Number of the part, from 0.
        count: Number of parts, >= 1.

    Raises:
        ValueError: If `index` is not in `0..count - 1`.

    Examples:
        >>> Shard.parse("1/3").of("abcdefg")
        ['b', 'e']
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise UsageError(
                f"shard: expected i/n with i of 0..n-1 and n >= 1, got {self.index}/{self.count}; the first of four is 0/4"
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/n`.

        Raises:
            ValueError: If it is not of this form.
        """
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if found is None:
            raise UsageError(f"shard: expected i/n such as 0/4, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def current(cls, text: str | None = None, environment: Mapping[str, str] | None = None) -> Shard:
        """Return the part of this process, from `--shard`, torchrun's `RANK` and `WORLD_SIZE`, or both together.

        `RANK` and `WORLD_SIZE` are often left over in containers and shells, so they are read only if `LOCAL_RANK` or
        `TORCHELASTIC_RUN_ID` is also set, as a launcher does for each process.

        Args:
            text: `i/n`, or None.
            environment: The environment variables; None for those of the process.

        Raises:
            UsageError: If the text or the variables are not valid.

        Examples:
            >>> Shard.current("1/2", {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3"})
            Shard(index=7, count=8)
        """
        values = os.environ if environment is None else environment
        shard = cls() if text is None else cls.parse(text)
        if not any(name in values for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID")):
            return shard
        try:
            rank, world = int(values.get("RANK", "0")), int(values.get("WORLD_SIZE", "1"))
        except ValueError as error:
            raise UsageError(
                f"RANK, WORLD_SIZE: expected integers as torchrun sets them, got {values.get('RANK')!r} and "
                f"{values.get('WORLD_SIZE')!r}; unset them"
            ) from error
        if not 0 <= rank < world:
            raise UsageError(f"RANK, WORLD_SIZE: expected a rank of 0..{world - 1}, got {rank} of {world}; unset them")
        return cls(shard.index * world + rank, shard.count * world)

    def of(self, items: Sequence[T]) -> list[T]:
        """Select every `count`-th item, so that neighbouring prompts, which share a task, go to different processes."""
        return list(items[self.index :: self.count])
