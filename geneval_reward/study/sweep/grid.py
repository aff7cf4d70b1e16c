"""Grids of generator arguments: their cells, and where each argument goes."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import UsageError

# Short names for common axes; diffusers' own names work as well.
_ALIASES: Final = {
    "steps": ("num_inference_steps",),
    "guidance": ("guidance_scale",),
    "cfg": ("guidance_scale",),
    "resolution": ("height", "width"),
}
_LOADING: Final = ("model", "precision", "lora", "lora_scale")
_BEST_OF: Final = "best_of"


@dataclass(frozen=True)
class Cell:
    """One setting of a sweep.

    Attributes:
        values: The value of each axis by its name in the grid, in the grid's order; `best_of` may be one of them.
    """

    values: tuple[tuple[str, Any], ...]

    @property
    def best_of(self) -> int:
        """Number of candidates that the metric chooses each image from; 1 for no choice."""
        return int(dict(self.values).get(_BEST_OF, 1))

    @property
    def name(self) -> str:
        """The setting in words, such as `steps=4 guidance=1.5`; `default` without any axis."""
        return " ".join(f"{name}={_text(value)}" for name, value in self.values) or "default"

    @property
    def rendering(self) -> Cell:
        """The same setting without `best_of`; cells that differ only in `best_of` share their images."""
        return Cell(tuple((name, value) for name, value in self.values if name != _BEST_OF))

    @property
    def folder(self) -> str:
        """A name for the cell's folder, unique among cells."""
        text = ",".join(f"{name}={_text(value)}" for name, value in self.rendering.values) or "default"
        safe = re.sub(r"[^\w.=,+-]", "_", text)
        if safe == text and len(text) <= 100:
            return safe
        return f"{safe[:90]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def arguments(self, *, aliases: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split the setting into arguments of `geneval_reward.generate.load_generator` and arguments of each call.

        Args:
            aliases: Whether short names stand for those of diffusers, such as `steps` for `num_inference_steps`.
        """
        loading: dict[str, Any] = {}
        calling: dict[str, Any] = {}
        for name, value in self.rendering.values:
            for real in _ALIASES.get(name, (name,)) if aliases else (name,):
                (loading if real in _LOADING else calling)[real] = value
        return loading, calling


def make_cells(grid: Mapping[str, Sequence[Any]], fixed: Mapping[str, Any] | None = None) -> tuple[Cell, ...]:
    """Make all combinations of a grid, the last axis varying fastest.

    Args:
        grid: Values by argument: `steps`, `guidance` (or `cfg`), `resolution`, `precision`, `model`,
            `lora`, `lora_scale`, `best_of`, or any argument of the pipeline's call by its own name.
        fixed: Arguments that are the same in every cell; only used to refuse an axis with the same meaning.

    Raises:
        UsageError: If there is no axis, an axis is empty or holds a value twice, two axes set one argument, or `best_of`
            is not an integer >= 1.

    Examples:
        >>> [cell.name for cell in make_cells({"steps": [4, 8], "guidance": [1, 3.5]})]
        ['steps=4 guidance=1', 'steps=4 guidance=3.5', 'steps=8 guidance=1', 'steps=8 guidance=3.5']
    """
    if not grid:
        raise UsageError("grid: expected at least one axis such as steps=4,8,16, got none")
    sets: dict[str, str] = {real: name for name in fixed or () for real in _ALIASES.get(name, (name,))}
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UsageError(f"grid: {name}: expected a list of values, got {values!r}")
        texts = [_text(value) for value in values]
        double = next((text for text in texts if texts.count(text) > 1), None)
        if double is not None:
            raise UsageError(f"grid: {name}: expected every value once, got {double} twice")
        if name == _BEST_OF and not all(type(value) is int and value >= 1 for value in values):
            raise UsageError(f"grid: best_of: expected integers >= 1, got {list(values)!r}")
        for real in _ALIASES.get(name, (name,)):
            if real in sets:
                raise UsageError(f"grid: {name}: expected one axis or fixed value for {real}, got {sets[real]} too")
            sets[real] = name
    axes = [[(name, value) for value in values] for name, values in grid.items()]
    return tuple(Cell(values) for values in itertools.product(*axes))


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Read `steps=4,8,16`.

    Numbers, true, false and null are read as JSON; everything else is text.

    Raises:
        UsageError: If there is no name or no value.

    Examples:
        >>> parse_axis("precision=fp32,bf16"), parse_axis("cfg=1,3.5")
        (('precision', ['fp32', 'bf16']), ('cfg', [1, 3.5]))
    """
    name, equals, values = text.partition("=")
    parts = [part.strip() for part in values.split(",")]
    if not equals or not name.strip().isidentifier() or not all(parts):
        raise UsageError(f"grid: expected name=value,value,... such as steps=4,8,16, got {text!r}")
    return name.strip(), [_value(part) for part in parts]


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a sweep's YAML file.

    Args:
        path: The file. Keys: `grid` (lists by argument), and optionally `set` (fixed arguments), `model`, `suite`,
            `subset`, `images_per_prompt`, `seed`, `backend`, `rules`.

    Raises:
        UsageError: If the file is missing, is not YAML, or has other keys.
        ImportError: If pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"{path}: expected pyyaml to read it, got none; pip install pyyaml, or use --grid") from error
    path = Path(path)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: expected a YAML file, got none ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected YAML, got {error}") from error
    except RecursionError as error:
        raise UsageError(f"{path}: expected YAML, got some that is nested too deeply") from error
    known = ("grid", "set", "model", "suite", "subset", "images_per_prompt", "seed", "backend", "rules")
    if not isinstance(found, dict) or not isinstance(found.get("grid"), dict):
        raise UsageError(f"{path}: expected a mapping with 'grid', itself a mapping of lists, got {found!r:.80}")
    unknown = [key for key in found if key not in known]
    if unknown:
        raise UsageError(f"{path}: expected keys of {', '.join(known)}, got {unknown[0]!r}")
    if not isinstance(found.get("set", {}), dict):
        raise UsageError(f"{path}: set: expected a mapping of arguments, got {found['set']!r}")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
