"""Training prompts: drawn like the official suite, and never one whose meaning is in it.

The default mix of tasks is that of the public Flow-GRPO training set (position 7 : counting 5 : color_attr 3 : colors 1 :
two_object 1 : single_object 0). That set leaves out the exact texts of the test prompts; this module leaves out their meanings.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from geneval_reward.errors import UsageError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.stream import Stream
from geneval_reward.prompts.suite import color_attr, colors, counting, official_suite, position, two_object
from geneval_reward.prompts.vocabulary import CLASS_NAMES, COLORS, RELATIONS, TAGS

DEFAULT_MIX: Final[Mapping[str, int]] = MappingProxyType(
    {"position": 7, "counting": 5, "color_attr": 3, "colors": 1, "two_object": 1, "single_object": 0}
)

# "A left of B" means the same as "B right of A", so one relation of each pair stands for both.
_MIRRORED: Final = {"right of": "left of", "below": "above"}

_CLASSES: Final = len(CLASS_NAMES)
_COUNTS: Final = (2, 3, 4)

# The number of meanings of each task: unordered pairs of classes, classes times counts, coloured classes (all but person), ...
_CAPACITY: Final = {
    "single_object": _CLASSES,
    "two_object": _CLASSES * (_CLASSES - 1) // 2,
    "counting": _CLASSES * len(_COUNTS),
    "colors": (_CLASSES - 1) * len(COLORS),
    "position": _CLASSES * (_CLASSES - 1) * len(RELATIONS) // 2,
    "color_attr": (_CLASSES - 1) * (_CLASSES - 2) // 2 * len(COLORS) * (len(COLORS) - 1),
}


class Meaning(NamedTuple):
    """What a record asks for, whatever order it says it in; made by `meaning`.

    Attributes:
        objects: `(class, count, colour)` of each include clause, numbered where several are alike.
        places: `(relation, object, object)`, with the relations `left of` and `above` only.
        excluded: `(class, count)` of each exclude clause.
    """

    objects: frozenset[tuple[tuple[str, int, str | None], int]]
    places: frozenset[tuple[str, Hashable, Hashable]]
    excluded: frozenset[tuple[str, int]]


def meaning(spec: PromptSpec) -> Meaning:
    """Reduce a record to what it asks for.

    Two objects mean the same in either order, and "A left of B" means the same as "B right of A". Where several clauses ask
    for the same object, they are told apart by their places, not by their order.

    Args:
        spec: Any record.

    Returns:
        A key that is equal for records of equal meaning.
    """
    names = [(item.class_name, item.count, item.color) for item in spec.include]
    links = []
    for index, item in enumerate(spec.include):
        for place in item.positions:
            mirrored = _MIRRORED.get(place.relation)
            link = (place.relation, index, place.target)
            links.append(link if mirrored is None else (mirrored, place.target, index))
    labels = [(name, number) for name, number in zip(names, _numbers(names, links), strict=True)]
    places = frozenset((relation, labels[a], labels[b]) for relation, a, b in links)
    excluded = frozenset((item.class_name, item.count) for item in spec.exclude)
    return Meaning(frozenset(labels), places, excluded)


def _numbers(names: Sequence[tuple[str, int, str | None]], links: Sequence[tuple[str, int, int]]) -> Sequence[int]:
    """A number for each of several equal names that depends on its links alone: 0 for a name that comes once.

    Objects are split by what they are linked to until nothing changes (colour refinement, Weisfeiler and Leman 1968). Objects
    that are still alike are exchangeable, so one of them is singled out and the splitting goes on.
    """
    if len(set(names)) == len(names):
        return [0] * len(names)
    keys: list[Any] = [(name, count, color or "") for name, count, color in names]
    colors = _ranks(keys)
    while True:
        while True:
            seen = [
                (
                    colors[i],
                    sorted((relation, colors[b]) for relation, a, b in links if a == i),
                    sorted((relation, colors[a]) for relation, a, b in links if b == i),
                )
                for i in range(len(names))
            ]
            refined = _ranks(seen)
            if refined == colors:
                break
            colors = refined
        tied = [color for color in colors if colors.count(color) > 1]
        if not tied:
            return [
                sum(keys[j] == keys[i] and colors[j] < colors[i] for j in range(len(names))) for i in range(len(names))
            ]
        chosen = colors.index(min(tied))
        colors = _ranks([(color, i != chosen) for i, color in enumerate(colors)])


def _ranks(keys: Sequence[Any]) -> list[int]:
    order: list[Any] = []
    for key in sorted(keys):
        if not order or key != order[-1]:
            order.append(key)
    return [order.index(key) for key in keys]


def iter_training_prompts(
    seed: int = 0,
    *,
    mix: Mapping[str, int] = DEFAULT_MIX,
    unique: bool = False,
    exclude: Iterable[PromptSpec] | None = None,
) -> Iterator[PromptSpec]:
    """Draw training prompts without end, or with `unique=True` until every meaning has been drawn.

    Args:
        seed: Seed of the stream; equal seeds give equal prompts on every machine and with every version of NumPy.
        mix: Integer weight >= 0 per task; tasks that are not named have weight 0.
        unique: Whether each meaning is drawn at most once. A task that has run out hands its share to the others.
        exclude: Records whose meaning must not be drawn; None for the official suite, an empty iterable for none.

    Yields:
        Specs with prompt texts in the benchmark's wording.

    Raises:
        UsageError: For an unknown task, a weight that is not an integer >= 0, or a task with a weight whose every meaning is
            excluded (such as single_object, since the official suite has all 80 of them).
    """
    weights = _check_mix(mix)
    seen = {meaning(spec) for spec in (official_suite() if exclude is None else exclude)}
    left = {tag: _CAPACITY[tag] - _count_excluded(tag, seen) for tag in weights}
    for tag, weight in weights.items():
        if weight and left[tag] <= 0:
            raise UsageError(f"mix: expected weight 0 for {tag}, got {weight}; every {tag} prompt is excluded already")
    stream = Stream(seed)
    tags = [tag for tag in TAGS if weights.get(tag)]
    while tags:
        tag = tags[stream.weighted([weights[name] for name in tags])]
        spec = _draw_new(tag, stream, seen)
        if unique:
            seen.add(meaning(spec))
            left[tag] -= 1
            if not left[tag]:
                tags.remove(tag)
        yield spec


def training_prompts(
    n: int,
    seed: int = 0,
    *,
    mix: Mapping[str, int] = DEFAULT_MIX,
    unique: bool = False,
    exclude: Iterable[PromptSpec] | None = None,
) -> list[PromptSpec]:
    """Draw `n` prompts from `iter_training_prompts`. A longer list begins with the shorter one of the same seed.

    Args:
        n: Number of prompts, >= 0.
        seed: Seed of the stream.
        mix: Integer weight per task.
        unique: Whether each meaning is drawn at most once.
        exclude: Records whose meaning must not be drawn; None for the official suite.

    Raises:
        UsageError: If `n` is negative or more than the number of meanings there are, or the mix is not valid.

    Examples:
        >>> [spec.prompt for spec in training_prompts(2, seed=1)]
        ['a photo of a wine glass left of a dining table', 'a photo of four tv remotes']
    """
    if n < 0:
        raise UsageError(f"n: expected an integer >= 0, got {n}")
    prompts = list(islice(iter_training_prompts(seed, mix=mix, unique=unique, exclude=exclude), n))
    if len(prompts) < n:
        raise UsageError(f"n: expected at most {len(prompts)} prompts of different meaning with this mix, got {n}")
    return prompts


def _draw_new(tag: str, stream: Stream, seen: set[Meaning]) -> PromptSpec:
    while True:
        spec = _draw(tag, stream)
        if meaning(spec) not in seen:
            return spec


def _draw(tag: str, stream: Stream) -> PromptSpec:
    match tag:
        case "single_object":
            return PromptSpec.parse(
                {"tag": tag, "include": [{"class": CLASS_NAMES[stream.below(_CLASSES)], "count": 1}]}
            )
        case "two_object":
            return two_object(*stream.sample(_CLASSES, 2))
        case "counting":
            return counting(stream.below(_CLASSES), _COUNTS[stream.below(len(_COUNTS))])
        case "colors":
            return colors(stream.below(_CLASSES - 1) + 1, stream.below(len(COLORS)))
        case "position":
            a, b = stream.sample(_CLASSES, 2)
            return position(a, b, stream.below(len(RELATIONS)))
        case _:
            a, b = stream.sample(_CLASSES - 1, 2)
            return color_attr(a + 1, b + 1, *stream.sample(len(COLORS), 2))


def _check_mix(mix: Mapping[str, int]) -> dict[str, int]:
    for tag, weight in mix.items():
        if tag not in TAGS:
            raise UsageError(f"mix: expected tasks of {', '.join(TAGS)}, got {tag!r}")
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise UsageError(f"mix: expected an integer weight >= 0 for {tag}, got {weight!r}")
    if not any(mix.values()):
        raise UsageError("mix: expected at least one task with a weight above 0, got none")
    return dict(mix)


def _count_excluded(tag: str, seen: set[Meaning]) -> int:
    return sum(_task_of(known) == tag for known in seen)


def _task_of(known: Meaning) -> str | None:
    """The task that could draw a meaning, or None if no task does."""
    names = [name for name, _ in known.objects]
    classes = {class_name for class_name, _, _ in names}
    shades = {color for _, _, color in names}
    single = all(count == 1 for _, count, _ in names) and not known.excluded
    if len(names) == 1 and not known.places:
        ((class_name, count, color),) = names
        if known.excluded == {(class_name, count + 1)} and count in _COUNTS and color is None:
            return "counting"
        if single:
            return "single_object" if color is None else "colors" if class_name != "person" else None
    elif len(classes) == len(names) == 2 and single:
        if shades == {None}:
            return ("two_object", "position")[len(known.places)] if len(known.places) < 2 else None
        if len(shades - {None}) == 2 and not known.places and "person" not in classes:
            return "color_attr"
    return None
