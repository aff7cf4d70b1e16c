"""Compares the detections of two detectors in the same image."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.judge.detections import Detections
from geneval_reward.prompts.vocabulary import CLASS_NAMES

_SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """How two detectors differ on one image, for objects above a confidence threshold.

    Attributes:
        objects: Number of objects above the threshold, for the first and the second detector.
        matched: Number of pairs of one class with an IoU of at least 0.5.
        counts_differ: Names of the classes of which they see different numbers.
        confidence: Largest difference of matched confidences.
        box: Largest difference of a matched corner, in pixels.
        mask_iou: Smallest IoU of matched masks; None without masks.
    """

    objects: tuple[int, int]
    matched: int
    counts_differ: tuple[str, ...]
    confidence: float
    box: float
    mask_iou: float | None

    @property
    def same(self) -> bool:
        """Whether both see the same number of objects of every class, on which most verdicts depend."""
        return not self.counts_differ

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self)


def compare(first: Detections, second: Detections, threshold: float = 0.3) -> Difference:
    """Match the objects of two detectors in the same image, class by class, the most confident first.

    Args:
        first: Detections of one detector.
        second: Detections of the other, in an image of the same size.
        threshold: Objects at or below this confidence do not count.

    Raises:
        UsageError: If the image sizes differ.

    Examples:
        >>> empty = Detections.empty((8, 8))
        >>> compare(empty, empty).same
        True
    """
    if first.image_size != second.image_size:
        raise UsageError(f"second: expected detections of a {first.image_size} image, got {second.image_size}")
    a, b = (found[found.confidence > np.float32(threshold)] for found in (first, second))
    counts = [Counter(found.class_id.tolist()) for found in (a, b)]
    differ = tuple(CLASS_NAMES[c] for c in sorted(counts[0].keys() | counts[1].keys()) if counts[0][c] != counts[1][c])
    pairs = _match(a, b)
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    confidence = np.abs(a.confidence[rows] - b.confidence[columns])
    box = np.abs(a.xyxy[rows] - b.xyxy[columns])
    overlap = None
    if a.mask is not None and b.mask is not None and pairs:
        overlap = min(_mask_iou(a.mask[row], b.mask[column]) for row, column in pairs)
    return Difference(
        objects=(len(a), len(b)),
        matched=len(pairs),
        counts_differ=differ,
        confidence=float(confidence.max(initial=0.0)),
        box=float(box.max(initial=0.0)),
        mask_iou=overlap,
    )


def _match(a: Detections, b: Detections) -> list[tuple[int, int]]:
    free = set(range(len(b)))
    pairs = []
    for row in np.argsort(-a.confidence, kind="stable").tolist():
        same = [column for column in free if b.class_id[column] == a.class_id[row]]
        if same:
            # Confidence decides between nearly equal boxes, since one query may give several rows.
            overlaps = _box_iou(a.xyxy[row], b.xyxy[same])
            gap = np.abs(b.confidence[same] - a.confidence[row])
            best = max(range(len(same)), key=lambda i: (round(float(overlaps[i]), 2), -float(gap[i])))
            if overlaps[best] >= _SAME_OBJECT_IOU:
                pairs.append((row, same[best]))
                free.discard(same[best])
    return pairs


def _box_iou(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = (high - low).clip(0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared
    return np.asarray(shared / np.maximum(areas, 1e-9), np.float32)


def _mask_iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
