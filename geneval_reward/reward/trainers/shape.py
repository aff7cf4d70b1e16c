"""What the views share: they look like functions, read records, and handle samples without a reward."""

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
"""The rewards that views take."""


class FunctionLike:
    """A callable object that trainers treat as a function.

    Trainers read a reward's `__name__` (curves) or `__code__` (Flow-GRPO), or call `inspect.iscoroutinefunction` (verl-omni, and
    TRL before it looked at `__call__`). An object with a function's attributes satisfies them all and, unlike a closure, can be
    pickled. `inspect` supports such objects, since Cython's functions are of this kind.
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
    """Return the rewards as numbers, for a trainer that cannot skip a sample.

    Args:
        scored: The scored batch.
        unscorable: The number that replaces a missing reward; None raises an error.
        view: Name of the view, for the error.

    Raises:
        GenEvalError: If a reward is missing and `unscorable` is None.
    """
    for index, (value, error) in enumerate(zip(scored.rewards, scored.errors, strict=True)):
        if value is None and unscorable is None:
            raise GenEvalError(
                f"{view}: expected a reward for every image, got none for images[{index}] ({error}); this trainer cannot "
                "skip a sample: set its reward by unscorable=NUMBER"
            )
    return [unscorable if value is None else value for value in scored.rewards]  # type: ignore[misc]


def records(metadata: Sequence[Any] | None) -> list[Any] | None:
    """Find the record in each row; see `record_of`."""
    return None if metadata is None else [record_of(row) for row in metadata]


def record_of(row: Any) -> Any:
    """Find the record in a row of metadata; None if there is none, and the prompt is used instead.

    Trainers pass on whatever their data sets hold: a record, a record as JSON, `{}`, or a mapping (or its JSON) of all
    columns, in which the record may be under `geneval_metadata` or `metadata`.

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
