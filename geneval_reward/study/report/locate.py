"""Finding the images of a results file on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from geneval_reward.errors import ResultsError


def locate(filenames: Sequence[str], results: Path, folder: Path | None = None) -> list[Path | None]:
    """Find image files by the names in a results file.

    Images are looked for below `folder` or, without one, below the folder of the results file and its subfolder `images`:
    first under the name as it stands; then under the last three parts of the name, because the official script writes paths such
    as `run/00000/samples/0000.png`; then, if no two images share it, under the bare name. A name never leads out of the
    folder, because results files come from other people and what is found is shown.

    Args:
        filenames: `(n,)` names in the results.
        results: The results file.
        folder: Folder with the images; None looks beside the results file.

    Returns:
        `(n,)` paths; None for an image that was not found.

    Raises:
        ResultsError: If `folder` is not a folder.
    """
    if folder is not None and not folder.is_dir():
        got = "a file" if folder.exists() else "nothing"
        raise ResultsError(f"{folder}: expected the folder with the images of {results}, got {got}")
    roots = [folder] if folder is not None else [results.parent, results.parent / "images"]
    roots = [root.resolve() for root in roots if root.is_dir()]
    parts = [[part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "/"] for name in filenames]
    times = Counter(part[-1] for part in parts if part)
    return [_find(part, roots, bare=bool(part) and times[part[-1]] == 1) for part in parts]


def _find(parts: list[str], roots: Sequence[Path], *, bare: bool) -> Path | None:
    if not parts or ".." in parts:
        return None
    ends = [parts, parts[-3:]] + ([parts[-1:]] if bare else [])
    for root in roots:
        for end in ends:
            path = root.joinpath(*end)
            try:
                # A link may lead elsewhere; an absolute part (a drive) would replace the root.
                if path.is_file() and path.resolve().is_relative_to(root):
                    return path
            except (OSError, ValueError):
                continue
    return None
