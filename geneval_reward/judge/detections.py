"""`Detections`: what a detector saw in one image, as parallel arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.prompts.vocabulary import CLASS_NAMES, COLORS


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects of one image, unsorted and raw: whatever its confidence, every row counts until a rule drops it.

    The field names follow `supervision.Detections`. Arrays are checked and cast on construction.

    Attributes:
        xyxy: Boxes `(n, 4)` float32 in pixels of the original image, x right, y down, right and bottom exclusive.
        confidence: `(n,)` float32 in [0, 1].
        class_id: `(n,)` int64, index into `geneval_reward.prompts.CLASS_NAMES`.
        image_size: `(width, height)` in pixels.
        mask: `(n, height, width)` bool, or None where the detector gives none. Rows of classes whose colour nobody
            asks for may be empty.
        color: Colour probabilities `(n, 10)` float32 in the order of `geneval_reward.prompts.COLORS`, or
            None if no colour was asked. A row of NaN: not asked. A row may sum to less than 1; the rest is "none of the
            ten".
    """

    xyxy: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int64]
    image_size: tuple[int, int]
    mask: npt.NDArray[np.bool_] | None = None
    color: npt.NDArray[np.float32] | None = None

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
        outside = class_id[(class_id < 0) | (class_id >= len(CLASS_NAMES))]
        if outside.size:
            raise UsageError(f"class_id: expected 0..79, got {outside[0]}; map the detector's labels by index")
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
            color = color if color.size else color.reshape(0, len(COLORS))
            _check_shape("color", color, (n, len(COLORS)))
            _check_range("color", color, "apply the softmax; leave a row NaN whose colour was not asked")
            object.__setattr__(self, "color", color)

    def __len__(self) -> int:
        return len(self.confidence)

    def __getitem__(self, index: Any) -> Detections:
        """Rows by slice, boolean array or integer array."""
        return Detections(
            self.xyxy[index],
            self.confidence[index],
            self.class_id[index],
            self.image_size,
            None if self.mask is None else self.mask[index],
            None if self.color is None else self.color[index],
        )

    @classmethod
    def empty(cls, image_size: tuple[int, int]) -> Detections:
        """No objects in an image of `(width, height)`."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), image_size)

    def with_color(self, color: npt.ArrayLike | None) -> Detections:
        """A copy whose `color` is the given `(n, 10)` array."""
        return replace(self, color=None if color is None else np.asarray(color, dtype=np.float32))

    def without_masks(self) -> Detections:
        """A copy without masks: what is kept once colours are known."""
        return self if self.mask is None else replace(self, mask=None)

    @property
    def class_names(self) -> list[str]:
        """Class name of each row."""
        return [CLASS_NAMES[index] for index in self.class_id.tolist()]


def _check_range(name: str, array: npt.NDArray[np.float32], remedy: str) -> None:
    # Half precision may round a probability up by a hair. NaN passes: a colour that was not asked.
    outside = array[(array < 0) | (array > 1.001)]
    if outside.size:
        raise UsageError(f"{name}: expected numbers in [0, 1], got {outside[0]:.4g}; {remedy}")


def _check_shape(name: str, array: npt.NDArray[Any], shape: Sequence[int]) -> None:
    if array.shape != tuple(shape):
        raise UsageError(f"{name}: expected shape {tuple(shape)}, got {array.shape}; the arrays are parallel")
