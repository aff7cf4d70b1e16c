"""`Detections`: what a detector found in one image; `Evidence`: the same ranked by class, with colours named.

Every credit is computed from the evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.judge.geometry import iou, offset_direction
from geneval_reward.judge.rules import Rules
from geneval_reward.prompts.vocabulary import CLASS_IDS, CLASS_NAMES, COLORS


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one image, unsorted and raw: no row has been dropped by its confidence.

    The field names follow `supervision.Detections`. Arrays are checked and cast on construction.

    Attributes:
        xyxy: Boxes `(n, 4)` float32 in pixels of the original image, x right, y down, right and bottom exclusive.
        confidence: `(n,)` float32 in [0, 1].
        class_id: `(n,)` int64, indices into `names`.
        image_size: `(width, height)` in pixels.
        mask: `(n, height, width)` bool, or None if the detector gives none. Rows of classes whose colour is not asked for
            may be empty.
        color: Colour probabilities `(n, 10)` float32 in the order of `colors`, or None if no colour was asked for. A row whose
            colour was not asked for is NaN. A row may sum to less than 1; the rest is the probability of "none of them".
        names: The detector's classes; `geneval_reward.prompts.CLASS_NAMES` unless it knows others. A name may come twice.
        colors: The verifier's colours; `geneval_reward.prompts.COLORS` unless it knows others.

    Raises:
        UsageError: If the arrays are not parallel, or a value is out of range.
    """

    xyxy: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int64]
    image_size: tuple[int, int]
    mask: npt.NDArray[np.bool_] | None = None
    color: npt.NDArray[np.float32] | None = None
    names: tuple[str, ...] = CLASS_NAMES
    colors: tuple[str, ...] = COLORS

    def __post_init__(self) -> None:
        xyxy = np.ascontiguousarray(self.xyxy, dtype=np.float32)
        n = len(xyxy)
        if xyxy.size == 0:
            xyxy = xyxy.reshape(0, 4)
        confidence = np.asarray(self.confidence, dtype=np.float32)
        class_id = np.asarray(self.class_id, dtype=np.int64)
        width, height = (int(side) for side in self.image_size)
        _check_shape("xyxy", xyxy, (n, 4))
        _check_shape("confidence", confidence, (n,))
        _check_shape("class_id", class_id, (n,))
        outside = class_id[(class_id < 0) | (class_id >= len(self.names))]
        if outside.size:
            raise UsageError(
                f"class_id: expected 0..{len(self.names) - 1}, got {outside[0]}; map the detector's labels by index, or give "
                "its own classes as `names`"
            )
        if not (np.isfinite(confidence).all() and np.isfinite(xyxy).all()):
            raise UsageError("xyxy, confidence: expected finite numbers, got NaN or infinity; the detector is broken")
        _check_range("confidence", confidence, "apply the sigmoid or softmax, or divide by 100")
        for name, value in (("xyxy", xyxy), ("confidence", confidence), ("class_id", class_id)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "image_size", (width, height))
        if self.mask is not None:
            mask = np.asarray(self.mask, dtype=np.bool_)
            _check_shape("mask", mask, (n, height, width))
            object.__setattr__(self, "mask", mask)
        if self.color is not None:
            color = np.asarray(self.color, dtype=np.float32)
            color = color if color.size else color.reshape(0, len(self.colors))
            _check_shape("color", color, (n, len(self.colors)))
            _check_range("color", color, "apply the softmax; leave the row of a colour that was not asked for NaN")
            object.__setattr__(self, "color", color)

    def __len__(self) -> int:
        return len(self.confidence)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} x{count}" for name, count in Counter(self.class_names).most_common(6))
        width, height = self.image_size
        return f"Detections({len(self)} boxes in {width} x {height}{': ' + counts if counts else ''})"

    def _repr_html_(self) -> str:
        from geneval_reward.judge.html import detections_html

        return detections_html(self)

    def __getitem__(self, index: Any) -> Detections:
        """Select rows by a slice, a boolean array or an integer array."""
        return Detections(
            self.xyxy[index],
            self.confidence[index],
            self.class_id[index],
            self.image_size,
            None if self.mask is None else self.mask[index],
            None if self.color is None else self.color[index],
            self.names,
            self.colors,
        )

    @classmethod
    def empty(cls, image_size: tuple[int, int]) -> Detections:
        """Make detections without any object, for an image of `(width, height)`."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), image_size)

    def with_color(self, color: npt.ArrayLike | None, colors: tuple[str, ...] = COLORS) -> Detections:
        """Copy the detections with another `color`, an array with a column for each of `colors`, or None."""
        return replace(self, color=None if color is None else np.asarray(color, dtype=np.float32), colors=colors)

    def without_masks(self) -> Detections:
        """Copy the detections without masks, which nobody needs once colours are known."""
        return self if self.mask is None else replace(self, mask=None)

    @property
    def class_names(self) -> list[str]:
        """The class name of each row."""
        return [self.names[index] for index in self.class_id.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the masks and the image size as plain lists, for JSON.

        Numbers have the shortest digits that are read back as the same float32.

        Returns:
            The parallel lists `xyxy`, `confidence`, `class` (names) and `color`, in which None stands for a colour that was not
            asked for; and `colors`, the names of its columns, if they are not the ten.
        """
        color = self.color
        own = {} if self.colors == COLORS or color is None else {"colors": list(self.colors)}
        return {
            "xyxy": [shortest(box) for box in self.xyxy],
            "confidence": shortest(self.confidence),
            "class": self.class_names,
            "color": None if color is None else [None if np.isnan(row[0]) else shortest(row) for row in color],
            **own,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], image_size: Sequence[int]) -> Detections:
        """Make detections from the lists of `to_dict`.

        Args:
            record: What `to_dict` gave, or the same read from JSON.
            image_size: `(width, height)` in pixels.

        Raises:
            UsageError: If the lists are not parallel, or hold something else.
        """
        try:
            color, classes = record["color"], record["class"]
            colors = COLORS if record.get("colors") is None else _words(record["colors"])
            rows = None if color is None else [[np.nan] * len(colors) if row is None else row for row in color]
            width, height = image_size
            own = dict.fromkeys(name for name in classes if name not in CLASS_IDS)
            names = (*CLASS_NAMES, *_words(own)) if own else CLASS_NAMES
            ids = CLASS_IDS | {name: len(CLASS_NAMES) + row for row, name in enumerate(own)} if own else CLASS_IDS
            return cls(
                xyxy=np.array(record["xyxy"], np.float32).reshape(-1, 4),
                confidence=np.array(record["confidence"], np.float32),
                class_id=np.array([ids[name] for name in classes], np.int64),
                image_size=(width, height),
                color=None if rows is None else np.array(rows, np.float32).reshape(-1, len(colors)),
                names=names,
                colors=colors,
            )
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            text = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(
                f"detections: expected parallel lists xyxy, confidence, class, color, got {text[:200]}"
            ) from error


def shortest(values: npt.ArrayLike) -> list[float]:
    """Write float32 numbers with their shortest digits, as floats: half as long in JSON, and read back as the same float32."""
    return [float(str(value)) for value in np.asarray(values, np.float32).ravel()]


def _words(values: Any) -> tuple[str, ...]:
    words = tuple(values)
    if not words or len(words) > 4096 or not all(isinstance(word, str) and word for word in words):
        raise TypeError("names of classes or colours that are no texts")
    return words


def _check_range(name: str, array: npt.NDArray[np.float32], remedy: str) -> None:
    # Half precision may round a probability up slightly. NaN passes, since it stands for a colour that was not asked for.
    outside = array[(array < 0) | (array > 1.001)]
    if outside.size:
        raise UsageError(f"{name}: expected numbers in [0, 1], got {outside[0]:.4g}; {remedy}")


def _check_shape(name: str, array: npt.NDArray[Any], shape: Sequence[int]) -> None:
    if array.shape != tuple(shape):
        raise UsageError(f"{name}: expected shape {tuple(shape)}, got {array.shape}; the arrays are parallel")


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
        self._by_class: dict[str, list[int]] = {}
        for row, name in enumerate(detections.class_names):
            self._by_class.setdefault(name, []).append(row)
        self._ranked: dict[str, list[int]] = {}

    def ranked(self, class_name: str) -> list[int]:
        """All rows of a class, by falling confidence."""
        rows = self._ranked.get(class_name)
        if rows is None:
            rows = self._ranked[class_name] = self._rank(self._by_class.get(class_name, []))
        return rows

    def objects(self, class_name: str) -> list[int]:
        """The rows of a class that count as objects, which are those above the threshold, by falling confidence."""
        return [row for row in self.ranked(class_name) if self._confidence[row] > self.threshold]

    def kept(self) -> dict[str, int]:
        """The number of objects of each class that has any: the 80 in their order, then others by the alphabet."""
        names = sorted(self._by_class, key=lambda name: (CLASS_IDS.get(name, len(CLASS_IDS)), name))
        return {name: count for name in names if (count := len(self.objects(name)))}

    def confidence(self, row: int) -> float:
        """The confidence of a row."""
        return self._confidence[row]

    def color(self, row: int) -> str | None:
        """The name of a row's colour, or None if it is none that the verifier knows.

        Raises:
            UsageError: If the verifier was not asked for the colour of this row.
        """
        probabilities = self._color_row(row)
        best = int(probabilities.argmax())
        # A verifier that can abstain leaves the probability of "none of them" out of the row.
        return self.detections.colors[best] if probabilities[best] >= 1.0 - float(probabilities.sum()) - 1e-6 else None

    def color_probability(self, row: int, color: str) -> float:
        """The probability that a row has the colour; 0 for one that the verifier does not know.

        Raises:
            UsageError: If the verifier was not asked for the colour of this row.
        """
        probabilities, colors = self._color_row(row), self.detections.colors
        return float(probabilities[colors.index(color)]) if color in colors else 0.0

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
