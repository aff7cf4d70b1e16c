"""Matplotlib figures into files of the kind that their name says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from geneval_reward.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure; the suffix says what kind (`.png`, `.svg`, `.pdf`), folders are made.

    Args:
        figure: What is drawn.
        path: The file.

    Returns:
        The file.

    Raises:
        ValueError: If matplotlib cannot write that kind.
    """
    path = Path(path)
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        raise UsageError(f"{path}: expected a picture file such as .png or .svg, got the suffix {path.suffix!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
