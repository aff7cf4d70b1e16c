"""`PromptSpec`: one GenEval record, parsed strictly and rendered back byte for byte."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from geneval_reward.errors import SpecError
from geneval_reward.prompts.vocabulary import CLASS_IDS, CLASS_NAMES, COCO_ALIASES, COLORS, RELATIONS, TAGS
from geneval_reward.prompts.wording import article, number_word, plural

_RECORD_KEYS: Final = ("tag", "include", "exclude", "prompt")
_INCLUDE_KEYS: Final = ("class", "count", "color", "position")
_EXCLUDE_KEYS: Final = ("class", "count")


@dataclass(frozen=True, slots=True)
class Position:
    """A relation of an include clause's objects to those of an earlier clause.

    Attributes:
        relation: One of `left of`, `right of`, `above`, `below`.
        target: Index of the earlier include clause that the relation points to.
    """

    relation: str
    target: int


@dataclass(frozen=True, slots=True)
class Include:
    """Objects that must be there: at least `count` of a class, each of a colour, each in its place.

    Attributes:
        class_name: One of the 80 class names.
        count: Required number of objects, >= 1.
        color: One of the ten colour names, or None.
        positions: Relations to earlier clauses; the official suite has at most one.
    """

    class_name: str
    count: int = 1
    color: str | None = None
    positions: tuple[Position, ...] = ()


@dataclass(frozen=True, slots=True)
class Exclude:
    """Objects that must not be there: fewer than `count` of a class.

    Attributes:
        class_name: One of the 80 class names.
        count: The number from which on the image fails, >= 1.
    """

    class_name: str
    count: int


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """What one prompt asks for.

    Build it with `parse`; the constructor takes parts that are already valid.

    Attributes:
        tag: The task, one of the six GenEval tags. It selects the confidence threshold (`counting` has its own)
            and the group in which the score is averaged.
        include: Clauses that must hold, at least one.
        exclude: Clauses that must not hold.
        prompt: The prompt text that the generator gets.

    Example:
        >>> spec = PromptSpec.parse('{"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]}')
        >>> spec.prompt
        'a photo of a red dog'
        >>> spec.to_json()
        '{"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"}'
    """

    tag: str
    include: tuple[Include, ...]
    exclude: tuple[Exclude, ...] = ()
    prompt: str = ""

    @classmethod
    def parse(cls, record: PromptSpec | Mapping[str, Any] | str | bytes) -> PromptSpec:
        """Read one GenEval record.

        Args:
            record: A mapping with the keys `tag`, `include`, optional `exclude` and `prompt`; the same as
                a JSON string; or a `PromptSpec`, which is returned as it is. A missing `prompt` is rendered.
                Keys whose value is None count as missing (Arrow tables fill absent keys so).

        Returns:
            The validated spec.

        Raises:
            SpecError: If anything in the record is not as the benchmark defines it; the message names the key.
        """
        if isinstance(record, PromptSpec):
            return record
        if isinstance(record, str | bytes):
            record = _load_json(record)
        return _parse_record(record)

    def to_record(self) -> dict[str, Any]:
        """The record as a dict with the official keys in the official order."""
        record: dict[str, Any] = {"tag": self.tag, "include": [_include_record(item) for item in self.include]}
        if self.exclude:
            record["exclude"] = [{"class": item.class_name, "count": item.count} for item in self.exclude]
        record["prompt"] = self.prompt
        return record

    def to_json(self) -> str:
        """The record as one line of JSON, byte for byte as in the benchmark's own file."""
        return json.dumps(self.to_record())

    def render(self) -> str:
        """The prompt text in the benchmark's wording, made from the clauses alone.

        For the official suite this equals `prompt`.
        """
        pointed_at = {position.target for item in self.include for position in item.positions}
        parts = []
        for index, item in enumerate(self.include):
            if item.positions:
                places = [f"{p.relation} {_phrase(self.include[p.target])}" for p in item.positions]
                parts.append(f"{_phrase(item)} {' and '.join(places)}")
            elif index not in pointed_at:
                parts.append(_phrase(item))
        return "a photo of " + " and ".join(parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that the record names in `include` or `exclude`, each once, in order of appearance."""
        included = [item.class_name for item in self.include]
        return tuple(dict.fromkeys([*included, *(item.class_name for item in self.exclude)]))

    @property
    def colored_class_names(self) -> tuple[str, ...]:
        """Classes of which a colour is asked, each once, in order of appearance."""
        return tuple(dict.fromkeys(item.class_name for item in self.include if item.color is not None))


def class_id(name: str, where: str = "class") -> int:
    """Index of a class name in `CLASS_NAMES`.

    Raises:
        SpecError: If the name is not one of the 80; the message gives the nearest known name.
    """
    index = CLASS_IDS.get(name) if isinstance(name, str) else None
    if index is None:
        raise SpecError(
            f"{where}: expected one of the 80 GenEval class names, got {name!r}{_hint(name, CLASS_NAMES, COCO_ALIASES)}"
        )
    return index


def _hint(word: object, known: Sequence[str], aliases: Mapping[str, str] | None = None) -> str:
    if not isinstance(word, str):
        return f"; choose from {', '.join(known)}" if len(known) <= 10 else ""
    if aliases and word.lower() in aliases:
        return f"; GenEval calls it {aliases[word.lower()]!r}"
    near = get_close_matches(word.lower(), known, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; choose from {', '.join(known)}" if len(known) <= 10 else "; see geneval_reward.prompts.CLASS_NAMES"


def _phrase(item: Include) -> str:
    noun = item.class_name if item.color is None else f"{item.color} {item.class_name}"
    if item.count == 1:
        return f"{article(noun)} {noun}"
    return f"{number_word(item.count)} {plural(noun)}"


def _include_record(item: Include) -> dict[str, Any]:
    record: dict[str, Any] = {"class": item.class_name, "count": item.count}
    if item.color is not None:
        record["color"] = item.color
    pairs = [[position.relation, position.target] for position in item.positions]
    if len(pairs) == 1:
        record["position"] = pairs[0]
    elif pairs:
        record["position"] = pairs
    return record


def _load_json(text: str | bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        shown = text[:60]
        raise SpecError(
            f"record: expected a JSON object, got {shown!r} ({error}); "
            "to look up a prompt text of the official suite use geneval_reward.prompts.resolve"
        ) from error
    if not isinstance(record, dict):
        raise SpecError(f"record: expected a JSON object, got a JSON {type(record).__name__}")
    return record


def _parse_record(record: Any) -> PromptSpec:
    if not isinstance(record, Mapping):
        raise SpecError(f"record: expected a mapping, a JSON string or a PromptSpec, got {type(record).__name__}")
    _refuse_unknown_keys(record, _RECORD_KEYS, "record")
    tag = record.get("tag")
    if tag not in TAGS:
        raise SpecError(f"tag: expected one of {', '.join(TAGS)}, got {tag!r}{_hint(tag, TAGS)}")
    items = _sequence(record.get("include"), "include")
    if not items:
        raise SpecError("include: expected at least one clause, got an empty list")
    include = tuple(_parse_include(item, index) for index, item in enumerate(items))
    unwanted = record.get("exclude")
    items = [] if unwanted is None else _sequence(unwanted, "exclude")
    exclude = tuple(_parse_exclude(item, index) for index, item in enumerate(items))
    prompt = record.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise SpecError(f"prompt: expected a string, got {type(prompt).__name__}")
    if prompt is not None and not prompt.strip():
        raise SpecError("prompt: expected text, got an empty string; leave the key out to have it rendered")
    spec = PromptSpec(tag, include, exclude, prompt or "")
    return spec if prompt else PromptSpec(tag, include, exclude, spec.render())


def _parse_include(item: Any, index: int) -> Include:
    where = f"include[{index}]"
    _require_mapping(item, where)
    _refuse_unknown_keys(item, _INCLUDE_KEYS, where)
    class_id(item.get("class"), f"{where}.class")
    color = item.get("color")
    if color is not None and color not in COLORS:
        raise SpecError(f"{where}.color: expected one of {', '.join(COLORS)}, got {color!r}{_hint(color, COLORS)}")
    return Include(
        item["class"],
        _parse_count(item.get("count"), f"{where}.count"),
        color,
        _parse_positions(item.get("position"), index),
    )


def _parse_exclude(item: Any, index: int) -> Exclude:
    where = f"exclude[{index}]"
    _require_mapping(item, where)
    _refuse_unknown_keys(item, _EXCLUDE_KEYS, where)
    class_id(item.get("class"), f"{where}.class")
    return Exclude(item["class"], _parse_count(item.get("count"), f"{where}.count"))


def _parse_count(value: Any, where: str) -> int:
    if not isinstance(value, bool):
        try:
            count = operator.index(value)
        except TypeError:
            pass
        else:
            if count >= 1:
                return count
    raise SpecError(f"{where}: expected an integer >= 1, got {value!r}")


def _parse_positions(value: Any, index: int) -> tuple[Position, ...]:
    if value is None:
        return ()
    where = f"include[{index}].position"
    pairs = _sequence(value, where)
    if pairs and isinstance(pairs[0], str):
        pairs = [pairs]
    return tuple(_parse_position(pair, index, where) for pair in pairs)


def _parse_position(pair: Any, index: int, where: str) -> Position:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise SpecError(f"{where}: expected [relation, index of an earlier include clause], got {pair!r}")
    relation, target = pair
    if relation not in RELATIONS:
        raise SpecError(
            f"{where}: expected a relation of {', '.join(RELATIONS)}, got {relation!r}{_hint(relation, RELATIONS)}"
        )
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < index:
        earlier = f"0..{index - 1}" if index else "none: the first clause has no earlier one"
        raise SpecError(f"{where}: expected the index of an earlier include clause ({earlier}), got {target!r}")
    return Position(relation, target)


def _sequence(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise SpecError(f"{where}: expected a list, got {type(value).__name__}")
    return list(value)


def _require_mapping(item: Any, where: str) -> None:
    if not isinstance(item, Mapping):
        raise SpecError(f"{where}: expected a mapping with 'class' and 'count', got {type(item).__name__}")


def _refuse_unknown_keys(item: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [key for key, value in item.items() if key not in known and value is not None]
    if unknown:
        raise SpecError(f"{where}: expected keys of {', '.join(known)}, got {', '.join(map(repr, unknown))}")
