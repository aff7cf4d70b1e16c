"""Scenes of the pocket world: up to four drawings with class, colour, place and size on a soft ground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np
from PIL import Image

from geneval_reward.errors import UsageError
from geneval_reward.judge.geometry import offset_direction, relations
from geneval_reward.pocket.artwork import Box, sprite
from geneval_reward.prompts import COLORS, PromptSpec

SIZES: Final = (0.30, 0.56)
"""Smallest and largest longer side of an object, as a share of the image."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a class is shown; chosen by measurement, like the classes themselves.

    Attributes:
        turn: Degrees by which the drawing is turned counter-clockwise.
        mirror: Whether left and right are exchanged.
        grain: Standard deviation of a fixed film grain on it, in levels of 255.
        sizes: Range of its longer side in clean scenes, as a share of the image.
    """

    turn: int = 0
    mirror: bool = False
    grain: float = 0.0
    sizes: tuple[float, float] = (0.40, 0.46)


LOOKS: Final[Mapping[str, Look]] = MappingProxyType(
    {
        "bicycle": Look(grain=5, sizes=(0.42, 0.47)),
        "airplane": Look(turn=45, grain=4, sizes=(0.34, 0.42)),
        "giraffe": Look(mirror=True, sizes=(0.41, 0.47)),
        "laptop": Look(grain=4),
        "clock": Look(grain=4, sizes=(0.36, 0.46)),
        "vase": Look(),
        "scissors": Look(grain=4, sizes=(0.36, 0.46)),
        "teddy bear": Look(grain=6),
    }
)

POCKET_CLASSES: Final[tuple[str, ...]] = tuple(LOOKS)
"""Chosen by measurement: classes that the `lite` detector finds in clean scenes, whatever their colour."""

POCKET_COLORS: Final[tuple[str | None, ...]] = (None, *COLORS)
"""None: the drawing's own colours."""

MAX_OBJECTS: Final = 4


@dataclass(frozen=True, slots=True)
class Item:
    """One object.

    Attributes:
        class_name: One of `POCKET_CLASSES`.
        color: One of the ten colours, or None for the drawing's own.
        x: Centre from the left, as a share of the image.
        y: Centre from the top.
        size: Longer side, as a share of the image.
    """

    class_name: str
    color: str | None
    x: float
    y: float
    size: float

    @property
    def box(self) -> Box:
        """`(x1, y1, x2, y2)` as shares of the image; that of the whole drawing, turned as it is shown."""
        width, height = extent(self.class_name)
        return (
            self.x - width * self.size / 2,
            self.y - height * self.size / 2,
            self.x + width * self.size / 2,
            self.y + height * self.size / 2,
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """What one picture shows.

    Attributes:
        items: At most `MAX_OBJECTS`, in the order in which a caption would name them.
        ground: Two numbers in [-1, 1]: which of the ground tones, and how light.
    """

    items: tuple[Item, ...]
    ground: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if len(self.items) > MAX_OBJECTS:
            raise UsageError(
                f"items: expected at most {MAX_OBJECTS} objects, got {len(self.items)}; a pocket scene has no more slots"
            )
        for index, item in enumerate(self.items):
            if item.class_name not in POCKET_CLASSES or item.color not in POCKET_COLORS:
                raise UsageError(
                    f"items[{index}]: expected a class of {', '.join(POCKET_CLASSES)} and a GenEval colour or None, "
                    f"got {item.class_name!r}, {item.color!r}"
                )


@cache
def drawing(class_name: str, color: str | None) -> Image.Image:
    """A class's drawing in a colour, turned as it is shown and cut to what is drawn; RGBA, about 122 pixels."""
    look = LOOKS[class_name]
    image = sprite(class_name, 122, color)
    if look.mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if look.turn:
        image = image.rotate(look.turn, resample=Image.Resampling.BICUBIC, expand=True)
        image = image.crop(image.getchannel("A").point(lambda alpha: 255 if alpha >= 16 else 0).getbbox())
    return image


@cache
def extent(class_name: str) -> tuple[float, float]:
    """Width and height of a class's drawing as it is shown, the longer one being 1."""
    width, height = drawing(class_name, None).size
    return width / max(width, height), height / max(width, height)


def fulfils(scene: Scene, spec: PromptSpec) -> bool:
    """Tell whether a scene shows what a record asks for, by its true objects and the benchmark's own rules.

    Like the judge with a perfect detector: objects beyond the required count are free unless excluded; colour and
    place are asked of the first objects of a class.

    Args:
        scene: Scene to check.
        spec: Any record.

    Returns:
        True if every include clause holds and no exclude clause is hit.
    """
    groups: list[list[Item] | None] = []
    for clause in spec.include:
        found = [item for item in scene.items if item.class_name == clause.class_name][: clause.count]
        ok = len(found) == clause.count and all(clause.color in (None, item.color) for item in found)
        for place in clause.positions:
            target = groups[place.target]
            ok = ok and target is not None and all(holds(a, place.relation, b) for a in found for b in target)
        groups.append(found if ok else None)
    counts = {name: sum(item.class_name == name for item in scene.items) for name in POCKET_CLASSES}
    return all(group is not None for group in groups) and all(
        counts.get(clause.class_name, 0) < clause.count for clause in spec.exclude
    )


def holds(subject: Item, relation: str, target: Item) -> bool:
    """Tell whether one object is in a relation to another, by the benchmark's rule."""
    a, b = (np.asarray(item.box, np.float32) * 256 for item in (subject, target))
    return relation in relations(offset_direction(a, b, 0.1))
