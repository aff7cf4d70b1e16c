"""The files of models that run in a Python of their own, `recipes/generators`: list and find them by name."""

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
        title: First line of its docstring, which goes on with set-up, licence and published scores.
        kind: Name of the class in it.
    """

    name: str
    path: Path
    title: str
    kind: str

    @property
    def source(self) -> str:
        """What `ForeignGenerator` takes: `file.py:NAME`."""
        return f"{self.path}:{self.kind}"


def list_generators() -> dict[str, ModelFile]:
    """Find all files of models by name.

    Raises:
        UsageError: If the recipes are neither in the package nor beside it.
    """
    return {path.stem: _read(path) for path in sorted((shipped_root() / "recipes" / "generators").glob("*.py"))}


def find_generator(name: str) -> ModelFile:
    """Find the file of a model.

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
