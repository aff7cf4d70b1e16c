"""Scenes for captions: clean ones that match their prompt, and ones like the web's that often do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from geneval_reward.errors import UsageError
from geneval_reward.pocket.prompts import training_specs
from geneval_reward.pocket.scene import LOOKS, MAX_OBJECTS, POCKET_CLASSES, POCKET_COLORS, Item, Scene, fulfils
from geneval_reward.prompts import COLORS, TAGS, PromptSpec

# Left and right, or top and bottom, or the four quarters: centres of places that do not overlap.
_QUARTERS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))


def sample_scene(spec: PromptSpec, rng: np.random.Generator) -> Scene:
    """Draw a clean scene, which shows what the prompt asks for and nothing else.

    Args:
        spec: A record of pocket classes with at most four objects.
        rng: Random generator. It draws colours that are not asked for (half the time the drawing's own), places, sizes
            and the ground.

    Returns:
        A scene for which `geneval_reward.pocket.scene.fulfils` is true.

    Raises:
        UsageError: If the record asks for more objects than there are slots, for classes that the world does not have, or
            for places that cannot be.
    """
    wanted = [(clause.class_name, clause.color) for clause in spec.include for _ in range(clause.count)]
    if len(wanted) > MAX_OBJECTS:
        raise UsageError(f"spec: expected at most {MAX_OBJECTS} objects in all, got {len(wanted)} in {spec.prompt!r}")
    for name, _ in wanted:
        if name not in LOOKS:
            raise UsageError(f"spec: expected classes of {', '.join(POCKET_CLASSES)}, got {name!r}")
    loose = rng.random() < 0.5
    shown = [(name, color or _own_or_any(rng, loose)) for name, color in wanted]
    placed = _arrange(shown, rng)
    # Try assignments of objects to places in random order until the prompt's relations hold.
    ground = float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))
    for _ in range(20):
        for order in rng.permutation(list(permutations(range(len(shown))))):
            items = tuple(
                replace(item, x=placed[k].x, y=placed[k].y) for item, k in zip(placed, order.tolist(), strict=True)
            )
            scene = Scene(items, ground)
            if fulfils(scene, spec):
                return scene
        placed = _arrange(shown, rng)
    raise UsageError(f"spec: expected an arrangement that is possible, got {spec.prompt!r}")


def _own_or_any(rng: np.random.Generator, own: bool) -> str | None:
    return None if own else COLORS[int(rng.integers(len(COLORS)))]


def _arrange(shown: list[tuple[str, str | None]], rng: np.random.Generator) -> list[Item]:
    """Place objects apart: one anywhere, two in halves, more in quarters."""
    n = len(shown)
    sizes = [float(rng.uniform(*LOOKS[name].sizes)) for name, _ in shown]
    if n == 1:
        half = sizes[0] / 2
        x, y = rng.uniform(half, 1 - half, 2)
        return [Item(*shown[0], float(x), float(y), sizes[0])]
    if n == 2:
        across = rng.random() < 0.5
        spots = []
        for index, size in enumerate(sizes):
            slack = max(0.5 - size, 0) / 2
            along = 0.25 + 0.5 * index + rng.uniform(-slack, slack)
            beside = 0.5 + rng.uniform(-0.15, 0.15)
            spots.append((along, beside) if across else (beside, along))
    else:
        quarters = [_QUARTERS[k] for k in rng.permutation(4)[:n]]
        spots = []
        for (x, y), size in zip(quarters, sizes, strict=True):
            slack = max(0.5 - size, 0) / 2
            spots.append((x + rng.uniform(-slack, slack), y + rng.uniform(-slack, slack)))
    return [Item(*look, float(x), float(y), size) for look, (x, y), size in zip(shown, spots, sizes, strict=True)]


@dataclass(frozen=True, slots=True)
class Noise:
    """How often a training caption is wrong about its scene, as web captions are.

    Attributes:
        recolor: Chance that a coloured object has another colour.
        exchange: Chance that two coloured objects have each other's colours.
        rename: Chance that an object is of another class.
        drop: Chance that one of several objects is missing.
        add: Chance that there is an object too many (of a class that is there, half the time).
        displace: Chance that a place is not the one that the caption says.
    """

    recolor: float = 0.25
    exchange: float = 0.2
    rename: float = 0.06
    drop: float = 0.25
    add: float = 0.2
    displace: float = 0.5

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}: expected a chance in [0, 1], got {getattr(self, name)}")

    @classmethod
    def parse(cls, values: Mapping[str, float] | None) -> Noise:
        """Build from a mapping of attribute names; None gives the defaults."""
        return cls(**(values or {}))


def sample_captioned(spec: PromptSpec, rng: np.random.Generator, noise: Noise) -> Scene:
    """Draw a scene whose caption, the prompt of `spec`, may be wrong about it.

    Args:
        spec: What the caption says.
        rng: Random generator.
        noise: How often the caption is wrong.

    Returns:
        A scene whose objects lie apart, whatever else is wrong.
    """
    scene = sample_scene(spec, rng)
    items = list(scene.items)
    chance = rng.random
    if sum(item.color is not None for item in items) == 2 and spec.tag == "color_attr" and chance() < noise.exchange:
        items = [replace(items[0], color=items[1].color), replace(items[1], color=items[0].color)]
    for index, item in enumerate(items):
        if item.color is not None and chance() < noise.recolor:
            item = replace(item, color=POCKET_COLORS[int(rng.integers(len(POCKET_COLORS)))])
        if chance() < noise.rename:
            item = replace(item, class_name=POCKET_CLASSES[int(rng.integers(len(POCKET_CLASSES)))])
        items[index] = item
    changed = len(items) > 1 and chance() < noise.drop
    if changed:
        items.pop(int(rng.integers(len(items))))
    elif len(items) < MAX_OBJECTS and chance() < noise.add * (0.3 if len(items) == 1 else 1):
        changed = True
        twin = items[int(rng.integers(len(items)))]
        other = chance() < 0.5
        name = POCKET_CLASSES[int(rng.integers(len(POCKET_CLASSES)))] if other else twin.class_name
        items.append(replace(twin, class_name=name))
    if changed or (spec.tag == "position" and chance() < noise.displace):
        items = _arrange([(item.class_name, item.color) for item in items], rng)
        items = _shuffled_places(items, rng)
    return Scene(tuple(items), scene.ground)


def sample_training_scenes(
    rng: np.random.Generator, count: int, mix: Mapping[str, int], noise: Noise
) -> tuple[list[PromptSpec], list[Scene]]:
    """Draw captions that are not held out, and scenes about which they may be wrong: what the packaged model learned from.

    Args:
        rng: Random generator.
        count: Number of scenes.
        mix: Weight of each task's captions.
        noise: How often a caption is wrong.
    """
    tags = [tag for tag in TAGS if mix.get(tag)]
    shares = np.array([mix[tag] for tag in tags], float)
    pools = [training_specs()[tags[tag]] for tag in rng.choice(len(tags), size=count, p=shares / shares.sum())]
    specs = [pool[int(rng.integers(len(pool)))] for pool in pools]
    return specs, [sample_captioned(spec, rng, noise) for spec in specs]


def _shuffled_places(items: list[Item], rng: np.random.Generator) -> list[Item]:
    order = rng.permutation(len(items))
    return [replace(item, x=items[k].x, y=items[k].y) for item, k in zip(items, order, strict=True)]
