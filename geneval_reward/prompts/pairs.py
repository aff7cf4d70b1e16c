"""Counterfactual pairs: a prompt and the one that asks for the opposite, which a generator that guesses cannot both get right.

The idea is MT-GenEval's (arXiv 2211.01355), whose sentences come in a masculine and a feminine form. A model that does not
read the relation is right on half of the prompts about left and right. Of the pairs it has none if both images start from the
same noise, and a quarter if they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from geneval_reward.prompts.spec import Position, PromptSpec
from geneval_reward.prompts.suite import official_suite
from geneval_reward.prompts.training import Meaning, meaning

OPPOSITE: Final[Mapping[str, str]] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
_SIDES: Final = {name: OPPOSITE[name] for name in ("left of", "right of")}


def mirrored(spec: PromptSpec) -> PromptSpec:
    """What a record asks of the mirrored image: left and right exchanged.

    Examples:
        >>> mirrored(PromptSpec.parse({"tag": "position", "include": [{"class": "cup", "count": 1},
        ...     {"class": "cow", "count": 1, "position": ["left of", 0]}]})).prompt
        'a photo of a cow right of a cup'
    """
    return _turned(spec, _SIDES)


def counterfactual(spec: PromptSpec) -> PromptSpec | None:
    """Make the record that asks for the opposite: every relation reversed, or colours handed on from object to object.

    Args:
        spec: Any record.

    Returns:
        The record with its prompt; None for a record without a relation and without two different colours.

    Examples:
        >>> record = {"tag": "color_attr", "include": [{"class": "cup", "count": 1, "color": "red"},
        ...     {"class": "cow", "count": 1, "color": "blue"}]}
        >>> counterfactual(PromptSpec.parse(record)).prompt
        'a photo of a blue cup and a red cow'
    """
    if any(item.positions for item in spec.include):
        return _turned(spec, OPPOSITE)
    colored = [index for index, item in enumerate(spec.include) if item.color is not None]
    colors = [spec.include[index].color for index in colored]
    if len(set(colors)) < 2:
        return None
    include = list(spec.include)
    for index, color in zip(colored, [*colors[1:], colors[0]], strict=True):
        include[index] = replace(include[index], color=color)
    made = _rendered(replace(spec, include=tuple(include)))
    return None if meaning(made) == meaning(spec) else made


def counterfactual_prompts(specs: Sequence[PromptSpec], *, held_out: bool = False) -> list[PromptSpec]:
    """Take the prompts that have a counterfactual, each followed by it; no pair comes twice.

    Args:
        specs: Any records.
        held_out: Whether to leave out pairs of which the second means the same as a prompt of the official suite, as training
            prompts must.
    """
    official = {meaning(spec) for spec in official_suite()} if held_out else set()
    seen: set[Meaning] = set()
    found = []
    for spec in specs:
        other = counterfactual(spec)
        if other is None or meaning(spec) in seen or meaning(other) in official:
            continue
        seen |= {meaning(spec), meaning(other)}
        found += [spec, other]
    return found


def counterfactual_pairs(specs: Sequence[PromptSpec]) -> list[tuple[int, int]]:
    """Find the pairs of records of which one asks for the opposite of the other.

    Returns:
        Pairs of indices; each record is in one pair at most.
    """
    place = {meaning(spec): index for index, spec in enumerate(specs)}
    taken: set[int] = set()
    pairs = []
    for index, spec in enumerate(specs):
        other = counterfactual(spec)
        partner = None if other is None else place.get(meaning(other))
        if partner is not None and partner != index and not {index, partner} & taken:
            taken |= {index, partner}
            pairs.append((index, partner))
    return pairs


def _turned(spec: PromptSpec, relations: Mapping[str, str]) -> PromptSpec:
    include = tuple(
        replace(
            item,
            positions=tuple(Position(relations.get(one.relation, one.relation), one.target) for one in item.positions),
        )
        for item in spec.include
    )
    return _rendered(replace(spec, include=include))


def _rendered(spec: PromptSpec) -> PromptSpec:
    return replace(spec, prompt=spec.render())
