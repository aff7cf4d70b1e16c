"""List and find the model files in `recipes/generators`, for models that run in their own Python."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from geneval_reward.errors import UsageError
from geneval_reward.support.shipped import shipped_root


@dataclass(frozen=True)
class ModelFile:
    """A file that runs a model for `ForeignGenerator`.

    Attributes:
        name: Name of the file without its ending.
        path: The file.
        title: First line of its docstring; the rest covers set-up, licence and published scores.
        kind: Name of the class in it.
    """

    name: str
    path: Path
    title: str
    kind: str

    @property
    def source(self) -> str:
        """The argument for `ForeignGenerator`: `file.py:NAME`."""
        return f"{self.path}:{self.kind}"


def list_generators() -> dict[str, ModelFile]:
    """Find all model files, keyed by name.

    Raises:
        UsageError: If the recipes are neither in the package nor next to it.
    """
    return {path.stem: _read(path) for path in sorted((shipped_root() / "recipes" / "generators").glob("*.py"))}


def find_generator(name: str) -> ModelFile:
    """Find a model file.

    Raises:
        UsageError: If there is none of this name.

    Examples:
        >>> find_generator("show_o2").kind
        'ShowO2'
    """
    found = list_generators()
    if name not in found:
        raise UsageError(f"model: expected file.py:NAME, module:NAME or one of {', '.join(found)}, got {name!r}")
    return found[name]


def _read(path: Path) -> ModelFile:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (kind,) = (node.name for node in tree.body if isinstance(node, ast.ClassDef))
    return ModelFile(path.stem, path, (ast.get_docstring(tree) or "").partition("\n")[0], kind)
