"""The JSON object of a line: its keys and types, read strictly and written compactly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.prompts.vocabulary import TAGS

SCHEMA: Final = 1
"""Version of our keys."""

OFFICIAL_KEYS: Final = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")
OUR_KEYS: Final = (
    "index",
    "seed",
    "credits",
    "image_size",
    "rules",
    "backend",
    "fingerprint",
    "schema",
    "rewritten",
    "best_of",
    "min_confidence",
    "clauses",
    "detections",
)
FIRST_HEAVY_KEY: Final = "clauses"

_TYPES: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "filename": ((str,), "a string"),
    "tag": ((str,), "a string"),
    "prompt": ((str,), "a string"),
    "correct": ((bool,), "true or false"),
    "reason": ((str,), "a string"),
    "metadata": ((str,), "a string that holds the record as JSON"),
    "details": ((str,), "a string that holds JSON"),
    "index": ((int, type(None)), "an integer or null"),
    "seed": ((int, type(None)), "an integer or null"),
    "credits": ((dict,), "an object of numbers"),
    "image_size": ((list, type(None)), "[width, height] or null"),
    "rules": ((dict, type(None)), "an object or null"),
    "backend": ((str, type(None)), "a string or null"),
    "fingerprint": ((str, type(None)), "a string or null"),
    "schema": ((int,), "an integer"),
    "rewritten": ((str, type(None)), "a string or null"),
    "best_of": ((int, type(None)), "an integer or null"),
    "min_confidence": ((float, int, type(None)), "a number or null"),
    "clauses": ((list,), "a list of objects"),
    "detections": ((dict, type(None)), "an object or null"),
}


_NUMBERS: Final = frozenset((float, int))
_CHECKED: Final[set[tuple[Any, ...]]] = set()


def _refuse_constant(name: str) -> float:
    raise UsageError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def scan_object(text: str) -> dict[str, Any]:
    """The object that a text without spaces around it holds; NaN and Infinity are refused.

    Raises:
        ValueError: If it is not exactly one JSON object.
    """
    # Without `decode`'s search for space around the value, which our own lines do not have.
    record, end = _DECODER.raw_decode(text)
    if end != len(text) or type(record) is not dict:
        raise UsageError(f"expected one JSON object, got something else or more, up to character {end}")
    return record


def load_line(line: str, where: str) -> dict[str, Any]:
    """A line's JSON object; NaN and Infinity are refused."""
    try:
        record = _DECODER.decode(line)
    except ValueError as error:
        shown = line if len(line) <= 60 else line[:57] + "..."
        raise ResultsError(f"{where}: expected a JSON object, got {shown!r} ({error})") from error
    if not isinstance(record, dict):
        raise ResultsError(f"{where}: expected a JSON object, got a JSON {type(record).__name__}")
    return record


def check_record(record: Mapping[str, Any], where: str, *, light: bool = False) -> list[str]:
    """Refuse a record that is not a row.

    Args:
        record: A line's object.
        where: File and line, for messages.
        light: Whether the heavy keys were left out of `record`.

    Returns:
        Keys that an official file has no place for and that are not read; always empty for a file of ours.

    Raises:
        ResultsError: For a missing or unknown key, a wrong type, an unknown tag or a newer schema.
    """
    ours = "schema" in record
    # Lines of one file look alike: what was checked once for the same keys and types need not be checked again.
    shape = (light, tuple(record), tuple(map(type, record.values())))
    if shape not in _CHECKED:
        _check_shape(record, where, _names(ours=ours, light=light))
        if len(_CHECKED) < 1000:
            _CHECKED.add(shape)
    if record["tag"] not in TAGS:
        raise ResultsError(f"{where}: tag: expected one of {', '.join(TAGS)}, got {record['tag']!r}")
    if not ours:
        return [] if len(record) == len(OFFICIAL_KEYS) else [name for name in record if name not in OFFICIAL_KEYS]
    if record["schema"] > SCHEMA:
        raise ResultsError(
            f"{where}: schema: expected {SCHEMA} or older, got {record['schema']}; update geneval-reward to read it"
        )
    if not _NUMBERS.issuperset(map(type, record["credits"].values())):
        name, value = next((name, value) for name, value in record["credits"].items() if type(value) not in _NUMBERS)
        raise ResultsError(f"{where}: credits: {name}: expected a number, got {value!r}")
    return []


def _names(*, ours: bool, light: bool) -> tuple[str, ...]:
    if not ours:
        return OFFICIAL_KEYS
    return OFFICIAL_KEYS + (OUR_KEYS[: OUR_KEYS.index(FIRST_HEAVY_KEY)] if light else OUR_KEYS)


def _check_shape(record: Mapping[str, Any], where: str, names: tuple[str, ...]) -> None:
    for name in names:
        if name not in record:
            raise ResultsError(f"{where}: expected the key {name!r}, got {', '.join(record)}")
        kinds, meaning = _TYPES[name]
        if type(record[name]) not in kinds:
            raise ResultsError(f"{where}: {name}: expected {meaning}, got {record[name]!r}")
    if "schema" in record and len(record) > len(names):
        unknown = [name for name in record if name not in names]
        raise ResultsError(f"{where}: expected the keys of schema {record['schema']}, got also {', '.join(unknown)}")


def dump_record(record: Mapping[str, Any], filename: str) -> str:
    """A line without its newline; numbers that are not finite are refused, naming `filename`."""
    try:
        return json.dumps(record, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ResultsError(f"{filename}: expected finite numbers to write, got NaN or infinity") from error


def failures_path(path: Path) -> Path:
    """Where the failed images of a results file stand: beside it, so that the official script reads the file as it is."""
    return path.with_name(f"{path.stem}.failed{path.suffix}")


def index_of(filename: str) -> int | None:
    """The number of an image within its prompt, from its name: `samples/0002.png` is 2; None if the name is not a number."""
    stem = PurePosixPath(filename.replace("\\", "/")).stem
    # The limit keeps it in 64 bits.
    return int(stem) if re.fullmatch(r"0*[0-9]{1,18}", stem) else None
