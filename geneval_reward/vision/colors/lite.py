"""The colour verifier of the `lite` backend: names the colour of an object from its pixels, as people name colours.

It needs no network and no weights. The object's pixels (`geneval_reward.vision.colors.foreground`) are named one by one
(`geneval_reward.vision.colors.naming`), and the names are counted: lit pixels count more than shaded ones, and colours more than
greys. `docs/lite_colors.md` has its accuracy and its limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.prompts.vocabulary import COLORS
from geneval_reward.vision.colors.foreground import ForegroundOptions, cut_patch, foreground_weights
from geneval_reward.vision.colors.naming import NAMES, ColorNaming, srgb_to_lab
from geneval_reward.vision.protocols import ColorQuery

_BLACK, _WHITE, _GREY = (NAMES.index(name) for name in ("black", "white", "grey"))


@dataclass(frozen=True)
class CountingOptions:
    """How the names of an object's pixels become the name of the object. The defaults were chosen like the foreground's.

    Attributes:
        sharpness: Power to which a pixel's probabilities are raised: with 1 every doubt counts, with large values each pixel
            votes for one name.
        achromatic: Weight of a black, white or grey pixel relative to a coloured one: lines, windows, tyres and highlights
            do not outvote a colour, but most of an object does.
        shade: A coloured pixel's lightness, relative to the lit ones, to this power is a factor of its weight: the shaded
            side of an orange is brown, but the orange is not.
        pallor: The same for its chroma, relative to the most colourful tenth: tints and tones of a colour count less than the
            colour itself.
        sheen: How readily grey counts as shaded white or shiny black, in proportion to how much of these there is.
    """

    sharpness: float = 2.0
    achromatic: float = 0.4
    shade: float = 0.5
    pallor: float = 1.0
    sheen: float = 0.8


def count_names(
    rgb: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    naming: ColorNaming,
    options: CountingOptions | None = None,
) -> npt.NDArray[np.float32]:
    """Name an object by its pixels.

    Args:
        rgb: `(..., 3)` float32 in [0, 255].
        weight: How much each pixel belongs to the object, `(...)` float32, >= 0 and not all zero.
        naming: The model that names a pixel.
        options: How the names are counted.

    Returns:
        `(11,)` float32, sum 1, in the order of `geneval_reward.vision.colors.naming.NAMES`.
    """
    options = options or CountingOptions()
    used = weight > 1e-3 * weight.max()
    pixels, weight = rgb[used], weight[used]
    named = naming.lookup(pixels) ** np.float32(options.sharpness)
    named /= named.sum(1, keepdims=True)
    colored = 1 - named[:, [_BLACK, _WHITE, _GREY]].sum(1)
    lab = srgb_to_lab(pixels)
    lit = _relative(lab[:, 0], weight * colored, 0.8) ** options.shade
    vivid = _relative(np.hypot(lab[:, 1], lab[:, 2]), weight * colored, 0.9) ** options.pallor
    counted = (named * (weight * (colored * lit * vivid + (1 - colored) * options.achromatic))[:, None]).sum(0)
    counted /= counted.sum()
    parts = counted[[_BLACK, _WHITE, _GREY]] * [options.sheen, options.sheen, 1]
    if parts.sum() > 0:
        grey = counted[_GREY]
        counted[_GREY] = 0
        counted[[_BLACK, _WHITE, _GREY]] += grey * parts / parts.sum()
    return np.asarray(counted, np.float32)


def _relative(
    value: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], part: float
) -> npt.NDArray[np.floating[Any]]:
    """Divide values by their weighted quantile; returns values in [0.05, 1]."""
    order = value.argsort()
    running = weight[order].cumsum()
    high = value[order[min(int(np.searchsorted(running, part * running[-1])), len(order) - 1)]]
    return np.asarray((value / max(float(high), 1.0)).clip(0.05, 1))


class LiteVerifier:
    """Names the colour of objects by their pixels. Implements `geneval_reward.vision.protocols.Verifier`.

    Each query is answered on its own on the CPU, whatever else is in the batch, in two to three milliseconds. If there is no
    mask, the object's pixels are found by comparing the box with its surroundings.

    Args:
        naming: The model of colour names.
        foreground: How the object's pixels are found.
        counting: How their names are counted.

    Examples:
        >>> image = torch.full((3, 64, 64), 200, dtype=torch.uint8)
        >>> image[:, 16:48, 16:48] = torch.tensor([214, 32, 36], dtype=torch.uint8)[:, None, None]
        >>> query = ColorQuery(image, np.array([14, 14, 50, 50], np.float32), "cup")
        >>> COLORS[int(LiteVerifier().colors([query]).argmax())]
        'red'
    """

    name = "lite"

    def __init__(
        self,
        naming: ColorNaming | None = None,
        foreground: ForegroundOptions | None = None,
        counting: CountingOptions | None = None,
    ) -> None:
        self.naming = naming or _default_naming()
        self.foreground = foreground or ForegroundOptions()
        self.counting = counting or CountingOptions()

    def colors(self, queries: Sequence[ColorQuery]) -> npt.NDArray[np.float32]:
        """Probabilities of the ten colours.

        Args:
            queries: Objects. A box that reaches beyond its image is clipped to it; an empty mask counts as none.

        Returns:
            `(n, 10)` float32 in the order of `geneval_reward.prompts.COLORS`. Rows sum to at most 1; the rest
            is grey. A box without area inside its image has no colour: its row is zero.

        Raises:
            ImageError: If an image is not `(3, H, W)` uint8.
            UsageError: If a box is not four finite numbers, or a mask has another size than its image.
        """
        rows = np.zeros((len(queries), len(COLORS)), np.float32)
        for index, query in enumerate(queries):
            box = np.asarray(query.xyxy, np.float32)
            _check(index, query, box)
            patch = cut_patch(query.image, box, query.mask, self.foreground.side, self.foreground.margin)
            if patch is not None:
                weight = foreground_weights(patch, self.foreground)
                rows[index] = count_names(patch.rgb, weight, self.naming, self.counting)[: len(COLORS)]
        return rows

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers: sha256 of the table of names, and every option."""
        return {
            "name": self.name,
            "naming": self.naming.fingerprint(),
            "foreground": asdict(self.foreground),
            "counting": asdict(self.counting),
        }

    def to(self, device: torch.device | str) -> LiteVerifier:
        """Return self: there are no weights to move, and pixels are read on the CPU."""
        torch.device(device)
        return self


@cache
def _default_naming() -> ColorNaming:
    # One lookup table serves every verifier of the process; building it takes a third of a second.
    return ColorNaming()


def _check(index: int, query: ColorQuery, box: npt.NDArray[np.float32]) -> None:
    image, mask = query.image, query.mask
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
        raise ImageError(
            f"queries[{index}].image: expected (3, H, W) uint8, got {tuple(image.shape)} {image.dtype}; "
            "give the whole image as RGB bytes"
        )
    if box.shape != (4,) or not np.isfinite(box).all():
        raise UsageError(f"queries[{index}].xyxy: expected 4 finite numbers, got {box.tolist()}; check the detector")
    if mask is not None and mask.shape != tuple(image.shape[1:]):
        raise UsageError(
            f"queries[{index}].mask: expected {tuple(image.shape[1:])}, got {mask.shape}; a mask covers the whole image"
        )
