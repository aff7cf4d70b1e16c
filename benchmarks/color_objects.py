"""Objects of known colour for `lite_colors.py`: drawings on many grounds, repainted photographs, photographs labelled by eye.

Everything is seeded. Objects, photographs and regions are split into a half to tune on and a half to report on.
"""

from __future__ import annotations

import importlib.util
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

import geneval_reward
from geneval_reward.pocket import artwork
from geneval_reward.prompts import COLORS
from geneval_reward.vision.colors.naming import srgb_to_lab
from geneval_reward.vision.protocols import ColorQuery

# Three swatches a colour, none of them the artwork's palette: what paint, cloth and fruit of that name look like.
SWATCHES = {
    "red": ((220, 30, 30), (200, 20, 40), (230, 50, 40)),
    "orange": ((245, 130, 20), (255, 150, 30), (235, 120, 40)),
    "yellow": ((250, 220, 40), (255, 235, 60), (240, 200, 30)),
    "green": ((40, 160, 60), (20, 130, 40), (90, 190, 80)),
    "blue": ((30, 90, 210), (40, 60, 180), (70, 140, 230)),
    "purple": ((130, 50, 170), (110, 40, 140), (150, 80, 200)),
    "pink": ((250, 130, 180), (255, 170, 200), (245, 100, 160)),
    "brown": ((120, 75, 40), (100, 60, 30), (140, 90, 55)),
    "black": ((25, 25, 28), (35, 35, 35), (15, 15, 18)),
    "white": ((245, 245, 245), (250, 250, 248), (235, 238, 240)),
    "grey": ((128, 128, 128), (110, 112, 115), (150, 148, 145)),
}

# (photograph, box as parts of width and height, accepted names, what it is). Labelled by eye; clear cases only.
LABELLED = [
    ("astronaut", (0.04, 0.39, 0.72, 1.00), "orange", "space suit"),
    ("astronaut", (0.55, 0.67, 0.98, 1.00), "black", "helmet"),
    ("astronaut", (0.05, 0.42, 0.25, 0.92), "orange", "sleeve"),
    ("astronaut", (0.70, 0.20, 0.89, 0.57), "white", "shuttle model"),
    ("coffee", (0.12, 0.03, 0.81, 0.98), "red", "saucer with cup"),
    ("coffee", (0.65, 0.55, 1.00, 1.00), "brown", "table"),
    ("chelsea", (0.02, 0.00, 0.82, 1.00), "brown orange", "cat"),
    ("chelsea", (0.30, 0.28, 0.46, 0.48), "green yellow", "cat's eye"),
    ("grace_hopper", (0.03, 0.60, 1.00, 1.00), "black blue", "uniform"),
    ("grace_hopper", (0.30, 0.12, 0.72, 0.24), "black", "brim of the cap"),
    ("motorcycle_left", (0.34, 0.33, 0.65, 0.57), "red", "tank"),
    ("motorcycle_left", (0.13, 0.15, 0.93, 0.91), "red", "motorcycle"),
    ("motorcycle_left", (0.71, 0.34, 0.84, 0.52), "red", "bin"),
    ("motorcycle_left", (0.73, 0.51, 0.87, 0.64), "red", "fender"),
    ("motorcycle_left", (0.20, 0.32, 0.48, 0.48), "black", "seat"),
    ("motorcycle_left", (0.73, 0.06, 0.80, 0.18), "brown orange", "cardboard box"),
    ("motorcycle_left", (0.54, 0.10, 0.565, 0.19), "yellow", "can"),
    ("rocket", (0.475, 0.29, 0.525, 0.95), "white", "rocket"),
    ("china", (0.86, 0.32, 1.00, 0.90), "green", "tree"),
    ("china", (0.11, 0.78, 0.46, 1.00), "green", "bushes"),
    ("flower", (0.27, 0.19, 0.70, 0.85), "orange", "dahlia"),
]

# Outlines of photographed things, parts of width and height, that are repainted in every colour.
OUTLINES = {
    "suit": ("astronaut", "12 42 22 39 31 52 46 58 59 56 65 51 71 64 72 70 63 72 56 86 54 100 31 100 4 92 7 64"),
    "helmet": ("astronaut", "57 88 60 76 70 69 80 68 90 71 96 80 99 92 99 100 56 100"),
    "saucer": ("coffee", "13 47 18 27 33 14 50 9 70 23 80 52 74 81 57 97 37 96 20 80"),
    "cat": ("chelsea", "7 0 82 0 80 37 75 57 73 80 64 97 2 100 1 33"),
    "flower": ("flower", "27 50 31 32 40 21 48 19 58 25 67 38 70 52 67 68 60 79 48 84 38 80 29 66"),
    "jacket": ("grace_hopper", "3 100 4 75 12 65 37 57 45 76 53 74 64 57 86 63 96 70 100 78 100 100"),
    "tank": ("motorcycle_left", "34 53 39 46 46 42 50 35 64 33 65 40 59 47 46 47 40 51 37 57"),
    "tree": ("china", "86 58 92 33 100 33 100 89 87 89"),
}

# Things whose drawing has the colour that everybody gives them.
NATURAL = {
    "banana": "yellow",
    "orange": "orange",
    "broccoli": "green",
    "carrot": "orange",
    "stop sign": "red",
    "teddy bear": "brown",
    "apple": "red",
}


@dataclass(frozen=True)
class Case:
    """An object whose colour is known, and what it was made of."""

    query: ColorQuery
    label: str
    kind: str
    ground: str


def half_of(name: str) -> int:
    """0 or 1: the half that a class, photograph or outline belongs to."""
    return zlib.crc32(name.encode()) % 2


@cache
def photographs() -> dict[str, Image.Image]:
    """Photographs of the package, and those that scikit-image and scikit-learn bring where they are installed."""
    folders = [Path(geneval_reward.__file__).parent / "data" / "photos"]
    for module, inner in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / inner)
    wanted = ("astronaut", "coffee", "chelsea", "grace_hopper", "motorcycle_left", "rocket", "china", "flower")
    wanted += ("gravel", "grass", "brick")
    found = {}
    for folder in folders:
        for path in sorted(folder.glob("*")):
            if path.stem in wanted and path.suffix in (".png", ".jpg") and path.stem not in found:
                found[path.stem] = Image.open(path).convert("RGB")
    return found


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """The inverse of `srgb_to_lab`, clipped to [0, 255]."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.95047, 1, 1.08883]
    rgb_to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    linear = np.clip(xyz @ np.linalg.inv(rgb_to_xyz).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


def repaint(rgb: np.ndarray, inside: np.ndarray, swatch: tuple[int, int, int], texture: float) -> np.ndarray:
    """Give a region the swatch's colour on average and keep `texture` of its own variation."""
    lab = srgb_to_lab(rgb)
    mean = lab[inside].mean(0)
    target = srgb_to_lab(swatch)
    painted = target + (lab - mean) * [texture, 0.25, 0.25]
    painted[..., 0] = painted[..., 0].clip(3, 98)
    return np.where(inside[..., None], lab_to_srgb(painted), rgb)


def painted_drawing(class_name: str, color: str, kind: str, rng: np.random.Generator) -> Image.Image | None:
    """A drawing in a colour: the artwork's own recolouring, a swatch all over, or a swatch on the body only."""
    if kind == "artwork" and color != "grey":
        return artwork.sprite(class_name, 122, color)
    rgba = np.asarray(artwork.sprite(class_name, 122))
    inside = rgba[..., 3] > 128
    if kind == "body":
        lab = srgb_to_lab(rgba[..., :3])
        cells, count = np.unique((lab[inside] / 14).round(), axis=0, return_counts=True)
        body = np.linalg.norm((lab - cells[count.argmax()] * 14) * [0.5, 1, 1], axis=-1) < 38
        if (body & inside).sum() < 0.65 * inside.sum():
            return None
        inside = body & inside
    rgb = repaint(rgba[..., :3].astype(float), inside, SWATCHES[color][rng.integers(3)], 0.5)
    return Image.fromarray(np.dstack([rgb.round().clip(0, 255), rgba[..., 3]]).astype(np.uint8))


def ground(rng: np.random.Generator, size: int, half: int) -> tuple[str, Image.Image]:
    """What lies behind an object: drawn soft, plain, coloured, a gradient, a photograph, or one in a single tint."""
    kind = str(rng.choice(["soft", "plain", "coloured", "gradient", "photograph", "tinted photograph"]))
    if kind == "soft":
        return kind, artwork.background(size, int(rng.integers(1 << 30)))
    if kind == "gradient":
        first, last = rng.integers(0, 256, (2, 3))
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[:size, :size] / size - 0.5
        part = np.clip(x * np.cos(angle) + y * np.sin(angle) + 0.5, 0, 1)[..., None]
        return kind, Image.fromarray((first * (1 - part) + last * part).astype(np.uint8))
    if "photograph" not in kind:
        tone = rng.integers(0, 256, 3) if kind == "coloured" else rng.integers(150, 244) + rng.integers(-12, 13, 3)
        return kind, Image.new("RGB", (size, size), tuple(int(value) for value in tone))
    choice = [image for name, image in sorted(photographs().items()) if half_of(name) == half]
    photo = choice[rng.integers(len(choice))]
    side = int(rng.uniform(0.4, 1) * min(photo.size))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
    cut = photo.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    if kind == "tinted photograph":
        tint = rng.integers(60, 256, 3) / 160
        cut = Image.fromarray((np.asarray(cut.convert("L"), float)[..., None] * tint).clip(0, 255).astype(np.uint8))
    return kind, cut


def _case(
    image: Image.Image, box: np.ndarray, class_name: str, label: str, kind: str, behind: str, noise: float, rng
) -> Case:
    pixels = np.asarray(image, float)
    if noise:
        pixels = pixels + rng.normal(0, noise, pixels.shape)
    tensor = torch.from_numpy(pixels.round().clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()
    return Case(ColorQuery(tensor, box.astype(np.float32), class_name), label, kind, behind)


def _place(drawing: Image.Image, class_name: str, label: str, kind: str, half: int, rng: np.random.Generator) -> Case:
    size = 256
    behind, scene = ground(rng, size, half)
    scene = scene.copy()
    longer = int(rng.uniform(24, 220))
    scale = longer / max(drawing.size)
    width, height = (max(4, round(side * scale)) for side in drawing.size)
    left = int(rng.integers(-width // 12, size - width + width // 12 + 1))
    top = int(rng.integers(-height // 12, size - height + height // 12 + 1))
    if rng.random() < 0.35:  # a neighbour of another colour, touching or overlapped
        names = [name for name in artwork.SPRITE_CLASSES if half_of(name) == half]
        other = artwork.sprite(str(rng.choice(names)), longer, str(rng.choice(COLORS)))
        shift = int(rng.choice([-1, 1]) * width * rng.uniform(0.8, 1.2))
        scene.paste(other, (left + shift, top + int(height * rng.uniform(-0.3, 0.3))), other)
    drawing = drawing.resize((width, height), Image.Resampling.LANCZOS)
    scene.paste(drawing, (left, top), drawing)
    if rng.random() < 0.5:
        scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    noise = rng.uniform(2, 10) if rng.random() < 0.5 else 0.0
    box = np.array([left, top, left + width, top + height]) + rng.uniform(-0.1, 0.1, 4) * np.tile([width, height], 2)
    return _case(scene, box, class_name, label, kind, behind, noise, rng)


def drawings(count: int, half: int, seed: int, colors: tuple[str, ...] = COLORS) -> list[Case]:
    """Painted drawings of the classes of one half, box sides off by up to a tenth, colours in turn."""
    rng = np.random.default_rng(seed)
    names = [name for name in artwork.SPRITE_CLASSES if half_of(name) == half and name != "person"]
    cases: list[Case] = []
    while len(cases) < count:
        color = colors[len(cases) % len(colors)]
        name, kind = str(rng.choice(names)), str(rng.choice(["artwork", "artwork", "swatch", "body"]))
        drawing = painted_drawing(name, color, kind, rng)
        if drawing is not None:
            cases.append(_place(drawing, name, color, kind, half, rng))
    return cases


def natural(count: int, seed: int) -> list[Case]:
    """Drawings in their own colours, things whose colour nobody disputes."""
    rng = np.random.default_rng(seed)
    names = [list(NATURAL)[index % len(NATURAL)] for index in range(count)]
    return [
        _place(artwork.sprite(name, 122), name, NATURAL[name], name, index % 2, rng) for index, name in enumerate(names)
    ]


def repainted(half: int, seed: int, colors: tuple[str, ...] = COLORS) -> list[Case]:
    """Regions of photographs in every colour, three swatches each, box sides off by up to a tenth."""
    rng = np.random.default_rng(seed)
    cases = []
    for position, (name, (photo, outline)) in enumerate(OUTLINES.items()):
        if position % 2 != half or photo not in photographs():
            continue
        image = photographs()[photo]
        corners = np.array(outline.split(), float).reshape(-1, 2) / 100 * image.size
        drawn = Image.new("L", image.size)
        ImageDraw.Draw(drawn).polygon([tuple(corner) for corner in corners], fill=255)
        inside = np.asarray(drawn) > 0
        low, high = corners.min(0), corners.max(0)
        for color in colors:
            texture = {"black": 0.3, "white": 0.4}.get(color, 0.6)
            for swatch in SWATCHES[color]:
                scene = repaint(np.asarray(image, float), inside, swatch, texture)
                box = np.concatenate([low, high]) + rng.uniform(-0.1, 0.1, 4) * np.tile(high - low, 2)
                cases.append(
                    _case(Image.fromarray(scene.round().astype(np.uint8)), box, name, color, name, photo, 0, rng)
                )
    return cases


def labelled() -> list[Case]:
    """The photographs as they are, labelled by eye; a label may name two colours that people give the thing."""
    cases = []
    for name, parts, label, thing in LABELLED:
        if name in photographs():
            image = photographs()[name]
            box = np.array(parts) * np.tile(image.size, 2)
            cases.append(_case(image, box, thing, label, thing, name, 0, None))
    return cases
