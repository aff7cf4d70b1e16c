"""`Plan`: a change of a model's structure that is saved as JSON, applied to a pipeline, and undone."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from torch import nn

from geneval_reward.errors import FileError, UsageError
from geneval_reward.support.files import parse_json, write_whole
from geneval_reward.surgery.stored import stored_bytes
from geneval_reward.surgery.swaps import Swaps

_VOLATILE: Final = frozenset(
    ("transformers_version", "dtype", "torch_dtype", "use_cache", "architectures", "quantization_config")
)
_KINDS: Final[dict[str, type[Plan]]] = {}


@dataclass
class Applied:
    """A plan that is in force on a pipeline.

    It holds the parts that were taken out, so that `undo` can put them back: drop it to free their memory for good.

    Attributes:
        removed_bytes: Stored bytes of the model before, less those after; negative if the plan made it larger.
    """

    removed_bytes: int
    _swaps: Swaps

    def undo(self) -> None:
        """Restore the model bit for bit; a second call does nothing.

        Raises:
            UsageError: If a plan that was applied later is still in force.
        """
        self._swaps.undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """Base of all plans. A subclass is a frozen dataclass that names its kind and changes the model in `change`.

        @dataclass(frozen=True, kw_only=True)
        class BlockPlan(Plan, kind="blocks"):
            removed: tuple[str, ...] = ()

    Fields must be JSON values, with tuples in place of lists.

    Attributes:
        part: The component of the pipeline that is changed, such as `transformer` or `text_encoder_3`.
        model: `fingerprint` of the model that the plan is for.
    """

    part: str
    model: str
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if kind:
            cls.kind = kind
            _KINDS[kind] = cls

    @abstractmethod
    def change(self, pipeline: Any, model: nn.Module, swaps: Swaps) -> None:
        """Change the model through `swaps` only; whatever is raised on the way, all swaps are taken back."""

    def apply(self, pipeline: Any) -> Applied:
        """Change the pipeline's model in place.

        Args:
            pipeline: A diffusers pipeline, or any object that has the model as attribute `part`.

        Returns:
            What was removed and how to undo it; also a context manager, which undoes on leaving.

        Raises:
            UsageError: If the pipeline lacks the part, its model is not the plan's, or the plan does not fit it. The model is
                then as it was.
        """
        model = find_part(pipeline, self.part)
        found = fingerprint(model)
        if found != self.model:
            raise UsageError(
                f"plan: expected {self.part} to be the model that the plan was made for ({self.model}), got {found}; make a "
                "plan for this model"
            )
        before = stored_bytes(model)
        swaps = Swaps(model)
        try:
            self.change(pipeline, model, swaps)
        except BaseException:
            swaps.undo()
            raise
        return Applied(before - stored_bytes(model), swaps)

    def to_json(self) -> str:
        """One line of JSON, from which `from_json` makes an equal plan."""
        return json.dumps({"kind": self.kind} | asdict(self))

    @staticmethod
    def from_json(text: str | bytes, where: str = "plan") -> Plan:
        """Read a plan of any kind.

        Args:
            text: What `to_json` wrote.
            where: What error messages call it.

        Raises:
            FileError: If it is not JSON, or a field is missing, unknown or not valid.
        """
        try:
            data = parse_json(text)
        except FileError as error:
            raise FileError(f"{where}: {error}") from error
        kind = data.pop("kind", None) if isinstance(data, dict) else None
        if not isinstance(kind, str) or kind not in _KINDS:
            raise FileError(f"{where}: expected a plan with kind {' or '.join(sorted(_KINDS))}, got kind {kind!r}")
        known = {field.name for field in fields(_KINDS[kind])}
        unknown = sorted(data.keys() - known)
        if unknown:
            raise FileError(f"{where}: expected fields {', '.join(sorted(known))}, got {unknown[0]!r}")
        for name in ("part", "model"):
            if not isinstance(data.get(name), str):
                raise FileError(f"{where}: {name}: expected a string, got {data.get(name)!r}")
        try:
            return _KINDS[kind](**{name: _frozen(value) for name, value in data.items()})
        except (TypeError, UsageError) as error:
            raise FileError(f"{where}: {error}") from error


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan to a JSON file.

    Raises:
        OSError: If the file cannot be written.
    """
    write_whole(path, plan.to_json() + "\n")


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a JSON file.

    Raises:
        FileError: If it is not a plan.
        OSError: If the file cannot be read.
    """
    return Plan.from_json(Path(path).read_bytes(), str(path))


def find_part(pipeline: Any, name: str) -> nn.Module:
    """Find a component of a pipeline that has weights.

    Raises:
        UsageError: If there is none of this name.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> type(find_part(load_pipeline(), "text_encoder")).__name__
        'T5EncoderModel'
    """
    found = getattr(pipeline, name, None)
    if not isinstance(found, nn.Module):
        raise UsageError(f"part: expected one of {', '.join(list_parts(pipeline)) or 'no parts'}, got {name!r}")
    return found


def list_parts(pipeline: Any) -> dict[str, nn.Module]:
    """List the components of a pipeline that have weights, by name, in the pipeline's order."""
    parts = getattr(pipeline, "components", None) or vars(pipeline)
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def fingerprint(model: nn.Module) -> str:
    """Name the structure of a model: its class and a digest of its configuration.

    Versions, precisions and paths in the configuration do not count, and neither do the weights: a plan also fits a model
    that was trained on.

    Returns:
        Such as `T5EncoderModel:0123456789abcdef`.
    """
    config = getattr(model, "config", None)
    if config is None:
        known: dict[str, Any] = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    else:
        known = dict(config.to_diff_dict() if hasattr(config, "to_diff_dict") else config)
    kept = {name: value for name, value in known.items() if not name.startswith("_") and name not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
    return f"{type(model).__name__}:{digest[:16]}"


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return value
