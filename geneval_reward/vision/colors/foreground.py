"""Which pixels of a box belong to the object, if the detector gives no mask.

The surroundings of the box show the background; whatever else is in the box is the object. A colour histogram of the
background, one of the object, and a soft ellipse that says where an object lies in its box are refined in turn, as in GrabCut
(Rother, Kolmogorov and Blake, SIGGRAPH 2004), but with histograms instead of mixtures and a small blur instead of the graph cut.
This takes two milliseconds instead of a tenth of a second. If object and background look alike, the ellipse decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from geneval_reward.vision.colors.naming import srgb_to_lab

_BIN: Final = 8.0
# sRGB spans L 0..100, a -86..98, b -108..94 in CIELAB; one empty bin at each end for the blur.
_LOWEST: Final = np.array([-8.0, -96.0, -116.0], np.float32)
_BINS: Final = (15, 26, 28)

_RARE: Final = 2e-4
"""Density that counts as zero: lower values are chance in a patch of some 2,000 cells."""

_BELIEF: Final = 1.25
"""Power of the weights in the object's histogram: doubtful cells count less, so that the background does not get into it."""

_LIMIT: Final = 5.0
"""Largest log-ratio that the colour of one cell can contribute to either side."""


@dataclass(frozen=True)
class ForegroundOptions:
    """How pixels of the object are found. The defaults were chosen on the tuning half of `benchmarks/lite_colors.py`.

    Attributes:
        side: Largest number of cells per side to which a box with its surroundings is reduced.
        margin: Width of the surroundings on each side, as a fraction of the box's width and height.
        likely: Prior probability that a pixel in the middle of the box belongs to the object.
        radius: Distance at which the prior has fallen to half, in units of the ellipse that touches the box's sides.
        softness: Width of the fall, in the same unit.
        unseen: Density per histogram bin of any colour on an object whose colours are not known yet.
        rounds: Number of rounds of refinement, >= 1.
        blur: Standard deviation in cells by which neighbours share their evidence.
        enough: If less than this fraction of the box was found, it is likely noise, and the prior gradually takes over.
        span: Fraction of the box's width and height that the found pixels must span. A box touches its object on four
            sides; if only the nose of a white bear on snow was found, the prior gradually takes over.
    """

    side: int = 48
    margin: float = 0.25
    likely: float = 0.4
    radius: float = 0.95
    softness: float = 0.25
    unseen: float = 0.001
    rounds: int = 3
    blur: float = 0.5
    enough: float = 0.06
    span: float = 0.85


@dataclass(frozen=True, eq=False)
class Patch:
    """A box with its surroundings, reduced to a small grid.

    Attributes:
        rgb: `(h, w, 3)` float32 in [0, 255].
        x: `(w,)` float32, centres of the columns: -1 and 1 are the sides of the box.
        y: `(h,)` float32, centres of the rows, likewise.
        mask: Share of each cell that the mask covers, `(h, w)` float32 in [0, 1]; or None.
    """

    rgb: npt.NDArray[np.float32]
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    mask: npt.NDArray[np.float32] | None = None


def cut_patch(
    image: torch.Tensor,
    xyxy: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_] | None = None,
    side: int = 48,
    margin: float = 0.25,
) -> Patch | None:
    """Cut a box and its surroundings out of an image and reduce them.

    Args:
        image: `(3, H, W)` uint8, on any device.
        xyxy: `(4,)` pixels, right and bottom exclusive; it may reach beyond the image.
        mask: `(H, W)` bool of the object, or None.
        side: Largest number of cells per side; smaller cuts are not reduced.
        margin: Width of the surroundings on each side, as a fraction of the box; at least one pixel inside the image.

    Returns:
        The patch, or None if the box has no area inside the image.
    """
    height, width = image.shape[-2:]
    x1, x2 = (float(value) for value in np.clip(xyxy[[0, 2]], 0, width))
    y1, y2 = (float(value) for value in np.clip(xyxy[[1, 3]], 0, height))
    if not (x2 > x1 and y2 > y1):
        return None
    columns, x = _cells(x1, x2, width, side, margin)
    rows, y = _cells(y1, y2, height, side, margin)
    rgb = _reduced(image[:, rows, columns].cpu(), len(y), len(x)).permute(1, 2, 0).numpy()
    if mask is None:
        return Patch(rgb, x, y)
    covered = torch.from_numpy(np.ascontiguousarray(mask[rows, columns]))[None]
    return Patch(rgb, x, y, _reduced(covered, len(y), len(x))[0].numpy())


def _cells(low: float, high: float, end: int, side: int, margin: float) -> tuple[slice, npt.NDArray[np.float32]]:
    """Return the pixels to cut along one axis, and the centres of the cells to which they are reduced."""
    reach = max(1.0, margin * (high - low))
    start, stop = max(0, int(np.floor(low - reach))), min(end, int(np.ceil(high + reach)))
    # For a huge box every n-th pixel is enough: four per cell and side remain.
    step = max(1, (stop - start) // (4 * side))
    count = min(side, len(range(start, stop, step)))
    centre = start + (np.arange(count, dtype=np.float32) + 0.5) * ((stop - start) / count)
    return slice(start, stop, step), ((centre - low) / (high - low) * 2 - 1).astype(np.float32)


def _reduced(cut: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(cut.to(torch.float32), (height, width))


def foreground_weights(patch: Patch, options: ForegroundOptions | None = None) -> npt.NDArray[np.float32]:
    """Estimate how much each cell of a patch belongs to the object.

    Args:
        patch: What `cut_patch` returned. If it has a mask that is not empty, the mask is the answer.
        options: How to estimate the weights without a mask.

    Returns:
        `(h, w)` float32 in [0, 1], zero outside the box, not all zero.
    """
    options = options or ForegroundOptions()
    within_x, within_y = (_within(axis) for axis in (patch.x, patch.y))
    inside = (within_y[:, None] & within_x[None, :]).astype(np.float32)
    if patch.mask is not None:
        weight = patch.mask * inside
        if weight.any():
            return weight
    distance = np.hypot(patch.y[:, None], patch.x[None, :])
    prior = (options.likely * expit((options.radius - distance) / options.softness)).clip(0.01, 0.99)
    prior_odds = np.log(prior / (1 - prior))

    lab = srgb_to_lab(patch.rgb)
    where = np.rint((lab - _LOWEST) / _BIN).astype(np.int64)
    bin_of = np.ravel_multi_index(tuple(np.moveaxis(where, -1, 0)), _BINS)
    outside = 1 - inside
    # The corners of a box are rarely the object; in a box that fills the image they are all that is known of the ground.
    corners = inside * ((distance - 1) / 0.4).clip(0, 1) * 0.3

    ground = _density(bin_of, outside + corners)
    evidence = np.log((options.unseen + _RARE) / (ground[bin_of] + _RARE))
    weight = inside
    for turn in range(options.rounds):
        if turn:
            ground = _density(bin_of, outside + inside - weight)
            evidence = np.log((_density(bin_of, weight**_BELIEF)[bin_of] + _RARE) / (ground[bin_of] + _RARE))
        shared = gaussian_filter(evidence.clip(-_LIMIT, _LIMIT), options.blur, mode="nearest")
        weight = inside * expit(prior_odds + shared)
    short = (options.span - _span(weight, patch)) / (options.span - 0.2)
    few = 1 - float(weight.sum() / inside.sum()) / options.enough
    return np.maximum(weight, min(1.0, max(0.0, short, few)) * prior * inside).astype(np.float32)


def _span(weight: npt.NDArray[np.float32], patch: Patch) -> float:
    """Return the share of the box, in the worse direction, that lies between the outermost cells that were found."""
    found = np.where(weight > 0.4 * weight.max(), weight, 0)
    spans = []
    for centre, share in ((patch.x, found.sum(0)), (patch.y, found.sum(1))):
        running = share.cumsum() / share.sum()
        low, high = np.searchsorted(running, (0.03, 0.97))
        spans.append(float(centre[min(high, len(centre) - 1)] - centre[low]) / 2)
    return min(spans)


def _within(axis: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    within = np.abs(axis) <= 1
    # A box narrower than a cell may contain no cell's centre; then the nearest cell counts.
    within[np.abs(axis).argmin()] = True
    return within


def _density(bin_of: npt.NDArray[np.int64], weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute a blurred histogram with sum 1, or all zeros if there is no weight."""
    count = np.bincount(bin_of.ravel(), weight.ravel(), minlength=int(np.prod(_BINS))).astype(np.float32)
    blurred = gaussian_filter(count.reshape(_BINS), 1.0, mode="constant", truncate=2.0).ravel()
    total = blurred.sum()
    return blurred / total if total > 0 else blurred
