"""Seconds per image, recorded batch by batch, so that an interrupted cell keeps its timings."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scipy.special import stdtrit

from geneval_reward.errors import FileError, ResultsError
from geneval_reward.support.files import parse_json, split_lines

ENOUGH: Final = 4
"""Number of batches from which an interval is given: with two, a t quantile of 12.7 makes it meaningless."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long an image took.

    Attributes:
        seconds: Seconds per image; NaN if none was timed.
        low: Lower end of the interval; NaN with fewer than four batches, which say too little about how they vary.
        high: Upper end of the interval.
        images: Number of timed images.
    """

    seconds: float
    low: float
    high: float
    images: int

    def times(self, factor: float) -> Timing:
        """Return the time of `factor` images for each one."""
        return Timing(self.seconds * factor, self.low * factor, self.high * factor, self.images)


def note_batch(path: Path, images: int, seconds: float) -> None:
    """Append the time of one batch to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"images": images, "seconds": round(seconds, 6)}) + "\n")


def read_batches(path: Path) -> list[tuple[int, float]]:
    """Read images and seconds of every batch; a last line that was cut off by a kill is skipped.

    Raises:
        ResultsError: If any other line is damaged.
    """
    content = path.read_bytes() if path.exists() else b""
    found = []
    # The text after the last line feed is empty, or was cut off.
    for number, line in split_lines(content[: content.rfind(b"\n") + 1].removesuffix(b"\n"), str(path)):
        try:
            record = parse_json(line) if line else {"images": 0, "seconds": 0}
            found.append((int(record["images"]), float(record["seconds"])))
        except (FileError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise ResultsError(
                f"{path} line {number}: expected images and seconds, got {line!r}; delete the file"
            ) from error
    return [batch for batch in found if batch[0]]


def timing(batches: Sequence[tuple[int, float]], level: float = 0.95) -> Timing:
    """Divide all seconds by all images, with a t interval over the batches if there are at least four.

    Source:
        The standard error of a ratio, linearised (W. G. Cochran, Sampling Techniques, 3rd ed., 6.4).

    Examples:
        >>> found = timing([(4, 2.0), (4, 2.2), (4, 2.1), (2, 1.0)])
        >>> round(found.seconds, 3), round(found.high - found.seconds, 3), found.images
        (0.521, 0.039, 14)
    """
    images, seconds = sum(n for n, _ in batches), sum(s for _, s in batches)
    rate, count = seconds / images if images else math.nan, len(batches)
    if count < ENOUGH:
        return Timing(rate, math.nan, math.nan, images)
    spread = sum((s - rate * n) ** 2 for n, s in batches)
    error = math.sqrt(count / (count - 1) * spread) / images
    half = float(stdtrit(count - 1, 0.5 + level / 2)) * error
    return Timing(rate, max(rate - half, 0.0), rate + half, images)
