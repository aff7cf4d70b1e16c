"""`LiteDetector`: SSDLite MobileNetV2, the detector of the `lite` backend.

It loads in a fraction of a second, without a network connection, and judges photographs and simple scenes on a laptop's
CPU. It is a small detector (about 22 mAP on COCO as published, where the benchmark's Mask2Former has far more);
published numbers come from the `paper` backend. docs/lite_detector.md says what it sees and what it misses.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (CVPR 2018), section 6.2, describes the
network; Liu et al., "SSD: Single Shot MultiBox Detector" (ECCV 2016) the anchors and the box code. Batch normalisation
is folded into the convolutions.

TensorFlow's SAME padding puts the odd zero *after* the image where a stride of 2 meets an even side; PyTorch's
symmetric padding of a 3 x 3 window effectively puts it *before*. Both agree on the image turned by 180 degrees. So the
network runs turned: kernels are stored turned, `resize_turned` reads the image turned, and `anchors` counts
from the last cell. That costs nothing, where padding by hand copies the largest feature maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geneval_reward.vision.detectors.packaged import KnownObject, PackagedDetector

SIDE = 300
"""Side of the square input in pixels."""

LABELS = 91
"""Columns of the class head: 0 is background, i is COCO category id i."""

GRIDS = (19, 10, 5, 3, 2, 1)
"""Side of each feature map with a head."""

# (channels, stride, repeats, expansion) of the backbone's bottlenecks, table 2 of the MobileNetV2 paper.
_BOTTLENECKS = (
    (16, 1, 1, 1),
    (24, 2, 2, 6),
    (32, 2, 3, 6),
    (64, 2, 4, 6),
    (96, 1, 3, 6),
    (160, 2, 3, 6),
    (320, 1, 1, 6),
)
_TAPPED = 13  # the first head looks at the expansion of this bottleneck, the last one at stride 16
_EARLY = 3  # bottlenecks before stride 8
_EARLY_BATCH = 2
_EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 128))  # (squeezed, out) of the four layers after the backbone
_FEATURES = (576, 1280, 512, 256, 256, 128)  # channels under each head
_ANCHORS = (3, 6, 6, 6, 6, 6)  # anchors per cell


class Conv(nn.Conv2d):
    """Convolution with bias and, unless `linear`, ReLU6; 3 x 3 ones pad by 1 on each side."""

    def __init__(
        self, cin: int, cout: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__(cin, cout, kernel, stride, kernel // 2, groups=groups)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = super().forward(x)
        return x if self.linear else F.relu6(x, inplace=True)


def _depthwise(channels: int, stride: int = 1) -> Conv:
    return Conv(channels, channels, 3, stride=stride, groups=channels)


class Bottleneck(nn.Module):
    """Expand, filter each channel, project; with a short cut where the shape stays."""

    def __init__(self, cin: int, cout: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = cin * expansion
        self.expand = Conv(cin, wide) if expansion > 1 else nn.Identity()
        self.depthwise = _depthwise(wide, stride)
        self.project = Conv(wide, cout, linear=True)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the output and the expansion, which the first head looks at."""
        wide = self.expand(x)
        out = self.project(self.depthwise(wide))
        return (out.add_(x) if self.residual else out), wide


class Extra(nn.Sequential):
    """Halves the feature map: squeeze, filter with stride 2, widen."""

    def __init__(self, cin: int, squeezed: int, cout: int) -> None:
        super().__init__()
        self.squeeze = Conv(cin, squeezed)
        self.depthwise = _depthwise(squeezed, 2)
        self.widen = Conv(squeezed, cout)


class Head(nn.Module):
    """A depthwise filter and a linear 1 x 1 convolution: `(B, C, g, g)` to `(B, g * g * anchors, columns)`."""

    def __init__(self, channels: int, anchors: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.depthwise = _depthwise(channels)
        self.predict = Conv(channels, anchors * columns, linear=True)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.predict(self.depthwise(x))
        return x.permute(0, 2, 3, 1).reshape(len(x), -1, self.columns)


class SSDLite(nn.Module):
    """The network, from turned pixels to box codes and class logits.

    Examples:
        >>> net = SSDLite().eval()
        >>> codes, logits = net(torch.zeros(2, 3, 300, 300))
        >>> codes.shape, logits.shape
        (torch.Size([2, 1917, 4]), torch.Size([2, 1917, 91]))
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 32, 3, stride=2)
        blocks, cin = [], 32
        for cout, stride, repeats, expansion in _BOTTLENECKS:
            for repeat in range(repeats):
                blocks.append(Bottleneck(cin, cout, stride if repeat == 0 else 1, expansion))
                cin = cout
        self.blocks = nn.ModuleList(blocks)
        self.last = Conv(cin, _FEATURES[1])
        pairs = zip(_FEATURES[1:], _EXTRAS, strict=False)
        self.extras = nn.ModuleList(Extra(cin, squeezed, cout) for cin, (squeezed, cout) in pairs)
        self.boxes = nn.ModuleList(Head(c, a, 4) for c, a in zip(_FEATURES, _ANCHORS, strict=True))
        self.classes = nn.ModuleList(Head(c, a, LABELS) for c, a in zip(_FEATURES, _ANCHORS, strict=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts codes and logits of every anchor, in the order of `anchors`.

        Args:
            x: `(B, 3, 300, 300)` RGB in [-1, 1], turned by 180 degrees.

        Returns:
            Codes `(B, 1917, 4)` as (ty, tx, th, tw), and logits `(B, 1917, 91)`.
        """
        # The early maps are large (8.6 MB an image): on a CPU they are made for a few images at a time, to stay in cache.
        parts = x.split(_EARLY_BATCH) if x.device.type == "cpu" else (x,)
        x = torch.cat([self._early(part) for part in parts])
        features = []
        for index in range(_EARLY, len(self.blocks)):
            x, wide = self.blocks[index](x)
            if index == _TAPPED:
                features.append(wide)
        x = self.last(x)
        features.append(x)
        for extra in self.extras:
            x = extra(x)
            features.append(x)
        codes = [head(feature) for head, feature in zip(self.boxes, features, strict=True)]
        logits = [head(feature) for head, feature in zip(self.classes, features, strict=True)]
        return torch.cat(codes, 1), torch.cat(logits, 1)

    def _early(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index in range(_EARLY):
            x, _ = self.blocks[index](x)
        return x


def anchors() -> Tensor:
    """The default boxes `(1917, 4)` as (cy, cx, h, w) in units of the image's sides, cells from last to first.

    Scales run linearly from .2 to .95 over the six maps (SSD paper, equation 4, with TensorFlow's ends). The first
    map has a small square instead of six shapes; each other one a second square at the geometric mean of neighbours.
    """
    scales = [0.2 + 0.15 * index for index in range(len(GRIDS))] + [1.0]
    rows = []
    for index, grid in enumerate(GRIDS):
        scale = scales[index]
        if index == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            shapes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)]
            shapes.append((math.sqrt(scale * scales[index + 1]), 1.0))
        for y in reversed(range(grid)):
            for x in reversed(range(grid)):
                centre = ((y + 0.5) / grid, (x + 0.5) / grid)
                rows += [(*centre, s / math.sqrt(ratio), s * math.sqrt(ratio)) for s, ratio in shapes]
    return torch.tensor(rows, dtype=torch.float64).float()


def decode(codes: Tensor, anchor: Tensor) -> Tensor:
    """Turns codes `(..., 4)` and their anchors into boxes (x1, y1, x2, y2) in [0, 1], cut at the image's edge."""
    cy, cx, h, w = anchor.unbind(-1)
    ty, tx, th, tw = codes.unbind(-1)
    cy, cx = cy + ty / 10 * h, cx + tx / 10 * w  # 10 and 5: the variances of the SSD box code
    h, w = h * torch.exp(th / 5) / 2, w * torch.exp(tw / 5) / 2
    return torch.stack((cx - w, cy - h, cx + w, cy + h), -1).clamp(0, 1)


@lru_cache(maxsize=64)
def sample_grid(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where TensorFlow 1's bilinear resize to 300 reads an axis, turned.

    That resize (`align_corners=False`, no half-pixel centres, no smoothing) reads output i at i * length / 300.

    Returns:
        Indices `(600,)` of the first pixels, then of the second ones, and the weights `(300,)` of the second.
    """
    at = torch.arange(SIDE - 1, -1, -1, dtype=torch.float32) * (length / SIDE)
    low = at.floor()
    first = low.long()
    return torch.cat((first, (first + 1).clamp(max=length - 1))).to(device), (at - low).to(device)


def resize_turned(images: Sequence[Tensor], device: torch.device | str = "cpu") -> Tensor:
    """Images of any sizes to the network's input, resized and turned, each where it is.

    Args:
        images: uint8 `(3, H, W)`, on any device.
        device: Where the result is wanted.

    Returns:
        `(B, 3, 300, 300)` float32 in [-1, 1].
    """
    resized = []
    for image in images:
        rows, dy = sample_grid(image.shape[1], image.device)
        columns, dx = sample_grid(image.shape[2], image.device)
        pair = image.index_select(1, rows).float()  # only the rows that are read: a tall image costs no more
        lines = torch.lerp(pair[:, :SIDE], pair[:, SIDE:], dy[:, None])
        pair = lines.gather(2, columns.expand(3, SIDE, 2 * SIDE))  # index_select is four times slower on a last axis
        resized.append(torch.lerp(pair[..., :SIDE], pair[..., SIDE:], dx).to(device, non_blocking=True))
    return torch.stack(resized) * (2 / 255) - 1


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
