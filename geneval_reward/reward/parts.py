"""Parts of a composite reward: their arguments, their answers, and the batch that they make up."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from geneval_reward.errors import GenEvalError, ScoringError
from geneval_reward.reward.batch import RewardBatch

_ARGUMENTS: Final = ("images", "prompts", "metadata")

Column = list[float | None]


@dataclass(frozen=True)
class CompositeBatch(RewardBatch):
    """Rewards of a batch with the parts they were made from.

    `verdicts` are those of the first part that has any.

    Attributes:
        parts: What each part answered, before weights; None where it gave nothing, NaN or an infinity.
        batches: The whole answers of those parts that answer more than values, by name: the `RewardBatch` of a
            `GenEvalReward`.
    """

    parts: dict[str, Column] = field(default_factory=dict)
    batches: dict[str, RewardBatch] = field(default_factory=dict)

    def credits(self) -> dict[str, Column]:
        """Every part by its name, and the credits of a part that has some as `part/credit`."""
        columns = dict(self.parts)
        for name, batch in self.batches.items():
            columns |= {f"{name}/{credit}": values for credit, values in batch.credits().items()}
        return columns


def accepted_arguments(part: str, function: Any) -> tuple[str, ...]:
    """Names of those of `images`, `prompts` and `metadata` that a part takes.

    Raises:
        TypeError: If it cannot be called with images, or needs more than these three.
    """
    if not callable(function):
        raise TypeError(f"parts[{part!r}]: expected a callable, got {type(function).__name__}")
    if hasattr(function, "update") and hasattr(function, "compute"):
        raise TypeError(
            f"parts[{part!r}]: expected a callable of images, got the metric {type(function).__name__}, which answers one "
            "number per batch; see geneval_reward.reward.models for CLIPScore"
        )
    parameters = inspect.signature(function).parameters
    if any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        return _ARGUMENTS
    accepted = tuple(name for name in _ARGUMENTS if name in parameters)
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL,)]
    if "images" not in accepted or not set(needed) <= set(accepted):
        raise TypeError(
            f"parts[{part!r}]: expected a callable of images, and optionally of prompts and metadata, got "
            f"{', '.join(parameters) or 'no arguments'}"
        )
    return accepted


def as_column(part: str, answer: Any, count: int) -> Column:
    """Turn a part's answer into one finite number or None per sample.

    Raises:
        RuntimeError: If it is not `count` numbers.
    """
    values = answer[0] if isinstance(answer, tuple) else answer
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence) or len(values) != count:
        got = len(values) if isinstance(values, Sequence) else type(values).__name__
        raise RuntimeError(f"part {part!r}: expected {count} values, one per image, got {got}")
    try:
        numbers = [None if value is None else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"part {part!r}: expected a number or None for each image, got {values!r:.80}") from error
    return [None if number is None or not math.isfinite(number) else number for number in numbers]


def with_part_name(part: str, error: BaseException) -> Exception:
    """Return the error with the name of its part, of the same kind where it is one of this package's."""
    if isinstance(error, GenEvalError) and not isinstance(error, ScoringError):
        return type(error)(f"part {part!r}: {error}")
    return RuntimeError(f"part {part!r}: {type(error).__name__}: {error}")
