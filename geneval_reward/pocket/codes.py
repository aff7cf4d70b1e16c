"""Scenes as 18 discrete codes on six levels, coarse to fine; each level adds to a latent that can be drawn at any time.

The levels are grids of side 1, 1, 2, 2, 2 and 2. A cell of the larger grids is a quarter of the picture, which holds at
most one object:

| level | codes | what they stand for |
|---|---|---|
| 1 | 1 | which quarters hold an object, and the tone of the ground |
| 2 | 1 | the class of the first object and the other class, if there is one, and the light of the ground |
| 3 | 4 | bare ground, or one of 24 groups of two classes and two colours |
| 4 | 4 | which class and colour of the group, and the place within the quarter in thirds |
| 5 | 4 | the place within the third |
| 6 | 4 | the place more finely, and the size |

The code book is shuffled: the classes and colours in a group, their order in it, and the number of every meaning are
random. So a code of level 3 or 4 alone does not name a class or a colour; only both together do. Bare ground has 64 codes on
each of levels 3 to 6, all drawn alike, so that "nothing" is not a quarter's most certain code, as with real backgrounds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.errors import UsageError
from geneval_reward.pocket.codec import CHANNELS, decode_scenes, encode_scenes
from geneval_reward.pocket.render import render
from geneval_reward.pocket.scene import MAX_OBJECTS, POCKET_CLASSES, POCKET_COLORS, Item, Scene

SIDES: Final = (1, 1, 2, 2, 2, 2)
LEVELS: Final = len(SIDES)
SPANS: Final = tuple(slice(sum(s * s for s in SIDES[:k]), sum(s * s for s in SIDES[: k + 1])) for k in range(LEVELS))
"""The positions of each level."""
LENGTH: Final = SPANS[-1].stop
LEVEL_OF: Final = tuple(level for level, span in enumerate(SPANS) for _ in range(span.start, span.stop))
"""The level of each position."""
BOOK: Final = 128
"""Codes per level. Some of levels 3 to 6 are never used; they add nothing."""
MASK: Final = BOOK
"""What stands in place of a code that is not known yet."""

_TONES, _LIGHTS, _MEMBERS, _BARE = 8, 2, 4, 64
_SHADES: Final = len(POCKET_COLORS) + 1
"""One more than there are colours, so that they go in twos; it has no colour."""
_PAIRS: Final = len(POCKET_CLASSES) * _SHADES
_THIRDS, _CELLS, _HALVES = 3, 4, 2
_SMALLEST, _LARGEST, _SIZES = 0.34, 0.47, 5
_SEED: Final = 14

assert len(POCKET_CLASSES) % 2 == _SHADES % 2 == 0
assert 2**MAX_OBJECTS * _TONES == len(POCKET_CLASSES) ** 2 * _LIGHTS == BOOK

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@cache
def _shuffles() -> tuple[Ints, Ints]:
    """Return the code of each meaning per level `(6, BOOK)`, and the pair of each member of each group `(24, 4)`."""
    rng = np.random.default_rng(_SEED)
    numbers = np.stack([rng.permutation(BOOK) for _ in SIDES])
    classes = rng.permutation(len(POCKET_CLASSES)).reshape(-1, 1, 2, 1)
    shades = rng.permutation(_SHADES).reshape(1, -1, 1, 2)
    return numbers, (classes * _SHADES + shades).reshape(-1, _MEMBERS)


def encode(scenes: Sequence[Scene]) -> torch.Tensor:
    """Encode scenes as codes.

    Args:
        scenes: Scenes with at most one object in each quarter of the picture.

    Returns:
        `(n, 18)` int64 in [0, 128).

    Raises:
        UsageError: If two objects of a scene lie in one quarter; the message names the scene.
    """
    meanings = np.zeros((len(scenes), LENGTH), np.int64)
    numbers, groups = _shuffles()
    where = np.argsort(groups.ravel())
    for index, (row, scene) in enumerate(zip(meanings, scenes, strict=True)):
        quarters = [int(item.x >= 0.5) + 2 * int(item.y >= 0.5) for item in scene.items]
        if len(set(quarters)) < len(quarters):
            raise UsageError(
                f"scenes[{index}]: expected at most one object per quarter of the picture, got two in one; move one of them"
            )
        tone, light = (np.clip(np.floor((np.array(scene.ground) + 1) / 2 * (_TONES, _LIGHTS)), 0, (7, 1))).astype(int)
        row[0] = sum(1 << quarter for quarter in quarters) * _TONES + tone
        ordered = [item for _, item in sorted(zip(quarters, scene.items, strict=True), key=lambda pair: pair[0])]
        classes = list(dict.fromkeys(POCKET_CLASSES.index(item.class_name) for item in ordered)) or [0]
        row[1] = (classes[0] * len(POCKET_CLASSES) + classes[min(1, len(classes) - 1)]) * _LIGHTS + light
        # The choice among bare-ground codes is effectively random, but encoding a decoded scene gives the same codes again.
        grain = np.random.default_rng(zlib.crc32(repr((row[:2].tolist(), _fine(scene))).encode()))
        row[SPANS[2].start :] = grain.integers(_BARE, size=LENGTH - SPANS[2].start)
        for quarter, item in zip(quarters, scene.items, strict=True):
            pair = POCKET_CLASSES.index(item.class_name) * _SHADES + POCKET_COLORS.index(item.color)
            group, member = divmod(int(where[pair]), _MEMBERS)
            x, y = _split(2 * item.x - quarter % 2), _split(2 * item.y - quarter // 2)
            size = int(np.clip((item.size - _SMALLEST) / (_LARGEST - _SMALLEST) * _SIZES, 0, _SIZES - 1))
            row[SPANS[2].start + quarter] = _BARE + group
            row[SPANS[3].start + quarter] = _BARE + (member * _THIRDS + y[0]) * _THIRDS + x[0]
            row[SPANS[4].start + quarter] = _BARE + y[1] * _CELLS + x[1]
            row[SPANS[5].start + quarter] = _BARE + (size * _HALVES + y[2]) * _HALVES + x[2]
    return torch.from_numpy(np.take_along_axis(numbers[list(LEVEL_OF)], meanings.T, 1).T.copy())


def _fine(scene: Scene) -> list[tuple[int, int]]:
    """Return the places of a scene's objects as the codes store them, in order."""
    fine = _THIRDS * _CELLS * _HALVES * 2
    return sorted((int(item.x * fine), int(item.y * fine)) for item in scene.items)


def _split(share: float) -> tuple[int, int, int]:
    """Split a place in [0, 1) into third, cell of the third and half of the cell."""
    cell = int(np.clip(share * _THIRDS * _CELLS * _HALVES, 0, _THIRDS * _CELLS * _HALVES - 1))
    return cell // (_CELLS * _HALVES), cell // _HALVES % _CELLS, cell % _HALVES


def running_sum(codes: torch.Tensor, levels: int = LEVELS) -> torch.Tensor:
    """Add up the latents that the codes of the first levels stand for.

    Each level adds a fixed array per code; those of level 4 depend on the code of level 3 in the same quarter, as in a
    tree-structured quantiser. Masked codes add nothing, so the sum of a half-painted picture can be drawn too.

    Args:
        codes: `(n, 18)` integers in [0, 128]; 128 is `MASK`.
        levels: Number of levels to add, 0 to 6.

    Returns:
        `(n, 25, 2, 2)` float32: latents of the pocket world, as in `geneval_reward.pocket.codec`.

    Raises:
        UsageError: If a shape or a code is out of range.
    """
    ids = check(codes).cpu().numpy()
    total = np.broadcast_to(_start(), (len(ids), MAX_OBJECTS, CHANNELS)).copy()
    books = _books()
    for level in range(levels):
        part = ids[:, SPANS[level]]
        if level == 3:
            total += books[3][ids[:, SPANS[2]], part]
        else:
            total += books[level][part].reshape(len(ids), MAX_OBJECTS, CHANNELS)
    return torch.from_numpy(total).transpose(1, 2).reshape(len(ids), CHANNELS, 2, 2)


def decode(codes: torch.Tensor, levels: int = LEVELS) -> list[Scene]:
    """Decode any codes to scenes; see `running_sum`."""
    return decode_scenes(running_sum(codes, levels))


def draw(codes: torch.Tensor, levels: int = LEVELS) -> npt.NDArray[np.uint8]:
    """Draw codes as pictures `(n, 256, 256, 3)` uint8; see `running_sum`."""
    scenes = decode(codes, levels)
    return np.stack([render(scene) for scene in scenes]) if scenes else np.zeros((0, 256, 256, 3), np.uint8)


def bare_ground() -> torch.Tensor:
    """Return which codes stand for bare ground: `(18, 128)` bool, none on the first two levels."""
    bare = np.zeros((LEVELS, BOOK), bool)
    for level in range(2, LEVELS):
        bare[level, _shuffles()[0][level][:_BARE]] = True
    return torch.from_numpy(bare[list(LEVEL_OF)])


def check(codes: torch.Tensor, name: str = "codes") -> torch.Tensor:
    """Return codes unchanged if they are `(n, 18)` integers in [0, 128].

    Raises:
        UsageError: If they are not.
    """
    if codes.ndim != 2 or codes.shape[1] != LENGTH or codes.dtype.is_floating_point:
        raise UsageError(f"{name}: expected integers of shape (n, {LENGTH}), got {codes.dtype} {tuple(codes.shape)}")
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) <= MASK:
        raise UsageError(
            f"{name}: expected codes in [0, {BOOK}) or {MASK} for unknown ones, got {int(codes.min())} to {int(codes.max())}"
        )
    return codes


def _start() -> Floats:
    """Return the latent before any level: no objects, with every quarter's place at its centre."""
    centres = [Item(POCKET_CLASSES[0], None, 0.25 + 0.5 * (q % 2), 0.25 + 0.5 * (q // 2), 0.43) for q in range(4)]
    slots = encode_scenes([Scene(tuple(centres))]).flatten(2).transpose(1, 2).numpy()[0]
    start: Floats = np.zeros_like(slots)
    start[:, _PLACE] = slots[:, _PLACE]
    return start


_CLASS: Final = slice(1, 1 + len(POCKET_CLASSES))
_COLOR: Final = slice(_CLASS.stop, _CLASS.stop + len(POCKET_COLORS))
_PLACE: Final = slice(_COLOR.stop, _COLOR.stop + 2)
_SIZE: Final = _PLACE.stop
_GROUND: Final = slice(_SIZE + 1, _SIZE + 3)


@cache
def _books() -> tuple[Floats, ...]:
    """Return what each code adds: per level `(BOOK + 1, slots, CHANNELS)`, for level 4 `(BOOK + 1, BOOK + 1, CHANNELS)`."""
    numbers, groups = _shuffles()
    layout, content, which, place, finer = (
        np.zeros((BOOK + 1, slots, CHANNELS), np.float32) for slots in (4, 4, 1, 1, 1)
    )
    member = np.zeros((BOOK + 1, BOOK + 1, CHANNELS), np.float32)
    for meaning, code in enumerate(numbers[0]):
        quarters, tone = divmod(meaning, _TONES)
        layout[code, :, 0] = [0.4 if quarters >> q & 1 else -0.4 for q in range(4)]
        layout[code, :, _GROUND.start] = (2 * tone + 1) / _TONES - 1
    for meaning, code in enumerate(numbers[1]):
        classes, light = divmod(meaning, _LIGHTS)
        first, other = divmod(classes, len(POCKET_CLASSES))
        content[code, :, _CLASS.start + first] += 0.6
        content[code, :, _CLASS.start + other] += 0.4
        content[code, :, _GROUND.stop - 1] = (2 * light + 1) / _LIGHTS - 1
    which[numbers[2][:_BARE], 0, 0] = -1
    pairs = np.zeros((_PAIRS, CHANNELS), np.float32)
    for pair, row in enumerate(pairs):
        row[_CLASS.start + pair // _SHADES] = 2
        if pair % _SHADES < len(POCKET_COLORS):
            row[_COLOR.start + pair % _SHADES] = 2
    for group, of in enumerate(groups):
        code = numbers[2][_BARE + group]
        which[code, 0] = pairs[of].mean(0)
        which[code, 0, 0] = 1
        for index in range(_MEMBERS * _THIRDS**2):
            of_group, cell = divmod(index, _THIRDS**2)
            step = member[code, numbers[3][_BARE + index]]
            step[:] = pairs[of[of_group]] - pairs[of].mean(0)
            step[_PLACE] = _offset(cell, _THIRDS, 1)
    for index in range(_CELLS**2):
        place[numbers[4][_BARE + index], 0, _PLACE] = _offset(index, _CELLS, _THIRDS)
    for index in range(_SIZES * _HALVES**2):
        size, half = divmod(index, _HALVES**2)
        step = finer[numbers[5][_BARE + index], 0]
        step[_PLACE] = _offset(half, _HALVES, _THIRDS * _CELLS)
        low, high = 0.30, 0.56
        wanted = _SMALLEST + (size + 0.5) / _SIZES * (_LARGEST - _SMALLEST)
        step[_SIZE] = (2 * wanted - low - high) / (high - low)
    return layout, content, which, member, place, finer


def _offset(cell: int, side: int, parts: int) -> list[float]:
    """Compute the offset from the centre of a `parts`-th of a quarter to one of its `side * side` cells, in latent units."""
    width = 2 / parts / side  # a quarter is two wide
    return [width * (cell % side - (side - 1) / 2), width * (cell // side - (side - 1) / 2)]
