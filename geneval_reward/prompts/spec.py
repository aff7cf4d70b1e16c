"""`PromptSpec`: one GenEval record, parsed strictly and rendered back byte for byte."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from geneval_reward.errors import FileError, SpecError
from geneval_reward.prompts.messages import LONGEST_WORD, hint, shown
from geneval_reward.prompts.vocabulary import RELATIONS, Vocabulary, check_tag
from geneval_reward.prompts.wording import article, number_word, plural
from geneval_reward.support.files import parse_json

MAX_CLAUSES: Final = 64
"""Clauses of a record, `include` and `exclude` together; the official suite has at most two."""
MAX_POSITIONS: Final = 8
"""Relations of one include clause; the official suite has at most one. A record has at most `MAX_CLAUSES` of them."""
MAX_COUNT: Final = 10_000
"""Objects that one clause asks for; the official suite has at most five."""
MAX_PROMPT: Final = 8192
"""Characters of a prompt text. Generators read a few hundred tokens of it at most."""

MAX_EXTRA: Final = 16_384
"""Characters of JSON of a record's further keys."""

_RECORD_KEYS: Final = ("tag", "include", "exclude", "prompt")
_INCLUDE_KEYS: Final = ("class", "count", "color", "position")
_EXCLUDE_KEYS: Final = ("class", "count")


@dataclass(frozen=True, slots=True)
class Position:
    """Where an include clause's objects must be, relative to those of an earlier clause.

    Attributes:
        relation: One of `left of`, `right of`, `above`, `below`.
        target: Index of the earlier include clause.
    """

    relation: str
    target: int


@dataclass(frozen=True, slots=True)
class Include:
    """Objects that must be in the image: at least `count` of a class, each with the colour and in the place asked for.

    Attributes:
        class_name: One of the 80 class names, or one that the scorer's own detector knows.
        count: Required number of objects, in 1..`MAX_COUNT`.
        color: One of the ten colour names, or a word that the scorer's own verifier knows; None if it does not matter.
        positions: At most `MAX_POSITIONS` relations to earlier clauses; the official suite has at most one.
    """

    class_name: str
    count: int = 1
    color: str | None = None
    positions: tuple[Position, ...] = ()


@dataclass(frozen=True, slots=True)
class Exclude:
    """Objects that must not be in the image: there must be fewer than `count` of a class.

    Attributes:
        class_name: One of the 80 class names, or one that the scorer's own detector knows.
        count: The number of objects at which the image fails, in 1..`MAX_COUNT`.
    """

    class_name: str
    count: int


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """What one prompt asks for.

    Build it with `parse`; the constructor takes parts that are already valid.

    Attributes:
        tag: The task: one of the six GenEval tags, or a name of one's own, whose images do not count in the overall score.
            It selects the confidence threshold (`counting` has its own) and the group in which the score is averaged.
        include: What must be in the image; at least one clause.
        exclude: What must not be in the image. Both together have at most `MAX_CLAUSES` clauses.
        prompt: The text that the generator gets, at most `MAX_PROMPT` characters.
        extra: Further keys of the record, which are handed through; records that differ in them alone are equal.

    Examples:
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
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def parse(cls, record: PromptSpec | Mapping[str, Any] | str | bytes) -> PromptSpec:
        """Read one GenEval record.

        Args:
            record: A mapping with the keys `tag`, `include`, and optionally `exclude`, `prompt` and others, which are kept in
                `extra`; the same as a JSON string; or a `PromptSpec`, which is returned as it is. A missing `prompt` is rendered.
                Keys whose value is None or NaN count as missing: Arrow and pandas fill absent keys that way. Lists
                may be NumPy arrays, which is how pandas reads them from parquet files.

        Returns:
            The validated spec.

        Raises:
            SpecError: If anything in the record has another form than the benchmark's, or is beyond the bounds above; the
                message names the key. Whether a class or colour is known is for the scorer to say (`Vocabulary`).
        """
        if isinstance(record, PromptSpec):
            return record
        if isinstance(record, str | bytes):
            record = _load_json(record)
        return _parse_record(record)

    @classmethod
    def from_text(cls, text: str, vocabulary: Vocabulary | None = None) -> PromptSpec:
        """Read a sentence: the benchmark's own wording, and the same in other words where it can mean one thing only.

        A sentence of one of the six forms gets its tag, any other the tag `custom`. Numbers above one are exact: "two cups"
        excludes a third. What is named in the same words twice is one object.

        Args:
            text: Such as `seven cups`, `a red dog and a blue cup`, or `a photo of a cow to the left of a cup`.
            vocabulary: The scorer's words; None for the benchmark's.

        Returns:
            The spec; its `prompt` is the text.

        Raises:
            SpecError: If the sentence says something else; the message has what was understood of it.

        Examples:
            >>> PromptSpec.from_text("a photo of seven cups").to_record()["exclude"]
            [{'class': 'cup', 'count': 8}]
            >>> PromptSpec.from_text("a cow under a bench").tag
            'position'
        """
        # This module holds the classes that sentences are made of.
        from geneval_reward.prompts.sentences import read_sentence

        return read_sentence(text, vocabulary or Vocabulary())

    def to_record(self) -> dict[str, Any]:
        """The record as a dict with the official keys in the official order, then the further ones."""
        record: dict[str, Any] = {"tag": self.tag, "include": [_include_record(item) for item in self.include]}
        if self.exclude:
            record["exclude"] = [{"class": item.class_name, "count": item.count} for item in self.exclude]
        record["prompt"] = self.prompt
        return record | dict(self.extra)

    def to_json(self) -> str:
        """The record as one line of JSON; of an official record, byte for byte as in the benchmark's own file."""
        return json.dumps(self.to_record())

    def render(self) -> str:
        """Make the prompt text from the clauses, in the benchmark's wording.

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
    def core(self) -> PromptSpec:
        """The record without further keys, whose JSON is equal for equal records."""
        return replace(self, extra={}) if self.extra else self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the record names in `include` or `exclude`, each once, in order of appearance."""
        included = [item.class_name for item in self.include]
        return tuple(dict.fromkeys([*included, *(item.class_name for item in self.exclude)]))

    @property
    def colored_class_names(self) -> tuple[str, ...]:
        """The classes that must have a colour, each once, in order of appearance."""
        return tuple(dict.fromkeys(item.class_name for item in self.include if item.color is not None))


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


def _load_json(text: str | bytes) -> Any:
    try:
        record = parse_json(text)
    except FileError as error:
        raise SpecError(
            f"record: {error}; to look up a prompt text of the official suite use geneval_reward.prompts.resolve"
        ) from error
    if not isinstance(record, dict):
        raise SpecError(f"record: expected a JSON object, got a JSON {type(record).__name__}")
    return record


def _parse_record(record: Any) -> PromptSpec:
    if not isinstance(record, Mapping):
        raise SpecError(f"record: expected a mapping, a JSON string or a PromptSpec, got {type(record).__name__}")
    extra = _parse_extra(record)
    tag = str(check_tag(record.get("tag")))
    items = _sequence(record.get("include"), "include", MAX_CLAUSES)
    if not items:
        raise SpecError("include: expected at least one clause, got an empty list")
    include = tuple(_parse_include(item, index) for index, item in enumerate(items))
    relations = sum(len(item.positions) for item in include)
    if relations > MAX_CLAUSES:
        raise SpecError(f"include: expected at most {MAX_CLAUSES} relations, got {relations}; split the record")
    unwanted = _given(record, "exclude")
    items = [] if unwanted is None else _sequence(unwanted, "exclude", MAX_CLAUSES - len(items))
    exclude = tuple(_parse_exclude(item, index) for index, item in enumerate(items))
    prompt = _given(record, "prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise SpecError(f"prompt: expected a string, got {type(prompt).__name__}")
    if prompt is not None and not prompt.strip():
        raise SpecError("prompt: expected text, got an empty string; leave the key out to have it rendered")
    if prompt is not None and any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise SpecError(f"prompt: expected text, got half of a character in {shown(prompt)}; decode the text as UTF-8")
    if prompt is not None and len(prompt) > MAX_PROMPT:
        raise SpecError(f"prompt: expected at most {MAX_PROMPT:,} characters, got {len(prompt):,}; shorten it")
    spec = PromptSpec(tag, include, exclude, prompt or "", extra)
    return spec if prompt else PromptSpec(tag, include, exclude, spec.render(), extra)


def _parse_include(item: Any, index: int) -> Include:
    where = f"include[{index}]"
    _require_mapping(item, where)
    _refuse_unknown_keys(item, _INCLUDE_KEYS, where)
    color = _given(item, "color")
    return Include(
        _parse_word(item.get("class"), f"{where}.class", "the name of a class"),
        _parse_count(item.get("count"), f"{where}.count"),
        None if color is None else _parse_word(color, f"{where}.color", "the name of a colour"),
        _parse_positions(_given(item, "position"), index),
    )


def _parse_exclude(item: Any, index: int) -> Exclude:
    where = f"exclude[{index}]"
    _require_mapping(item, where)
    _refuse_unknown_keys(item, _EXCLUDE_KEYS, where)
    name = _parse_word(item.get("class"), f"{where}.class", "the name of a class")
    return Exclude(name, _parse_count(item.get("count"), f"{where}.count"))


def _parse_word(value: Any, where: str, what: str) -> str:
    """The name of a class or colour. Whether it is a known one is for the scorer to say."""
    if not isinstance(value, str):
        raise SpecError(f"{where}: expected {what}, got {shown(value)}")
    if not 0 < len(value) <= LONGEST_WORD or not value.isprintable() or value != value.strip():
        raise SpecError(
            f"{where}: expected {what}, of 1 to {LONGEST_WORD} printable characters without spaces around them, got "
            f"{shown(value)}"
        )
    return str(value)


def _parse_extra(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The further keys of a record, as JSON reads them back. A key that looks like one of the record's is a mistake."""
    extra = {}
    for key, value in record.items():
        if key in _RECORD_KEYS or _given(record, key) is None:
            continue
        near = hint(key, _RECORD_KEYS, cutoff=0.75)
        if not isinstance(key, str) or not 0 < len(key) <= LONGEST_WORD or near:
            own = "" if near else f", or names of your own of at most {LONGEST_WORD} characters"
            raise SpecError(f"record: expected keys of {', '.join(_RECORD_KEYS)}{own}, got {shown(key)}{near}")
        extra[key] = value.tolist() if hasattr(value, "tolist") else value
    if not extra:
        return extra
    try:
        text = json.dumps(extra, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(
            f"record: expected JSON values under {', '.join(map(shown, extra))[:200]}, got {error}"
        ) from error
    if len(text) > MAX_EXTRA:
        raise SpecError(f"record: expected at most {MAX_EXTRA:,} characters of further keys, got {len(text):,}")
    found: dict[str, Any] = json.loads(text)
    return found


def _given(item: Mapping[Any, Any], key: str) -> Any:
    """The value of an optional key; None where it is missing, None, or the NaN with which pandas fills what is missing."""
    value = item.get(key)
    return None if isinstance(value, float) and value != value else value


def _integer(value: Any) -> int | None:
    """An integer in any form that JSON, NumPy or torch give it; None for anything else, true and false included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _parse_count(value: Any, where: str) -> int:
    count = _integer(value)
    if count is None or not 1 <= count <= MAX_COUNT:
        raise SpecError(f"{where}: expected an integer in 1..{MAX_COUNT:,}, got {shown(value)}")
    return count


def _parse_positions(value: Any, index: int) -> tuple[Position, ...]:
    if value is None:
        return ()
    where = f"include[{index}].position"
    pairs = _sequence(value, where, MAX_POSITIONS)
    if pairs and isinstance(pairs[0], str):
        pairs = [pairs]
    return tuple(_parse_position(pair, index, where) for pair in pairs)


def _parse_position(pair: Any, index: int, where: str) -> Position:
    pair = pair.tolist() if hasattr(pair, "tolist") else pair
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise SpecError(f"{where}: expected [relation, index of an earlier include clause], got {shown(pair)}")
    relation, target = pair[0], _integer(pair[1])
    if not (isinstance(relation, str) and relation in RELATIONS):
        near = hint(relation, RELATIONS)
        raise SpecError(f"{where}: expected a relation of {', '.join(RELATIONS)}, got {shown(relation)}{near}")
    if target is None or not 0 <= target < index:
        earlier = f"0..{index - 1}" if index else "none: the first clause has no earlier one"
        raise SpecError(f"{where}: expected the index of an earlier include clause ({earlier}), got {shown(pair[1])}")
    return Position(relation, target)


def _sequence(value: Any, where: str, most: int) -> list[Any]:
    # NumPy arrays and torch tensors, without importing either.
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple):
        raise SpecError(f"{where}: expected a list, got {type(value).__name__}")
    if len(value) > most:
        raise SpecError(f"{where}: expected a list of at most {most}, got {len(value):,}; split the record")
    return list(value)


def _require_mapping(item: Any, where: str) -> None:
    if not isinstance(item, Mapping):
        raise SpecError(f"{where}: expected a mapping with 'class' and 'count', got {type(item).__name__}")


def _refuse_unknown_keys(item: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [key for key in item if key not in known and _given(item, key) is not None]
    if unknown:
        listed = ", ".join(map(shown, unknown[:5])) + (f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else "")
        near = hint(unknown[0], known)
        raise SpecError(f"{where}: expected keys of {', '.join(known)}, got {listed}{near}")
