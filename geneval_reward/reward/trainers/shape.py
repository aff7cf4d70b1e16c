"""What the views share: looking like a function, and saying what becomes of a sample without a reward."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

from geneval_reward.errors import FileError, GenEvalError
from geneval_reward.reward.batch import RewardBatch
from geneval_reward.reward.composite import CompositeReward
from geneval_reward.reward.reward import GenEvalReward
from geneval_reward.support.files import parse_json

NamedReward = GenEvalReward | CompositeReward
"""What a view is a view of."""


class FunctionLike:
    """A callable object that trainers take for a function.

    Trainers ask a reward for `__name__` (curves), `__code__` (Flow-GRPO) or `inspect.iscoroutinefunction` (TRL before
    it looked at `__call__`, verl-omni). An object that has a function's attributes answers them all, and unlike a
    closure it pickles. `inspect` knows such objects, for Cython's functions are of this kind.
    """

    __name__: str

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name

    @property
    def __code__(self) -> CodeType:
        return type(self).__call__.__code__

    @property
    def __defaults__(self) -> tuple[Any, ...] | None:
        return type(self).__call__.__defaults__

    @property
    def __kwdefaults__(self) -> dict[str, Any] | None:
        return type(self).__call__.__kwdefaults__

    @property
    def __signature__(self) -> inspect.Signature:
        # Without it, inspect would read `self` off the code as the first argument.
        return inspect.signature(self.__call__)  # type: ignore[operator]


def as_numbers(scored: RewardBatch, unscorable: float | None, view: str) -> list[float]:
    """Rewards for a trainer that has no word for "no reward".

    Args:
        scored: What scoring gave.
        unscorable: What stands for a missing reward; None raises.
        view: Who asks, for the error.

    Raises:
        GenEvalError: If one is missing and nothing stands for it.
    """
    for index, (value, error) in enumerate(zip(scored.rewards, scored.errors, strict=True)):
        if value is None and unscorable is None:
            raise GenEvalError(
                f"{view}: expected a reward for every image, got none for images[{index}] ({error}); this trainer cannot "
                "skip a sample: give unscorable=NUMBER to say what it counts"
            )
    return [unscorable if value is None else value for value in scored.rewards]  # type: ignore[misc]


def records(metadata: Sequence[Any] | None) -> list[Any] | None:
    """What `record_of` finds in each row."""
    return None if metadata is None else [record_of(row) for row in metadata]


def record_of(row: Any) -> Any:
    """The record in a row of metadata; None where there is none, and the prompt is asked instead.

    Trainers hand on whatever their data sets hold: a record, a record as JSON, `{}`, or a mapping (or its JSON) of all
    columns, in which the record may stand under a name of its own.

    Examples:
        >>> record_of('{"id": 7, "metadata": {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}}')
        {'tag': 'single_object', 'include': [{'class': 'dog', 'count': 1}]}
        >>> record_of({"id": 7}) is None
        True
    """
    if isinstance(row, str) and row.lstrip().startswith("{"):
        try:
            row = parse_json(row)
        except FileError:
            return row  # the reward says what is wrong with it
    if not isinstance(row, Mapping):
        return row or None
    if row.get("include") is not None:
        return {name: row[name] for name in ("tag", "include", "exclude", "prompt") if row.get(name) is not None}
    return next((found for name in ("geneval_metadata", "metadata") if (found := record_of(row.get(name)))), None)
