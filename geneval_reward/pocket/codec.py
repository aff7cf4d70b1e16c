"""Scenes as latents: four slots in a 2 x 2 grid, each with presence, class, colour, place, size and ground as numbers.

To a diffusion model a scene is a latent like any other: `(channels, 2, 2)` real numbers, most of them within [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from geneval_reward.errors import UsageError
from geneval_reward.pocket.scene import MAX_OBJECTS, POCKET_CLASSES, POCKET_COLORS, SIZES, Item, Scene

SIDE: Final = 2
_CLASSES: Final = slice(1, 1 + len(POCKET_CLASSES))
_COLORS: Final = slice(_CLASSES.stop, _CLASSES.stop + len(POCKET_COLORS))
_PLACE: Final = slice(_COLORS.stop, _COLORS.stop + 3)
CENTRE: Final = slice(_PLACE.start, _PLACE.start + 2)
"""The channels of an object's x and y."""
_GROUND: Final = slice(_PLACE.stop, _PLACE.stop + 2)
CHANNELS: Final = _GROUND.stop
"""One for presence, one per class, one per colour, three for x, y and size, and two for the ground."""

assert SIDE * SIDE == MAX_OBJECTS


def encode_scenes(scenes: Sequence[Scene]) -> torch.Tensor:
    """Encode scenes as latents.

    Args:
        scenes: Scenes whose objects fill the slots in order; the remaining slots are absent.

    Returns:
        `(n, CHANNELS, 2, 2)` float32 on the CPU. Classes and colours are one-hot as 1 and -1; the centre of the image is
        0 and its edges are -2 and 2; absent slots hold zeros except for presence (-1) and the ground.
    """
    slots = np.zeros((len(scenes), MAX_OBJECTS, CHANNELS), np.float32)
    slots[:, :, 0] = -1
    low, high = SIZES
    for row, scene in zip(slots, scenes, strict=True):
        row[:, _GROUND] = scene.ground
        for slot, item in zip(row, scene.items, strict=False):
            slot[0] = 1
            slot[_CLASSES] = slot[_COLORS] = -1
            slot[_CLASSES.start + POCKET_CLASSES.index(item.class_name)] = 1
            slot[_COLORS.start + POCKET_COLORS.index(item.color)] = 1
            slot[_PLACE] = 4 * item.x - 2, 4 * item.y - 2, (2 * item.size - low - high) / (high - low)
    return torch.from_numpy(slots).transpose(1, 2).reshape(len(scenes), CHANNELS, SIDE, SIDE)


def decode_scenes(latents: torch.Tensor) -> list[Scene]:
    """Decode latents to scenes, whatever numbers they hold.

    Args:
        latents: `(n, CHANNELS, 2, 2)`, any float dtype and device.

    Returns:
        One scene per latent. It holds the slots with presence above 0, with the class and colour of the largest numbers.
        Centres are clipped to the image and sizes to their range; the ground is the mean over the four slots.

    Raises:
        UsageError: If the shape differs or a number is not finite; the message names the index.
    """
    if latents.ndim != 4 or tuple(latents.shape[1:]) != (CHANNELS, SIDE, SIDE):
        raise UsageError(f"latents: expected shape (n, {CHANNELS}, {SIDE}, {SIDE}), got {tuple(latents.shape)}")
    values: npt.NDArray[np.float64] = latents.detach().double().cpu().flatten(2).transpose(1, 2).numpy()
    finite = np.isfinite(values).all((1, 2))
    if not finite.all():
        raise UsageError(
            f"latents[{int(finite.argmin())}]: expected finite numbers, got NaN or infinity; the model has diverged"
        )
    low, high = SIZES
    present = values[:, :, 0] > 0
    classes = values[:, :, _CLASSES].argmax(2)
    colors = values[:, :, _COLORS].argmax(2)
    centres = ((values[:, :, _PLACE][..., :2] + 2) / 4).clip(0, 1)
    sizes = ((values[:, :, _PLACE][..., 2] * (high - low) + low + high) / 2).clip(low, high)
    grounds = values[:, :, _GROUND].mean(1).clip(-1, 1)
    scenes = []
    for n in range(len(values)):
        items = tuple(
            Item(
                POCKET_CLASSES[classes[n, k]],
                POCKET_COLORS[colors[n, k]],
                float(centres[n, k, 0]),
                float(centres[n, k, 1]),
                float(sizes[n, k]),
            )
            for k in np.flatnonzero(present[n])
        )
        scenes.append(Scene(items, (float(grounds[n, 0]), float(grounds[n, 1]))))
    return scenes
