"""List, copy and load the recipe files, in a clone or in the installed package.

A recipe is one file that holds a whole method, with configurations that begin with their launch line.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final

from geneval_reward.errors import UsageError
from geneval_reward.support.shipped import copy_shipped, shipped_root

_MODULES: Final = "geneval_reward.recipes"
_CONFIG: Final = re.compile(r"\bconfigs/([\w.-]+)")


@dataclass(frozen=True)
class Recipe:
    """A recipe file with its configurations.

    Attributes:
        name: Name of the file without its ending.
        path: The file.
        title: First sentence of the file.
        configs: Its configurations, and the files that they refer to.
    """

    name: str
    path: Path
    title: str
    configs: tuple[Path, ...]

    @property
    def launch_lines(self) -> list[str]:
        """Commands that start it next to `recipes` and `configs`: one per configuration, or those in its docstring."""
        started = f"python recipes/{self.name}.py"
        if self.configs:
            return [f"{started} fit --config configs/{path.name}" for path in self.configs if path.suffix == ".yaml"]
        lines = [line.strip() for line in _docstring(self.path).splitlines()]
        return [line.partition("#")[0].strip() for line in lines if line.startswith(started)]


def list_recipes() -> dict[str, Recipe]:
    """Find all recipes, keyed by name.

    Raises:
        UsageError: If the folders are neither in the package nor beside it.
    """
    root = shipped_root()
    return {path.stem: _read(path, root / "configs") for path in sorted((root / "recipes").glob("*.py"))}


def find_recipe(name: str) -> Recipe:
    """Find a recipe.

    Raises:
        UsageError: If there is none of this name.
    """
    recipes = list_recipes()
    if name not in recipes:
        raise UsageError(f"recipe: expected one of {', '.join(recipes)}, got {name!r}")
    return recipes[name]


def copy_recipe(name: str, folder: Path, *, force: bool = False) -> list[Path]:
    """Copy a recipe and its configurations to `folder/recipes` and `folder/configs`, where its launch lines work as they are.

    Args:
        name: Name of the recipe.
        folder: Created if missing.
        force: Whether to replace existing files that differ.

    Returns:
        The files, whether copied or already identical.

    Raises:
        UsageError: If there is no such recipe, or an existing file differs; then nothing is copied.
    """
    recipe = find_recipe(name)
    return copy_shipped([recipe.path, *recipe.configs], folder, force=force)


def load_recipe(name: str) -> ModuleType:
    """Import a recipe file as a module; it is run once per process.

    Args:
        name: Name of the recipe, such as `diffusion_nft`.

    Raises:
        UsageError: If there is none of this name.

    Examples:
        >>> load_recipe("diffusion_nft").DiffusionNFT.method
        'diffusion-nft'
    """
    folder = find_recipe(name).path.parent
    if _MODULES not in sys.modules:
        # In a clone the folder is next to the package; this registers it under the package name that it has in a wheel.
        spec = ModuleSpec(_MODULES, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[_MODULES] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{_MODULES}.{name}")


def _read(path: Path, configs: Path) -> Recipe:
    title = _docstring(path).partition("\n")[0]
    mine = [config for config in sorted(configs.glob("*.yaml")) if f"recipes/{path.name}" in config.read_text("utf-8")]
    named = {name for config in mine for name in _CONFIG.findall(config.read_text(encoding="utf-8"))}
    return Recipe(path.stem, path, title, tuple(sorted({*mine, *(configs / name for name in named)})))


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
