"""Choose part of a prompt set, evenly over its tasks; the grammar of sizes, such as `60` and `10/task`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from geneval_reward.errors import UsageError
from geneval_reward.prompts.spec import PromptSpec


class Size(NamedTuple):
    """How many prompts.

    Attributes:
        number: At least 1.
        per_task: Whether `number` counts the prompts of each task; otherwise it counts all of them.
    """

    number: int
    per_task: bool


def parse_size(text: str) -> Size | None:
    """Read `"60"` (sixty prompts in all) or `"10/task"` (ten of each task); None for anything else.

    Examples:
        >>> parse_size("10/task")
        Size(number=10, per_task=True)
    """
    found = re.fullmatch(r"([0-9]{1,18})(/task)?", text.strip())
    return None if found is None or int(found[1]) < 1 else Size(int(found[1]), found[2] is not None)


def choose_evenly(specs: Sequence[PromptSpec], size: Size, *, seed: int = 0, name: str = "prompts") -> list[int]:
    """Choose prompts of a set, equally many of each task as far as there are so many.

    The choice depends on the seed and the records alone, and a smaller choice is part of a larger one with the same seed.

    Args:
        specs: The whole set.
        size: How many to choose.
        seed: Another seed makes another choice.
        name: What error messages call the argument.

    Returns:
        The indices of the chosen specs, ascending.

    Raises:
        UsageError: If there are fewer prompts than that, or fewer are asked for than there are tasks.

    Examples:
        >>> from geneval_reward.prompts import official_suite
        >>> len(choose_evenly(official_suite(), Size(10, per_task=True)))
        60
    """
    by_tag: dict[str, list[int]] = {}
    for index, spec in enumerate(specs):
        by_tag.setdefault(spec.tag, []).append(index)
    chosen: list[int] = []
    for tag, count in _shares(size, {tag: len(rows) for tag, rows in by_tag.items()}, name).items():
        chosen += sorted(by_tag[tag], key=lambda index: _key(seed, specs[index]))[:count]
    return sorted(chosen)


def _shares(size: Size, available: Mapping[str, int], name: str) -> dict[str, int]:
    """How many prompts of each task are chosen."""
    if size.per_task:
        for tag, count in available.items():
            if count < size.number:
                raise UsageError(
                    f"{name}: expected at most {count} prompts of {tag}, as many as there are, got {size.number}/task"
                )
        return dict.fromkeys(available, size.number)
    total = sum(available.values())
    if not len(available) <= size.number <= total:
        raise UsageError(
            f"{name}: expected {len(available)} (one per task) to {total} prompts in all, got {size.number}; "
            f"for {size.number} of each task write {size.number}/task"
        )
    shares = dict.fromkeys(available, 0)
    left = size.number
    while left:
        # Tasks that still have prompts get one each in turn, which keeps the shares as even as they can be.
        for tag in available:
            if left and shares[tag] < available[tag]:
                shares[tag] += 1
                left -= 1
    return shares


def _key(seed: int, spec: PromptSpec) -> bytes:
    return hashlib.sha256(f"geneval-reward subset\0{seed}\0{spec.core.to_json()}".encode()).digest()
