"""One image's entry in a metadata file, tar or parquet file: its record, and what else is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final

from geneval_reward.errors import SpecError
from geneval_reward.prompts.messages import LONGEST_WORD
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import official_suite, resolve

FILENAME_KEYS: Final = ("filename", "file_name")
"""Keys of the image's name. The second is that of Hugging Face image folders."""

_RECORD_KEYS: Final = ("tag", "include", "exclude", "prompt")
_LONGEST_VALUE, _MOST_VALUES = 256, 32
_OWN_KEYS: Final = (*FILENAME_KEYS, "seed", "rewritten", "index", "metadata", "image")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of one image.

    Attributes:
        spec: What the image was asked to show.
        index: Its number among the images of its prompt, if it is given.
        seed: The seed it was generated from, if it is given.
        rewritten: The text that the generator got, if it was not the record's.
        unread: Keys that say nothing here.
    """

    spec: PromptSpec
    index: int | None = None
    seed: int | None = None
    rewritten: str | None = None
    unread: tuple[str, ...] = ()


def read_entry(entry: Any, *, match: bool = True) -> Entry:
    """Read one entry.

    The record stands under `metadata` (as an object or as JSON), or its keys `tag`, `include`, `exclude` and `prompt` are
    among those of the entry; a `prompt` alone must be one that `geneval_reward.prompts.resolve` knows. Other keys with numbers
    or short texts are kept as the record's `extra`; one that looks like a misspelled key of a record is refused.

    Where tag and clauses are those of an official record and `prompt` is another text, as in the files of BAGEL and Show-o2,
    the record is the official one, and the text counts as rewritten.

    Args:
        entry: A JSON object, or a row of a table.
        match: Whether to look for the official record; not for folders of this package, which say what the generator got.

    Raises:
        SpecError: If there is no valid record, or `index` or `seed` is not an integer of at most 64 bits.
    """
    if not isinstance(entry, Mapping):
        raise SpecError(f"expected a JSON object, got a JSON {type(entry).__name__}")
    spec = _spec(entry)
    known = replace(_official_by_meaning().get(meaning(spec), spec), extra=spec.extra) if match else spec
    text = entry.get("rewritten")
    text = text if isinstance(text, str) else spec.prompt
    unread = tuple(str(key)[:32] for key in entry if key not in (*_RECORD_KEYS, *_OWN_KEYS, *spec.extra))
    return Entry(
        known,
        _number(entry, "index", 63),
        _number(entry, "seed", 64),
        text if text != known.prompt else None,
        unread,
    )


def meaning(spec: PromptSpec) -> tuple[Any, ...]:
    """What a record asks for, whatever its text; no two official records have the same."""
    return spec.tag, spec.include, spec.exclude


@lru_cache(maxsize=1)
def _official_by_meaning() -> dict[tuple[Any, ...], PromptSpec]:
    return {meaning(spec): spec for spec in official_suite()}


def name_of(entry: Any) -> Any:
    """The image's name that an entry gives; None if it gives none."""
    if not isinstance(entry, Mapping):
        return None
    return next((entry[key] for key in FILENAME_KEYS if entry.get(key) is not None), None)


def _spec(entry: Mapping[str, Any]) -> PromptSpec:
    if entry.get("metadata") is not None:
        return resolve(entry["metadata"])
    for key, value in entry.items():
        if isinstance(key, str) and value is not None and key not in (*_RECORD_KEYS, *_OWN_KEYS):
            near = get_close_matches(key[:32], _RECORD_KEYS, n=1, cutoff=0.75)
            if near:
                raise SpecError(
                    f"record: expected keys of {', '.join(_RECORD_KEYS)}, got {key[:32]!r}; did you mean {near[0]!r}?"
                )
    record = {key: entry[key] for key in _RECORD_KEYS if entry.get(key) is not None}
    extra = _plain_values(entry)
    if set(record) == {"prompt"}:
        if not isinstance(record["prompt"], str):
            raise SpecError(f"prompt: expected a string, got {type(record['prompt']).__name__}")
        return replace(resolve(record["prompt"]), extra=extra)
    if not record:
        names = ", ".join(str(key)[:32] for key in list(entry)[:8])
        raise SpecError(f"record: expected metadata, tag and include, or prompt, got {names or 'nothing'}")
    return PromptSpec.parse(record | extra)


def _plain_values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The further keys of an entry that are worth keeping; a table may also have embeddings, pictures and long texts."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        plain = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _LONGEST_VALUE)
        if plain and isinstance(key, str) and 0 < len(key) <= LONGEST_WORD and len(found) < _MOST_VALUES:
            found[key] = value
    return {key: value for key, value in found.items() if key not in (*_RECORD_KEYS, *_OWN_KEYS) and value == value}


def _number(entry: Mapping[str, Any], key: str, bits: int) -> int | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"{key}: expected an integer >= 0, got {repr(value)[:60]}")
    if not 0 <= value < 2**bits:
        raise SpecError(f"{key}: expected an integer in 0..2**{bits}-1, got one out of range")
    return value
