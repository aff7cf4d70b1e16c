"""`NanoDetDetector`: NanoDet-g, the second small detector, for audits of what `lite` rewards.

It shares no weights, no architecture and no training code with `lite`: another backbone, no anchors, another loss, an
input that keeps the image's proportions. What fools a weak spot of one of them is unlikely to fool the other.
docs/second_detector.md says what it sees and what it misses.

NanoDet-g (RangiLyu/nanodet, `config/nanodet-g.yml`, Apache-2.0) is a one-stage detector without anchors: a small
cross-stage-partial backbone, a feature pyramid that adds neighbouring levels, and one head per level that predicts
class logits and, for each side of the box, a distribution over its distance from the cell's centre (Li et al.,
"Generalized Focal Loss", NeurIPS 2020). Batch normalisation is folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geneval_reward.vision.detectors.packaged import KnownObject, PackagedDetector

SIDE = 416
"""Side of the square input in pixels."""

STRIDES = (8, 16, 32)
"""Pixels of the input per cell of each feature map."""

CLASSES = 80
"""Columns of class logits, in COCO's order."""

BINS = 11
"""Distances per side, 0 to 10 cells."""

_STAGES = ((32, 1, 1), (64, 2, 2), (128, 2, 2), (256, 2, 3))  # (channels, stride, inner blocks) of the backbone
_WIDTH = 128  # channels of the pyramid and the heads

# Statistics that the network was trained with, of pixels in [0, 255], in the order blue, green, red.
_MEAN = (103.53, 116.28, 123.675)
_STD = (57.375, 57.12, 58.395)


class Conv(nn.Conv2d):
    """A 3 x 3 convolution with bias that keeps the size (or halves it), and a leaky ReLU."""

    def __init__(self, cin: int, cout: int, *, stride: int = 1) -> None:
        super().__init__(cin, cout, 3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.leaky_relu(super().forward(x), 0.1, inplace=True)


class Inner(nn.Module):
    """Two convolutions at half of the width whose outputs are joined: `(B, C, h, w)` to `(B, C, h, w)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Conv(channels, channels // 2)
        self.second = Conv(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        first = self.first(x)
        return torch.cat((self.second(first), first), 1)


class Stage(nn.Module):
    """A stage of the backbone; what enters the inner blocks is joined to what leaves them, so the width doubles."""

    def __init__(self, channels: int, stride: int, inner: int) -> None:
        super().__init__()
        self.enter = Conv(channels, channels, stride=stride)
        self.inner = nn.Sequential(*(Inner(channels) for _ in range(inner)))
        self.leave = Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.enter(x)
        return torch.cat((self.leave(self.inner(x)), x), 1)


class Head(nn.Module):
    """Class logits and distance logits of every cell: `(B, C, g, g)` to `(B, g * g, 80 + 44)`."""

    def __init__(self) -> None:
        super().__init__()
        self.feature = Conv(_WIDTH, _WIDTH)
        self.predict = nn.Conv2d(_WIDTH, CLASSES + 4 * BINS, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        predicted: Tensor = self.predict(self.feature(x))
        return predicted.flatten(2).transpose(1, 2)


class NanoDet(nn.Module):
    """The network, from letterboxed pixels to the logits of every cell.

    Examples:
        >>> net = NanoDet().eval()
        >>> distances, classes = net(torch.zeros(1, 3, 416, 416))
        >>> distances.shape, classes.shape
        (torch.Size([1, 3549, 44]), torch.Size([1, 3549, 80]))
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, _STAGES[0][0], stride=2)
        self.stages = nn.ModuleList(Stage(*stage) for stage in _STAGES)
        levels = [2 * channels for channels, _, _ in _STAGES[1:]]
        self.lateral = nn.ModuleList(nn.Conv2d(channels, _WIDTH, 1) for channels in levels)
        self.heads = nn.ModuleList(Head() for _ in STRIDES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predict for every cell, in the order of `centres`.

        Args:
            x: `(B, 3, 416, 416)`, as `letterbox` makes it.

        Returns:
            Distance logits `(B, 3549, 44)`, eleven each for left, top, right and bottom; class logits `(B, 3549, 80)`.
        """
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        fine, middle, coarse = (lateral(f) for lateral, f in zip(self.lateral, features[1:], strict=True))
        middle = middle + _resized(coarse, middle)
        fine = fine + _resized(middle, fine)
        middle = middle + _resized(fine, middle)
        coarse = coarse + _resized(middle, coarse)
        out = torch.cat([head(f) for head, f in zip(self.heads, (fine, middle, coarse), strict=True)], 1)
        return out[..., CLASSES:], out[..., :CLASSES]


def _resized(x: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=False)


def centres() -> Tensor:
    """Centre and stride of every cell `(3549, 3)` as (x, y, stride) in pixels of the input, fine levels first."""
    rows = []
    for stride in STRIDES:
        at = (torch.arange(SIDE // stride) + 0.5) * stride
        y, x = torch.meshgrid(at, at, indexing="ij")
        rows.append(torch.stack((x.flatten(), y.flatten(), torch.full((len(at) ** 2,), float(stride))), 1))
    return torch.cat(rows)


def decode(distances: Tensor, centre: Tensor) -> Tensor:
    """Boxes `(..., 4)` as (x1, y1, x2, y2) in pixels of the input from distance logits `(..., 44)` and rows of `centres`.

    A side's distance is the mean of its distribution, in strides.
    """
    bins = torch.arange(BINS, dtype=distances.dtype, device=distances.device)
    x, y, stride = centre.unbind(-1)
    left, top, right, bottom = (distances.unflatten(-1, (4, BINS)).softmax(-1) @ bins * stride[..., None]).unbind(-1)
    return torch.stack((x - left, y - top, x + right, y + bottom), -1)


def scale_for(height: int, width: int) -> float:
    """Pixels of the input per pixel of an image of this size; the longer side fills the input."""
    return SIDE / max(height, width)


@lru_cache(maxsize=64)
def _taps(length: int, scale: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the letterbox reads an axis: indices `(832,)` of both neighbours and weights `(416,)` of the second ones.

    Output i reads (i - 208) / scale + length / 2, without half-pixel offset, as OpenCV's warp with the original's matrix
    does. Neighbours outside of the image get the index `length`, where the caller keeps black.
    """
    at = (torch.arange(SIDE, dtype=torch.float64) - SIDE / 2) / scale + length / 2
    low = at.floor()
    both = torch.cat((low, low + 1)).long()
    both[(both < 0) | (both >= length)] = length
    return both.to(device), (at - low).float().to(device)


def letterbox(images: Sequence[Tensor], device: torch.device | str = "cpu") -> Tensor:
    """Images of any sizes to the network's input: scaled to fit, centred on black, normalised.

    Args:
        images: uint8 `(3, H, W)` RGB, on any device.
        device: Where the result is wanted.

    Returns:
        `(B, 3, 416, 416)` float32 in the order blue, green, red.
    """
    boxed = []
    for image in images:
        scale = scale_for(*image.shape[1:])
        padded = F.pad(image, (0, 1, 0, 1))
        rows, dy = _taps(image.shape[1], scale, image.device)
        columns, dx = _taps(image.shape[2], scale, image.device)
        pair = padded.index_select(1, rows).float()  # only the rows that are read: a tall image costs no more
        lines = torch.lerp(pair[:, :SIDE], pair[:, SIDE:], dy[:, None])
        pair = lines.gather(2, columns.expand(3, SIDE, 2 * SIDE))
        boxed.append(torch.lerp(pair[..., :SIDE], pair[..., SIDE:], dx).to(device, non_blocking=True))
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _STD))
    return (torch.stack(boxed).flip(1) - mean) / std


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
