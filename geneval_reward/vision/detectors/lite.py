"""`LiteDetector`: SSDLite MobileNetV2, the detector of the `lite` backend.

It loads in a fraction of a second, without a network connection, and judges photographs and simple scenes on a laptop's
CPU. It is a small detector (about 22 mAP on COCO as published, where the benchmark's Mask2Former has far more);
published numbers come from the `paper` backend. docs/lite_detector.md says what it sees and what it misses.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from geneval_reward.vision.detectors.packaged import KnownObject, PackagedDetector
from geneval_reward.vision.detectors.ssdlite import SSDLite, anchors, decode, resize_turned

UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""COCO category ids run to 90 with these ten left out; the other 80, in order, are the classes 0..79."""


class LiteDetector(PackagedDetector):
    """SSDLite MobileNetV2 as TensorFlow's Object Detection API trained and configured it.

    Examples:
        >>> import numpy as np, torch
        >>> from geneval_reward.vision.photos import photo
        >>> from geneval_reward.vision.protocols import Wanted
        >>> detector = LiteDetector.from_pretrained()
        >>> image = torch.from_numpy(np.array(photo("chelsea"))).permute(2, 0, 1)
        >>> [found] = detector.detect([image], [Wanted(None, min_confidence=0.3)])
        >>> found.class_names
        ['cat']
    """

    name = "lite"
    model = "ssdlite_mobilenet_v2_coco"
    self_test_object = KnownObject("chelsea", "cat", 0.9346, (0.7, 2.8, 404.2, 297.7))
    columns: ClassVar[Tensor] = torch.tensor([index for index in range(1, 91) if index not in UNUSED_IDS])

    @staticmethod
    def build() -> SSDLite:
        """The network without weights."""
        return SSDLite()

    @staticmethod
    def pixels(images: Sequence[Tensor], device: torch.device) -> Tensor:
        """Resized to 300 x 300 as TensorFlow 1 does it, turned by 180 degrees."""
        return resize_turned(images, device)

    @staticmethod
    def boxes(codes: Tensor, anchor: Tensor, height: int, width: int) -> Tensor:
        """Boxes in units of the image's sides; the network sees those as 1 x 1 whatever the image."""
        return decode(codes, _anchors()[anchor])


@cache
def _anchors() -> Tensor:
    return anchors()
