"""What people call a colour: a density over CIELAB for each of eleven names, estimated from measured names.

The names come from the XKCD colour survey and from the blacks, whites and greys of the ISCC-NBS system; the package data
(`data/colors`) has them with their sources. Every named colour is a Gaussian in CIELAB, the Gaussians of a class add up to its
density, and Bayes' rule gives the class of a colour. Grey, the eleventh class, is everything that is none of the ten.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.prompts.vocabulary import COLORS

NAMES: Final[tuple[str, ...]] = (*COLORS, "grey")
"""The ten colours of the benchmark and grey: the order of every axis of length 11 in this file."""

_TABLE: Final = files("geneval_reward") / "data" / "colors" / "names.tsv"
_TRAINING: Final = frozenset({"xkcd", "xkcd-synonym", "nbs"})

# sRGB to CIE XYZ and the D65 white: IEC 61966-2-1:1999. XYZ to CIELAB: CIE 15:2004, 8.2.1.
_XYZ_OF_RGB: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    np.float32,
)
_WHITE: Final = np.array([0.95047, 1.0, 1.08883], np.float32)

_STEPS: Final = 33
"""Levels per channel of the lookup table. They lie 8 apart, a small part of a kernel's width."""


def srgb_to_lab(rgb: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Convert sRGB colours to CIELAB under D65.

    Args:
        rgb: `(..., 3)` numbers in [0, 255].

    Returns:
        `(..., 3)` float32: L in [0, 100], a and b.

    Examples:
        >>> srgb_to_lab([255, 0, 0]).round().tolist()
        [53.0, 80.0, 67.0]
    """
    value = np.asarray(rgb, np.float32) / np.float32(255)
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    ratio = linear @ _XYZ_OF_RGB.T / _WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    lab = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)
    return lab.astype(np.float32)


@dataclass(frozen=True)
class NamedColors:
    """Colours with the names that people gave them.

    Attributes:
        names: The full names, "dark grass green".
        rgb: `(n, 3)` uint8.
        label: `(n,)` int64, index into `NAMES`.
        source: Where each name comes from: `xkcd`, `xkcd-synonym`, `nbs`, or `nbs-test`, which is used for tests only.
    """

    names: tuple[str, ...]
    rgb: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int64]
    source: tuple[str, ...]


@cache
def named_colors() -> NamedColors:
    """The table in the package data, 966 names."""
    rows = list(csv.DictReader(_TABLE.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
    return NamedColors(
        tuple(row["name"] for row in rows),
        np.array([list(bytes.fromhex(row["hex"].removeprefix("#"))) for row in rows], np.uint8),
        np.array([NAMES.index(row["class"]) for row in rows], np.int64),
        tuple(row["source"] for row in rows),
    )


@dataclass(frozen=True)
class ColorNaming:
    """A model of colour naming.

    Attributes:
        bandwidth: Standard deviation of the Gaussians in CIELAB units, > 0. About 9 is best in a leave-one-out test.
        prevalence: Exponent in [0, 1] of the prior `count ** prevalence`, where `count` is the number of survey names of a
            class. With 0, all classes weigh the same, and dark and pale colours become black and white; with 1, black and
            white hardly occur. 0.5 is best in a leave-one-out test.

    Examples:
        >>> naming = ColorNaming()
        >>> [NAMES[i] for i in naming.posterior([[220, 30, 30], [30, 30, 35], [128, 128, 128]]).argmax(-1)]
        ['red', 'black', 'grey']
    """

    bandwidth: float = 9.0
    prevalence: float = 0.5

    def __post_init__(self) -> None:
        if not self.bandwidth > 0:
            raise UsageError(f"bandwidth: expected a positive number, got {self.bandwidth}")
        if not 0 <= self.prevalence <= 1:
            raise UsageError(f"prevalence: expected a number in [0, 1], got {self.prevalence}")

    @cached_property
    def _points(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        table = named_colors()
        used = np.array([source in _TRAINING for source in table.source])
        return srgb_to_lab(table.rgb[used]), table.label[used]

    def _classify(self, kernel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Compute class probabilities from the kernels `(m, points)` of m colours."""
        _, label = self._points
        count = np.bincount(label, minlength=len(NAMES)).astype(np.float32)
        member = np.zeros((len(label), len(NAMES)), np.float32)
        member[np.arange(len(label)), label] = count[label] ** (self.prevalence - 1)
        score: npt.NDArray[np.float32] = kernel @ member
        score /= score.sum(-1, keepdims=True)
        return score

    def _kernel(self, lab: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        points, _ = self._points
        square = (lab**2).sum(-1)[:, None] + (points**2).sum(-1) - 2 * lab @ points.T
        # The nearest point has kernel 1, so that a colour far from all points gets its neighbour's name and not 0/0.
        square -= square.min(-1, keepdims=True)
        kernel: npt.NDArray[np.float32] = np.exp(square / np.float32(-2 * self.bandwidth**2))
        return kernel

    def posterior(self, rgb: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Compute the probability of each name for given colours, from all points.

        Args:
            rgb: `(..., 3)` sRGB in [0, 255].

        Returns:
            `(..., 11)` float32 in the order of `NAMES`; rows sum to 1.
        """
        lab = srgb_to_lab(rgb)
        flat = lab.reshape(-1, 3)
        chunks = [self._classify(self._kernel(flat[start : start + 4096])) for start in range(0, len(flat), 4096)]
        return np.concatenate(chunks or [np.zeros((0, len(NAMES)), np.float32)]).reshape(*lab.shape[:-1], len(NAMES))

    def leave_one_out(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Name every colour of the table by all the others.

        Returns:
            `(label, named)`: the survey's class and the model's class of each colour, `(n,)` indices into `NAMES`, in the
            order of the table's rows without those of `nbs-test`.
        """
        points, label = self._points
        square = ((points[:, None] - points[None]) ** 2).sum(-1)
        kernel = np.exp(square / np.float32(-2 * self.bandwidth**2))
        np.fill_diagonal(kernel, 0)
        density = np.stack([kernel[:, label == index].sum(1) for index in range(len(NAMES))], axis=1)
        count = np.bincount(label, minlength=len(NAMES)) - np.eye(len(NAMES))[label]
        named = (density * np.maximum(count, 1) ** (self.prevalence - 1)).argmax(1)
        return label, named

    @cached_property
    def _table(self) -> npt.NDArray[np.float32]:
        level = np.linspace(0, 255, _STEPS)
        grid = np.stack(np.meshgrid(level, level, level, indexing="ij"), axis=-1)
        return self.posterior(grid).reshape(-1, len(NAMES))

    def lookup(self, rgb: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Look up `posterior` of the nearest colour on a grid with steps of 8; fast enough for thousands of pixels.

        Args:
            rgb: `(..., 3)` floats in [0, 255].

        Returns:
            `(..., 11)` float32.
        """
        step = np.rint(rgb * ((_STEPS - 1) / 255)).astype(np.int64).clip(0, _STEPS - 1)
        named: npt.NDArray[np.float32] = self._table[(step[..., 0] * _STEPS + step[..., 1]) * _STEPS + step[..., 2]]
        return named

    def fingerprint(self) -> dict[str, Any]:
        """What decides the names: the table's sha256 and the two numbers."""
        return {"names_sha256": hashlib.sha256(_TABLE.read_bytes()).hexdigest(), **asdict(self)}
