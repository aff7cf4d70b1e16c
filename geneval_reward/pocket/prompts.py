"""Prompts of the pocket world: a fixed suite of held-out compositions, and all other prompts to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations
from typing import Final

import numpy as np

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.pocket.scene import POCKET_CLASSES
from geneval_reward.prompts import CLASS_IDS, COLORS, RELATIONS, TAGS, PromptSpec
from geneval_reward.prompts.stream import Stream
from geneval_reward.prompts.suite import color_attr, colors, counting, position, two_object
from geneval_reward.prompts.training import Meaning, meaning
from geneval_reward.prompts.wording import plural

SUITE_SEED: Final = 4
SUITE_SHA256: Final = "daedc3b8d49697abbfbb0a37f0a9a67b76475130414c78948daf52590292d715"
"""Hash of the suite's records as JSON lines, each ended by a newline."""

_HELD_OUT: Final = {"two_object": 12, "counting": 12, "colors": 40, "position": 56, "color_attr": 60}
"""Held-out meanings per task; two-object prompts are asked in both orders."""

_COUNTS: Final = (2, 3, 4)
_IDS: Final = tuple(CLASS_IDS[name] for name in POCKET_CLASSES)


@cache
def pocket_suite() -> tuple[PromptSpec, ...]:
    """Return the fixed prompts that the pocket model is measured by.

    They are all classes as single objects (there are no others to train on) and, for the other five tasks, compositions
    that `training_specs` never draws.

    Returns:
        200 specs, task by task in the benchmark's order.

    Raises:
        SpecError: If the prompts do not match their hash, which means that the installation is damaged.

    Examples:
        >>> suite = pocket_suite()
        >>> suite[0].prompt
        'a photo of a bicycle'
    """
    stream = Stream(SUITE_SEED)
    suite = [_single(a) for a in _IDS]
    for tag, size in _HELD_OUT.items():
        every = list(_every(tag))
        seen: set[Meaning] = set()
        for index in stream.sample(len(every), len(every)):
            if len(seen) == size:
                break
            if meaning(every[index]) not in seen:
                seen.add(meaning(every[index]))
                suite.append(every[index])
                if tag == "two_object":
                    suite.append(_turned(every[index]))
    text = "".join(spec.to_json() + "\n" for spec in suite)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != SUITE_SHA256:
        raise SpecError(f"pocket suite: expected sha256 {SUITE_SHA256}, got {digest}; reinstall geneval-reward")
    return tuple(suite)


@cache
def training_specs() -> Mapping[str, tuple[PromptSpec, ...]]:
    """Return every prompt of the pocket world whose meaning is not held out, by task.

    Only 12 plain counts are not held out. So that training sees more, each of them is asked in the ten colours too
    ("a photo of two red clocks"), and stands ten times itself, so that half of the draws are plain.
    """
    held_out = {meaning(spec) for spec in pocket_suite() if spec.tag != "single_object"}
    specs = {tag: tuple(spec for spec in _every(tag) if meaning(spec) not in held_out) for tag in TAGS}
    colored = tuple(_colored(spec, color) for spec in specs["counting"] for color in COLORS)
    return specs | {"counting": specs["counting"] * len(COLORS) + colored}


def iter_pocket_prompts(seed: int = 0, mix: Mapping[str, int] | None = None) -> Iterator[PromptSpec]:
    """Draw training prompts of the pocket world without end.

    Args:
        seed: Seed of the stream.
        mix: Integer weight per task; equal weights if None.

    Yields:
        Specs whose meaning is not in `pocket_suite`, except for single objects.

    Raises:
        UsageError: For an unknown task or a weight that is not an integer >= 0.

    Examples:
        >>> from itertools import islice
        >>> len({spec.prompt for spec in islice(iter_pocket_prompts(0, {"position": 1}), 20)}) > 10
        True
    """
    weights = dict.fromkeys(TAGS, 1) if mix is None else dict(mix)
    for tag, weight in weights.items():
        if tag not in TAGS or isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise UsageError(f"mix: expected integer weights >= 0 for {', '.join(TAGS)}, got {tag!r}: {weight!r}")
    tags = [tag for tag in TAGS if weights.get(tag)]
    if not tags:
        raise UsageError("mix: expected at least one task with a weight above 0, got none")
    rng = np.random.default_rng(seed)
    share = np.array([weights[tag] for tag in tags], float)
    specs = training_specs()
    while True:
        pool = specs[tags[int(rng.choice(len(tags), p=share / share.sum()))]]
        yield pool[int(rng.integers(len(pool)))]


def _every(tag: str) -> Iterator[PromptSpec]:
    """All prompts of a task, in a fixed order."""
    pairs = [(a, b) for a in _IDS for b in _IDS if a != b]
    match tag:
        case "single_object":
            yield from map(_single, _IDS)
        case "two_object":
            yield from (two_object(a, b) for a, b in pairs)
        case "counting":
            yield from (counting(a, count) for a in _IDS for count in _COUNTS)
        case "colors":
            yield from (colors(a, color) for a in _IDS for color in range(len(COLORS)))
        case "position":
            yield from (position(a, b, relation) for a, b in pairs for relation in range(len(RELATIONS)))
        case _:
            shades = [pair for c, d in combinations(range(len(COLORS)), 2) for pair in ((c, d), (d, c))]
            yield from (color_attr(a, b, c, d) for a, b in pairs for c, d in shades)


def _colored(spec: PromptSpec, color: str) -> PromptSpec:
    """A count in a colour."""
    record = spec.to_record()
    (clause,) = record["include"]
    name = plural(clause["class"])
    clause["color"] = color
    return PromptSpec.parse(record | {"prompt": spec.prompt.removesuffix(name) + f"{color} {name}"})


def _turned(spec: PromptSpec) -> PromptSpec:
    return two_object(*(CLASS_IDS[clause.class_name] for clause in reversed(spec.include)))


def _single(a: int) -> PromptSpec:
    name = next(name for name in POCKET_CLASSES if CLASS_IDS[name] == a)
    return PromptSpec.parse({"tag": "single_object", "include": [{"class": name, "count": 1}]})
