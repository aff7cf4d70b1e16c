"""Digests of the weights that a model's name currently stands for, to notice different weights under one name."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from geneval_reward.errors import UsageError
from geneval_reward.generate.lora import peft_folder
from geneval_reward.generate.packaged import find_generator
from geneval_reward.support.imports import is_import_path, source_file

_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".json", ".py"})


def identify(name: str) -> str:
    """Return a digest of what the name of a model or of LoRA weights stands for.

    Args:
        name: What `load_generator` takes as `model` or `lora`.

    Returns:
        For `pocket`, `pocket-tokens`, a folder or a file: the SHA-256 of its weights and configurations, independent of where
        they are stored. For `module:function`, `file.py:function` or a name in `recipes/generators`: that of the source file.
        For a name on a model hub: the commit in the local cache. Empty if none of these can be found.

    Examples:
        >>> len(identify("pocket"))
        64
    """
    path = Path(name)
    if name in ("pocket", "pocket-tokens"):
        path = Path(str(files("geneval_reward") / "data" / name.replace("-", "_")))
    elif name.isidentifier() and not path.exists():
        with contextlib.suppress(UsageError):
            name = find_generator(name).source
    if path.is_dir():
        root = peft_folder(path) or path
        return _digest((file.relative_to(root).as_posix(), file) for file in _files(root))
    if path.is_file():
        return _digest([("", path)])
    if is_import_path(name):
        file = source_file(name) or _module_file(name.partition(":")[0])
        return _digest([("", file)]) if file is not None and file.is_file() else ""
    return _hub_commit(name)


def _files(root: Path) -> list[Path]:
    # Unlike rglob, os.walk can follow links: pipelines are often assembled from linked folders.
    found = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    return sorted(file for file in found if file.suffix in _SUFFIXES and file.is_file())


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    whole = hashlib.sha256()
    for name, file in files:
        state = file.stat()
        whole.update(f"{name}\0{_sha256(str(file), state.st_size, state.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=1024)
def _sha256(path: str, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _module_file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None or spec.origin is None else Path(spec.origin)


def _hub_commit(name: str) -> str:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return ""
    ref = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "main"
    return ref.read_text().strip() if ref.is_file() else ""
