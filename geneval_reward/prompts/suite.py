"""The official suite of 553 prompts, drawn again from its seed and checked against the sha256 of the published file.

Source of the seed (43) and the order of the draws: djghosh13/geneval `prompts/create_prompts.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.prompts.spec import Exclude, Include, Position, PromptSpec
from geneval_reward.prompts.stream import Stream
from geneval_reward.prompts.vocabulary import CLASS_NAMES, COLORS, RELATIONS

SUITE_SEED: Final = 43
SUITE_SHA256: Final = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""sha256 of the benchmark's `evaluation_metadata.jsonl`."""

_ROUNDS: Final = 100
_CLASSES: Final = len(CLASS_NAMES)

Prompt = PromptSpec | Mapping[str, Any] | str
"""A spec, a record, a record as JSON, or a prompt text that `resolve` knows."""


@lru_cache(maxsize=1)
def official_suite() -> tuple[PromptSpec, ...]:
    """The benchmark's 553 records in file order.

    Returns:
        The specs: 80 single_object, 99 two_object, 80 counting, 94 colors, 100 position and 100 color_attr.

    Raises:
        RuntimeError: If the records are not byte for byte those of the published file, because the package is damaged.

    Examples:
        >>> len(official_suite()), official_suite()[0].prompt
        (553, 'a photo of a bench')
    """
    suite = tuple(dict.fromkeys(_draw(Stream(SUITE_SEED))))
    digest = hashlib.sha256("".join(f"{spec.to_json()}\n" for spec in suite).encode()).hexdigest()
    if digest != SUITE_SHA256:
        raise RuntimeError(f"official suite: expected sha256 {SUITE_SHA256}, got {digest}; reinstall geneval-reward")
    return suite


@lru_cache(maxsize=1)
def suite_by_prompt() -> Mapping[str, PromptSpec]:
    """The official suite by prompt text; all 553 texts are distinct."""
    return MappingProxyType({spec.prompt: spec for spec in official_suite()})


def resolve(prompt: Prompt, extra: Mapping[str, PromptSpec] | None = None) -> PromptSpec:
    """Find the spec that a record or a prompt text stands for.

    Args:
        prompt: A spec, a record, a record as a JSON string, a prompt text of the official suite, or a sentence like them.
        extra: Further prompt texts with their specs; they are looked up first.

    Raises:
        SpecError: If a record is not valid, or a text is neither in `extra` nor in the official suite nor a sentence that
            `PromptSpec.from_text` reads.

    Examples:
        >>> resolve("a photo of a bench").tag
        'single_object'
    """
    if not isinstance(prompt, str) or prompt.lstrip().startswith("{"):
        return PromptSpec.parse(prompt)
    spec = (extra or {}).get(prompt) or suite_by_prompt().get(prompt)
    if spec is not None:
        return spec
    try:
        return PromptSpec.from_text(prompt)
    except SpecError as error:
        raise SpecError(
            f"prompt: expected a prompt text of the official suite, got {prompt[:200]!r}; pass its record (tag, include, ...) "
            f"instead, or write a sentence like the suite's ({error})"
        ) from error


def resolve_all(specs: Sequence[Prompt], extra: Mapping[str, PromptSpec] | None = None) -> list[PromptSpec]:
    """Find the spec of each image, as `resolve` does.

    Args:
        specs: Specs, records, records as JSON, or prompt texts.
        extra: Further prompt texts with their specs, besides the official suite.

    Raises:
        SpecError: If one is not valid or not known; the message names its index.
        UsageError: If it is a single one and not a sequence.
    """
    if isinstance(specs, str | bytes | Mapping | PromptSpec) or not isinstance(specs, Sequence):
        raise UsageError(f"specs: expected a sequence with one spec per image, got {type(specs).__name__}")
    parsed = []
    for index, spec in enumerate(specs):
        try:
            parsed.append(spec if isinstance(spec, PromptSpec) else resolve(spec, extra))
        except ValueError as error:
            raise type(error)(f"specs[{index}]: {error}") from error
    return parsed


def _draw(stream: Stream) -> Iterator[PromptSpec]:
    """Make all 580 draws in the benchmark's order; of equal records the caller keeps the first."""
    for a in stream.sample(_CLASSES, _CLASSES):
        yield _spec("single_object", Include(CLASS_NAMES[a]))
    for _ in range(_ROUNDS):
        yield two_object(*stream.sample(_CLASSES, 2))
    for _ in range(_ROUNDS):
        yield counting(stream.below(_CLASSES), 2 + stream.below(3))
    for _ in range(_ROUNDS):
        yield colors(stream.below(_CLASSES - 1) + 1, stream.below(len(COLORS)))
    for _ in range(_ROUNDS):
        a, b = stream.sample(_CLASSES, 2)
        yield position(a, b, stream.below(len(RELATIONS)))
    for _ in range(_ROUNDS):
        a, b = stream.sample(_CLASSES - 1, 2)
        yield color_attr(a + 1, b + 1, *stream.sample(len(COLORS), 2))


def two_object(a: int, b: int) -> PromptSpec:
    """Ask for two classes, given by class index."""
    return _spec("two_object", Include(CLASS_NAMES[a]), Include(CLASS_NAMES[b]))


def counting(a: int, count: int) -> PromptSpec:
    """Ask for exactly `count` objects of a class."""
    return _spec("counting", Include(CLASS_NAMES[a], count), exclude=(Exclude(CLASS_NAMES[a], count + 1),))


def colors(a: int, color: int) -> PromptSpec:
    """Ask for one object of a colour, given by class and colour index."""
    return _spec("colors", Include(CLASS_NAMES[a], 1, COLORS[color]))


def position(a: int, b: int, relation: int) -> PromptSpec:
    """Ask for `a` in a relation to `b`; the record names `b` first."""
    return _spec(
        "position", Include(CLASS_NAMES[b]), Include(CLASS_NAMES[a], 1, None, (Position(RELATIONS[relation], 0),))
    )


def color_attr(a: int, b: int, color_a: int, color_b: int) -> PromptSpec:
    """Ask for two objects, each with a colour."""
    return _spec("color_attr", Include(CLASS_NAMES[a], 1, COLORS[color_a]), Include(CLASS_NAMES[b], 1, COLORS[color_b]))


def _spec(tag: str, *include: Include, exclude: tuple[Exclude, ...] = ()) -> PromptSpec:
    return PromptSpec(tag, include, exclude, PromptSpec(tag, include, exclude).render())
