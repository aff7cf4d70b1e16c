"""Imports by name: import paths that users write on a command line or in a YAML file, and packages of the extras."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import operator
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from geneval_reward.errors import DependencyError, UsageError

_GRAMMAR = re.compile(r"(?P<source>.+\.py|[A-Za-z_][\w.]*):(?P<attribute>[A-Za-z_][\w.]*)")


def is_import_path(text: str) -> bool:
    """Tell whether a text has the form of an import path.

    Args:
        text: Any text. The name of an existing file or folder is never an import path.

    Examples:
        >>> is_import_path("my_package.models:make"), is_import_path("model.py:make"), is_import_path("owner/name")
        (True, True, False)
    """
    return _GRAMMAR.fullmatch(text) is not None and not Path(text).exists()


def source_file(path: str) -> Path | None:
    """Return the file of a `file.py:attribute` path, or None for `module:attribute`.

    Examples:
        >>> source_file("models/mine.py:make").name, source_file("my_package:make")
        ('mine.py', None)
    """
    source = path.rpartition(":")[0]
    return Path(source).resolve() if source.endswith(".py") else None


def import_object(path: str, argument: str) -> Any:
    """Import what `module:attribute` or `file.py:attribute` names.

    A file is run once per process, as a module is. Modules in the working folder are found too, after all others.

    Args:
        path: The import path. The attribute may have dots, as in `module:Class.method`.
        argument: Name of the argument that holds the path, for the error message.

    Returns:
        The object.

    Raises:
        UsageError: If the path has another form, or the module, the file or the attribute does not exist. Any other error
            that the module raises passes through.

    Examples:
        >>> import_object("math:gcd", "function")(12, 18)
        6
    """
    found = _GRAMMAR.fullmatch(path)
    if found is None:
        raise UsageError(f"{argument}: expected module:attribute or file.py:attribute to import, got {path!r}")
    file = source_file(path)
    try:
        module = _import_module(found["source"]) if file is None else _run_file(file)
    except ImportError as error:
        raise UsageError(
            f"{argument}: expected module:attribute or file.py:attribute to import, got {path!r} ({error})"
        ) from error
    try:
        return operator.attrgetter(found["attribute"])(module)
    except AttributeError as error:
        raise UsageError(
            f"{argument}: expected {found['source']} to define {found['attribute']}, got {path!r} ({error})"
        ) from error


def require(module: str, extra: str, user: str) -> ModuleType:
    """Import a package that one of the extras installs.

    Args:
        module: Name of the module, such as `diffusers`.
        extra: The extra that installs it.
        user: What needs it: the argument, option or function, for the error message.

    Returns:
        The module.

    Raises:
        DependencyError: If it is not installed or cannot be imported; the message says what to install.

    Examples:
        >>> require("json", "report", "plot").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"{user}: expected the package {module.partition('.')[0]}, got {error}; "
            f"pip install 'geneval-reward[{extra}]'"
        ) from error


def _import_module(name: str) -> ModuleType:
    top = name.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None and os.getcwd() not in sys.path:
        # Last, so that a file in the working folder never shadows an installed module.
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def _run_file(file: Path) -> ModuleType:
    # The name holds a digest of the path, so that a file called wave.py does not take the place of a library's module.
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ImportError(f"there is no file {file}")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, because dataclasses and pickle look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
