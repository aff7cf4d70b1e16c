"""Where the files are that travel with the package without being part of it, and how they are copied.

The folders `recipes` and `configs` stand beside the package in a clone and inside it in a wheel.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from geneval_reward.errors import UsageError

_PACKAGE: Final = Path(__file__).parents[1]


def shipped_root() -> Path:
    """Find the folder that holds `recipes` and `configs`.

    Raises:
        UsageError: If they are neither in the package nor beside it.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        if (root / "recipes" / "diffusion_nft.py").is_file():
            return root
    raise UsageError(
        f"recipes: expected a folder 'recipes' in {_PACKAGE} or beside it, got neither; install the wheel, or work in a clone"
    )


def copy_shipped(paths: Iterable[Path], folder: Path, *, force: bool = False) -> list[Path]:
    """Copy files to the same places below another folder.

    Args:
        paths: Files below `shipped_root()`.
        folder: Made if it is not there.
        force: Whether to replace files that are there and differ.

    Returns:
        The copies, new or equal already.

    Raises:
        UsageError: If a file is there that differs; then nothing is copied.
    """
    root = shipped_root()
    pairs = [(path, folder / path.relative_to(root)) for path in paths]
    changed = [target for source, target in pairs if target.exists() and target.read_bytes() != source.read_bytes()]
    if changed and not force:
        raise UsageError(
            f"recipes copy: expected no other files in the way, got {', '.join(map(str, changed))}; name another folder, or "
            "give --force to replace them"
        )
    for source, target in pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target in changed:
            target.write_bytes(source.read_bytes())
    return [target for _, target in pairs]
