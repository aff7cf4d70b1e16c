"""Where one box lies relative to another, and how much two boxes overlap, in float32 as in the benchmark.

Source: the position rule and IoU of djghosh13/geneval `evaluation/evaluate_images.py`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Box = npt.NDArray[np.float32]
"""`(4,)` float32: x1, y1, x2, y2 with x right and y down."""

RELATION_COMPONENT: Final = 0.5
"""A relation holds if the unit offset's component along it is greater than this."""

# The axis and the sign of the component that must be large. Left and right come before above and below, which fixes the
# wording of reasons where the benchmark's own order is arbitrary.
_DIRECTIONS: Final = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


def offset_direction(subject: Box, target: Box, dead_zone: float) -> tuple[float, float]:
    """Compute the direction from the target to the subject, shortened by a dead zone.

    With the offset `o` of the centres, each axis gives `r = sign(o) * max(|o| - dead_zone * (size_subject + size_target), 0)`
    and the result is `r / ||o||`: the norm is that of the raw offset.

    Args:
        subject: Box of the object whose place is asked for.
        target: Box of the object that its place is relative to.
        dead_zone: Offsets within this share of the summed sizes count as none.

    Returns:
        `(dx, dy)`, each in [-1, 1]; `(0, 0)` if both components of `r` are below a thousandth of a pixel.
    """
    pair = np.array((subject, target), dtype=np.float32).reshape(2, 2, 2)
    offset = (pair[0, 0] + pair[0, 1]) / np.float32(2) - (pair[1, 0] + pair[1, 1]) / np.float32(2)
    sizes = np.abs(pair[:, 1] - pair[:, 0])
    distance = np.abs(offset)
    shortened = np.maximum(distance - np.float32(dead_zone) * (sizes[0] + sizes[1]), np.float32(0))
    if (shortened < 1e-3).all():
        return 0.0, 0.0
    dx, dy = (np.sign(offset) * shortened / np.sqrt(np.dot(offset, offset))).tolist()
    return dx, dy


def component(direction: tuple[float, float], relation: str) -> float:
    """Compute how far a direction points along a relation, in [-1, 1]."""
    axis, sign = _DIRECTIONS[relation]
    return sign * direction[axis]


def relations(direction: tuple[float, float]) -> list[str]:
    """List the relations that a direction satisfies: none, one or two, left or right before above or below."""
    return [name for name in _DIRECTIONS if component(direction, name) > RELATION_COMPONENT]


def iou(box: Box, others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute the intersection over union with inclusive (+1) widths.

    Args:
        box: `(4,)` float32.
        others: `(n, 4)` float32.

    Returns:
        `(n,)` float32 in [0, 1]; 0 where the union is empty.
    """
    corners = np.concatenate((np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])), axis=1)
    intersection = _area(corners)
    union = _area(box[None]) + _area(others) - intersection
    return np.where(union != 0, intersection / np.where(union != 0, union, np.float32(1)), np.float32(0))


def _area(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2] + np.float32(1), np.float32(0))
    area: npt.NDArray[np.float32] = sides[:, 0] * sides[:, 1]
    return area
