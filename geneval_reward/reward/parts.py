"""What a composite reward is made of: calls of its parts, their answers, and the batch they make."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from geneval_reward.errors import GenEvalError

_ARGUMENTS: Final = ("images", "prompts", "metadata")

Column = list[float | None]


@dataclass(frozen=True)
class CompositeBatch:
    """Rewards of a batch with the parts they were made from.

    Attributes:
        rewards: One per image; None where there is none.
        parts: What each part gave, before weights; None where it gave none, NaN or an infinity.
        errors: Why an image has no reward, or None.
        batches: What parts answered that answer more than values, by name: the `RewardBatch` of a `GenEvalReward`.
    """

    rewards: Column
    parts: dict[str, Column]
    errors: list[str | None]
    batches: dict[str, Any] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[Any] | None:
        """The verdicts of the first part that has some."""
        return next((batch.verdicts for batch in self.batches.values() if hasattr(batch, "verdicts")), None)

    def credits(self) -> dict[str, Column]:
        """Every part by its name, and the credits of a part that has some as `part/credit`; for logging."""
        columns = dict(self.parts)
        for name, batch in self.batches.items():
            columns |= {f"{name}/{credit}": values for credit, values in batch.credits().items()}
        return columns


def taken(part: str, function: Any) -> tuple[str, ...]:
    """Which of the arguments a part takes."""
    if not callable(function):
        raise TypeError(f"parts[{part!r}]: expected a callable, got {type(function).__name__}")
    if hasattr(function, "update") and hasattr(function, "compute"):
        raise TypeError(
            f"parts[{part!r}]: expected a callable of images, got the metric {type(function).__name__}, which answers one "
            "number a batch; see geneval_reward.reward.models for CLIPScore and CLIP-IQA"
        )
    parameters = inspect.signature(function).parameters
    if any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        return _ARGUMENTS
    taken = tuple(name for name in _ARGUMENTS if name in parameters)
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL,)]
    if "images" not in taken or not set(needed) <= set(taken):
        raise TypeError(
            f"parts[{part!r}]: expected a callable of images, and of prompts and metadata if it likes, got "
            f"{', '.join(parameters) or 'no arguments'}"
        )
    return taken


def column(part: str, answer: Any, count: int) -> Column:
    """A part's answer as one number or None a sample."""
    values = answer[0] if isinstance(answer, tuple) else answer
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence) or len(values) != count:
        got = len(values) if isinstance(values, Sequence) else type(values).__name__
        raise RuntimeError(f"part {part!r}: expected {count} values, one an image, got {got}")
    try:
        numbers = [None if value is None else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"part {part!r}: expected a number or None for each image, got {values!r:.80}") from error
    return [None if number is None or not math.isfinite(number) else number for number in numbers]


def named(part: str, error: BaseException) -> Exception:
    """The error with the name of its part, of the same kind where it is one of ours."""
    if isinstance(error, GenEvalError):
        return type(error)(f"part {part!r}: {error}")
    return RuntimeError(f"part {part!r}: {type(error).__name__}: {error}")
