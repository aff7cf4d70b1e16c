"""What the figures of this package share: palette, axes, error bars and files. Needs matplotlib (extra `report`)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from geneval_reward.errors import UsageError
from geneval_reward.stats import Estimate
from geneval_reward.support.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart (jfly.uni-koeln.de/color, 2008)."""

MARKS: Final = ("o", "s", "D", "^", "v", "P", "X")
"""Markers that go with the colours, so that a figure can also be read without them."""

GREYS: Final = ("#6f7782", "#8d95a0", "#a9b0ba", "#c3c9d1", "#d9dde3")


def style_of(number: int) -> tuple[str, str]:
    """Pick the colour and marker of a series, by its number."""
    return PALETTE[number % len(PALETTE)], MARKS[number % len(MARKS)]


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that belongs to no window.

    Args:
        width: Width in inches.
        height: Height in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures: expected matplotlib, got none; pip install 'geneval-reward[report]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(width: float, height: float, *, grid: Literal["x", "y", "both"] = "both") -> tuple[Figure, Axes]:
    """Make a figure with one set of bare axes; the arguments are those of `new_figure` and `tidy`."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    tidy(axes, grid)
    return figure, axes


def tidy(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    """Put a pale grid behind the data and take the frame away at the top and at the right."""
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def error_bars(values: Sequence[float], lows: Sequence[float], highs: Sequence[float], scale: float = 1) -> list[Any]:
    """Compute the lengths of error bars as matplotlib takes them; ends that are not known have length 0."""

    def length(value: float) -> float:
        return max(0.0, scale * value) if math.isfinite(value) else 0.0

    return [
        [length(value - low) for value, low in zip(values, lows, strict=True)],
        [length(high - value) for value, high in zip(values, highs, strict=True)],
    ]


def estimate_bars(estimates: Sequence[Estimate], scale: float = 1) -> list[Any]:
    """Compute the error bars of scores; see `error_bars`."""
    ends = [one.interval for one in estimates]
    return error_bars([one.value for one in estimates], [e.low for e in ends], [e.high for e in ends], scale)


def plain_text(text: str) -> str:
    """Keep matplotlib from reading text of others as mathematics."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure, whole or not at all.

    Args:
        figure: A figure.
        path: The file. Its suffix says what kind it is (`.png`, `.svg`, `.pdf`); missing folders are made.
        dpi: Resolution in dots per inch.

    Returns:
        The file.

    Raises:
        UsageError: If matplotlib cannot write that kind of file.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise UsageError(f"{path}: expected a picture file such as .png or .svg, got the suffix {path.suffix!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    # Without a date inside, equal figures give equal files.
    figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    write_whole(path, buffer.getvalue())
    return path
