"""What a scorer asks of a detector and of a colour verifier.

The request says what the prompt records need, so that a backend computes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.judge.detections import Detections


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked about one image.

    Attributes:
        class_ids: Classes to report; rows of other classes are not looked at. None asks for all.
        masked_class_ids: Classes whose masks are needed (a subset: those whose colour is asked). A detector without
            masks ignores it.
        min_confidence: Rows at or below it may be left out.
    """

    class_ids: frozenset[int] | None
    masked_class_ids: frozenset[int] = frozenset()
    min_confidence: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class ColorQuery:
    """One object whose colour is asked.

    Attributes:
        image: `(3, H, W)` uint8 RGB on the CPU, the whole image.
        xyxy: Its box `(4,)` float32 in pixels of that image.
        class_name: Its class; CLIP's text prompts name it.
        mask: `(H, W)` bool of the whole image, or None if the detector gives none.
    """

    image: torch.Tensor
    xyxy: npt.NDArray[np.float32]
    class_name: str
    mask: npt.NDArray[np.bool_] | None = None


@runtime_checkable
class Detector(Protocol):
    """Finds objects.

    A detector of other classes than the 80 has a further attribute, `class_names`: the names of its classes, which `class_id`
    counts. It gives them to its `Detections` as `names`. A scorer refuses records with other classes.
    """

    name: str

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        """Find objects in a batch.

        Args:
            images: uint8 RGB tensors `(3, H, W)`; sizes may differ; on any device.
            wanted: What is asked of each image, as long as `images`.

        Returns:
            One `Detections` per image, in order, boxes in pixels of that image, at most what `wanted` asks.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers: name, sha256 of the weights, precision, options. JSON-serialisable."""
        ...

    def to(self, device: torch.device | str) -> Detector:
        """Move the weights; returns self."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """Names the colour of objects.

    A verifier of other colours than the ten, or of other attributes that exclude one another, has a further attribute,
    `color_names`: the names of its columns. A scorer refuses records with other colours.
    """

    name: str

    def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
        """Probabilities of the colours.

        Args:
            queries: Objects of a whole batch of images; one forward serves them all.

        Returns:
            `(n, 10)` float32 in the order of `geneval_reward.prompts.COLORS`, or of `color_names`. Rows sum to at most 1;
            the rest is "none of them", and an object has no colour where that rest is larger than every colour.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers: name, sha256 of weights or tables, precision, options. JSON-serialisable."""
        ...

    def to(self, device: torch.device | str) -> Verifier:
        """Move the weights; returns self."""
        ...
