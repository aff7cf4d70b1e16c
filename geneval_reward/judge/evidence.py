"""`Evidence`: the detections of one image, ranked by class and with their colours named. Every credit is computed from it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from geneval_reward.errors import UsageError
from geneval_reward.judge.detections import Detections
from geneval_reward.judge.geometry import iou, offset_direction
from geneval_reward.judge.rules import Rules
from geneval_reward.prompts.vocabulary import CLASS_IDS, CLASS_NAMES, COLORS


class Evidence:
    """Ranked objects of one image.

    The objects of a class are ranked by falling confidence, cut at `max_objects` and thinned by overlap. Each step looks only
    at more confident objects, so the benchmark's objects (it applies the threshold first) are the first of these, and the rest is
    what smooth credits look at.

    Objects with exactly the same confidence are ranked by their boxes, so that the order of the detections never matters.
    The benchmark takes `numpy.argsort(confidence)[::-1]`, in which such a tie depends on that order and on the version of
    NumPy. A verdict can differ only if a tie decides which objects are looked at: more than a clause asks for, or than
    `max_objects`.
    """

    __slots__ = ("_by_class", "_confidence", "_ranked", "detections", "rules", "threshold")

    def __init__(self, detections: Detections, rules: Rules, tag: str) -> None:
        self.detections = detections
        self.rules = rules
        # The benchmark compares float32 arrays: a confidence of float32(0.3) is not above 0.3.
        self.threshold = float(np.float32(rules.threshold(tag)))
        self._confidence: list[float] = detections.confidence.tolist()
        self._by_class: dict[int, list[int]] = {}
        for row, class_id in enumerate(detections.class_id.tolist()):
            self._by_class.setdefault(class_id, []).append(row)
        self._ranked: dict[str, list[int]] = {}

    def ranked(self, class_name: str) -> list[int]:
        """All rows of a class, by falling confidence."""
        rows = self._ranked.get(class_name)
        if rows is None:
            rows = self._ranked[class_name] = self._rank(self._by_class.get(CLASS_IDS[class_name], []))
        return rows

    def objects(self, class_name: str) -> list[int]:
        """The rows of a class that count as objects, which are those above the threshold, by falling confidence."""
        return [row for row in self.ranked(class_name) if self._confidence[row] > self.threshold]

    def kept(self) -> dict[str, int]:
        """The number of objects of each class that has any, in the order of the classes."""
        names = [CLASS_NAMES[class_id] for class_id in sorted(self._by_class)]
        return {name: count for name in names if (count := len(self.objects(name)))}

    def confidence(self, row: int) -> float:
        """The confidence of a row."""
        return self._confidence[row]

    def color(self, row: int) -> str | None:
        """The name of a row's colour, or None if it is none of the ten.

        Raises:
            UsageError: If the verifier was not asked for the colour of this row.
        """
        probabilities = self._color_row(row)
        best = int(probabilities.argmax())
        # A verifier that can abstain leaves the probability of "none of the ten" out of the row.
        return COLORS[best] if probabilities[best] >= 1.0 - float(probabilities.sum()) - 1e-6 else None

    def color_probability(self, row: int, color: str) -> float:
        """The probability that a row has the colour.

        Raises:
            UsageError: If the verifier was not asked for the colour of this row.
        """
        return float(self._color_row(row)[COLORS.index(color)])

    def direction(self, subject: int, target: int) -> tuple[float, float]:
        """The direction from the target row to the subject row by the position rule."""
        xyxy = self.detections.xyxy
        return offset_direction(xyxy[subject], xyxy[target], self.rules.position)

    def _rank(self, rows: list[int]) -> list[int]:
        if len(rows) > 1:
            confidence = self._confidence
            rows = sorted(rows, key=confidence.__getitem__, reverse=True)
            if any(confidence[a] == confidence[b] for a, b in pairwise(rows)):
                rows = sorted(rows, key=self._tie_key)
            rows = rows[: self.rules.max_objects]
            if self.rules.max_overlap != 1.0:
                rows = self._thin(rows)
        return rows

    def _tie_key(self, row: int) -> tuple[float, ...]:
        color = self.detections.color
        shade = () if color is None else tuple(np.nan_to_num(color[row], nan=-1.0).tolist())
        return (-self._confidence[row], *self.detections.xyxy[row].tolist(), *shade)

    def _thin(self, rows: list[int]) -> list[int]:
        xyxy = self.detections.xyxy
        limit = np.float32(self.rules.max_overlap)
        kept: list[int] = []
        for row in rows:
            if not kept or bool((iou(xyxy[row], xyxy[kept]) < limit).all()):
                kept.append(row)
        return kept

    def _color_row(self, row: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        colors = self.detections.color
        if colors is None or np.isnan(colors[row, 0]):
            raise UsageError(
                f"color: expected colour probabilities for detection {row} ({self.detections.class_names[row]}), "
                "got none; the verifier was not asked about it, so score the image again with these rules"
            )
        return np.asarray(colors[row])
