"""Sixteen composed scenes with known contents, which the demo shows and a judge can be checked against.

All but one are composed of the packaged drawings; the cat and the cup are packaged photographs. Ten do
what their prompt asks; six fail on purpose: one object too many, a wrong colour, swapped positions, a missing object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from geneval_reward.pocket.artwork import Box, background, compose, fitted
from geneval_reward.prompts import PromptSpec
from geneval_reward.vision.photos import photo

SIZE = 512


@dataclass(frozen=True, slots=True, eq=False)
class DemoScene:
    """An image with known contents.

    Attributes:
        image: RGB, 512 x 512.
        spec: What it is meant to show.
        class_names: Class of each object drawn.
        boxes: Box `(x1, y1, x2, y2)` of each object in pixels.
        colors: Colour name of each object, None for the drawing's own colours.
        should_pass: Whether the image does what `spec` asks.
        why: One line that says what the image shows.
    """

    image: Image.Image
    spec: PromptSpec
    class_names: tuple[str, ...]
    boxes: tuple[Box, ...]
    colors: tuple[str | None, ...]
    should_pass: bool
    why: str


def demo_scenes(seed: int = 0) -> list[DemoScene]:
    """Make the scenes of the demo.

    Args:
        seed: Varies grounds and positions slightly; the prompts and the objects stay the same.

    Returns:
        Sixteen scenes over all six tags, with passing and failing ones mixed.

    Examples:
        >>> scenes = demo_scenes()
        >>> len(scenes), sum(scene.should_pass for scene in scenes)
        (16, 10)
        >>> scenes[1].spec.prompt
        'a photo of four airplanes'
    """
    return [_scene(row, np.random.default_rng([seed, index])) for index, row in enumerate(_ROWS)]


# Centre (x, y) and longer side are percentages of the image.
_LEFT, _RIGHT, _TOP, _BOTTOM = (26, 52, 40), (74, 52, 40), (50, 26, 38), (50, 74, 38)
_FOUR = ((27, 27, 36), (73, 27, 36), (27, 73, 36), (73, 73, 36))
_FIVE = ((22, 22, 30), (78, 22, 30), (22, 78, 30), (78, 78, 30), (50, 50, 30))
_THREE = ((20, 50, 46), (50, 50, 46), (80, 50, 46))


# Used in place of a colour for an object from a photograph. Boxes (x1, y1, x2, y2) in the photograph, by class.
_PHOTO = "photo"
_ON_PHOTO = {"cat": ("chelsea", (30, 2, 430, 298)), "cup": ("coffee", (173, 21, 412, 242))}


def _one(name: str, color: str | None = None) -> dict[str, Any]:
    return {"class": name, "count": 1} | ({"color": color} if color else {})


def _relation(target: str, relation: str, subject: str) -> list[dict[str, Any]]:
    return [_one(target), _one(subject) | {"position": [relation, 0]}]


def _count(name: str, count: int) -> dict[str, Any]:
    return {"include": [{"class": name, "count": count}], "exclude": [{"class": name, "count": count + 1}]}


_Row = tuple[str, dict[str, Any], list[tuple[str, str | None, tuple[int, int, int]]], bool, str]

_ROWS: tuple[_Row, ...] = (
    (
        "single_object",
        {"include": [_one("teddy bear")]},
        [("teddy bear", None, (50, 50, 56))],
        True,
        "a teddy bear",
    ),
    (
        "counting",
        _count("airplane", 4),
        [("airplane", None, place) for place in _FOUR],
        True,
        "four airplanes",
    ),
    (
        "colors",
        {"include": [_one("umbrella", "red")]},
        [("umbrella", "red", (50, 50, 54))],
        True,
        "the umbrella is red",
    ),
    (
        "counting",
        _count("traffic light", 3),
        [("traffic light", None, place) for place in _THREE],
        True,
        "three traffic lights",
    ),
    (
        "counting",
        _count("airplane", 4),
        [("airplane", None, place) for place in _FIVE],
        False,
        "five airplanes, one too many",
    ),
    (
        "position",
        {"include": _relation("bicycle", "left of", "car")},
        [("car", None, _LEFT), ("bicycle", None, _RIGHT)],
        True,
        "the car is on the left",
    ),
    (
        "position",
        {"include": _relation("umbrella", "above", "laptop")},
        [("laptop", None, _TOP), ("umbrella", None, _BOTTOM)],
        True,
        "the laptop is above",
    ),
    (
        "position",
        {"include": _relation("cup", "left of", "cat")},
        [("cat", _PHOTO, (25, 50, 47)), ("cup", _PHOTO, (75, 50, 47))],
        True,
        "the cat is on the left; both are photographs",
    ),
    (
        "position",
        {"include": _relation("bicycle", "left of", "car")},
        [("bicycle", None, _LEFT), ("car", None, _RIGHT)],
        False,
        "swapped: the car is on the right",
    ),
    (
        "colors",
        {"include": [_one("umbrella", "red")]},
        [("umbrella", "blue", (50, 50, 54))],
        False,
        "the umbrella is blue, not red",
    ),
    (
        "two_object",
        {"include": [_one("clock"), _one("bicycle")]},
        [("clock", None, _LEFT), ("bicycle", None, _RIGHT)],
        True,
        "a clock and a bicycle",
    ),
    (
        "two_object",
        {"include": [_one("laptop"), _one("giraffe")]},
        [("laptop", None, (50, 50, 50))],
        False,
        "a laptop, but the giraffe is missing",
    ),
    (
        "color_attr",
        {"include": [_one("clock", "yellow"), _one("teddy bear", "purple")]},
        [("clock", "yellow", _LEFT), ("teddy bear", "purple", _RIGHT)],
        True,
        "a yellow clock and a purple teddy bear",
    ),
    (
        "color_attr",
        {"include": [_one("clock", "yellow"), _one("teddy bear", "purple")]},
        [("clock", "purple", _LEFT), ("teddy bear", "yellow", _RIGHT)],
        False,
        "the two colours are swapped",
    ),
    (
        "counting",
        _count("clock", 3),
        [("clock", None, _LEFT), ("clock", None, _RIGHT)],
        False,
        "two clocks, one too few",
    ),
    (
        "color_attr",
        {"include": [_one("bicycle", "green"), _one("airplane", "orange")]},
        [("bicycle", "green", (26, 50, 48)), ("airplane", "orange", _RIGHT)],
        True,
        "a green bicycle and an orange airplane",
    ),
)


def _scene(row: _Row, rng: np.random.Generator) -> DemoScene:
    tag, record, drawn, should_pass, why = row
    image = background(SIZE, int(rng.integers(2**31)))
    names, boxes, colors = [], [], []
    for name, color, (x, y, side) in drawn:
        cx, cy = (value / 100 * SIZE + rng.uniform(-0.015, 0.015) * SIZE for value in (x, y))
        half = side / 200 * SIZE
        box: Box = (cx - half, cy - half, cx + half, cy + half)
        if color == _PHOTO:
            box = _paste_photo(image, name, box)
        else:
            box = fitted(name, box)
            image = compose(image, [(name, color, box)])
        names.append(name)
        boxes.append(box)
        colors.append(None if color == _PHOTO else color)
    spec = PromptSpec.parse({"tag": tag} | record)
    return DemoScene(image, spec, tuple(names), tuple(boxes), tuple(colors), should_pass, why)


def _paste_photo(image: Image.Image, name: str, box: Box) -> Box:
    """Paste a photograph, fitted into a box; return the box of the object in it."""
    source, on_photo = _ON_PHOTO[name]
    whole = photo(source)
    scale = min((box[2] - box[0]) / whole.width, (box[3] - box[1]) / whole.height)
    small = whole.resize((round(whole.width * scale), round(whole.height * scale)), Image.Resampling.LANCZOS)
    left, top = round((box[0] + box[2] - small.width) / 2), round((box[1] + box[3] - small.height) / 2)
    image.paste(small, (left, top))
    x1, y1, x2, y2 = (side * scale for side in on_photo)
    return left + x1, top + y1, left + x2, top + y2
