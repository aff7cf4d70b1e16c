"""`NanoDetDetector`: NanoDet-g, the second small detector, for audits of what `lite` rewards.

It shares no weights, no architecture and no training code with `lite`: another backbone, no anchors, another loss, an
input that keeps the image's proportions. What fools a weak spot of one of them is unlikely to fool the other.
docs/second_detector.md says what it sees and what it misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from geneval_reward.vision.detectors.nanodet_network import (
    CLASSES,
    SIDE,
    NanoDet,
    centres,
    decode,
    letterbox,
    scale_for,
)
from geneval_reward.vision.detectors.packaged import KnownObject, PackagedDetector


class NanoDetDetector(PackagedDetector):
    """NanoDet-g (416 pixels, COCO) with the suppression of its own repository: IoU 0.6 per class, 100 objects.

    Examples:
        >>> import numpy as np, torch
        >>> from geneval_reward.vision.photos import photo
        >>> from geneval_reward.vision.protocols import Wanted
        >>> detector = NanoDetDetector.from_pretrained()
        >>> image = torch.from_numpy(np.array(photo("astronaut"))).permute(2, 0, 1)
        >>> [found] = detector.detect([image], [Wanted(None, min_confidence=0.5)])
        >>> found.class_names
        ['person']
    """

    name = "nanodet"
    model = "nanodet_g_416_coco"
    self_test_object = KnownObject("astronaut", "person", 0.7404, (15.1, 14.6, 363.9, 507.9))
    columns: ClassVar[Tensor] = torch.arange(CLASSES)

    @staticmethod
    def build() -> NanoDet:
        """The network without weights."""
        return NanoDet()

    @staticmethod
    def pixels(images: Sequence[Tensor], device: torch.device) -> Tensor:
        """Scaled to fit 416 x 416, centred on black, normalised."""
        return letterbox(images, device)

    @staticmethod
    def boxes(codes: Tensor, anchor: Tensor, height: int, width: int) -> Tensor:
        """Boxes in units of the image's sides, cut at its edge."""
        boxes = (decode(codes, _centres()[anchor]) - SIDE / 2) / scale_for(height, width)
        return (boxes / torch.tensor([width, height, width, height]) + 0.5).clamp(0, 1)


@cache
def _centres() -> Tensor:
    return centres().double()
