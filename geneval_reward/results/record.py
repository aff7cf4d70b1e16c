"""The JSON object of one line of a results file: its keys, types and bounds, read strictly and written compactly."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from geneval_reward.errors import FileError, ResultsError, SpecError
from geneval_reward.prompts.vocabulary import TAGS, check_tag

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
OPTIONAL_KEYS: Final = ("generator", "selected_by")
"""Our keys that a row has only if they say something."""

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
    "selected_by": ((str,), "a string"),
    "generator": ((dict,), "an object"),
    "min_confidence": ((float, int, type(None)), "a number or null"),
    "clauses": ((list,), "a list of objects"),
    "detections": ((dict, type(None)), "an object or null"),
}


def _refuse_constant(name: str) -> float:
    raise FileError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise FileError(f"a number beyond the range of 64 bits: {text[:20]}")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= value < 2**64:
        raise FileError(f"an integer that does not fit 64 bits: {text[:20]}")
    return value


# Numbers are bounded here, once, so that no column, array or statistic overflows later.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer)


def load_line(line: str, where: str) -> dict[str, Any]:
    """Parse a line that is one JSON object.

    Args:
        line: The line.
        where: File and line, for messages.

    Raises:
        ResultsError: If it is something else, or holds NaN, Infinity or a number beyond 64 bits.
    """
    try:
        record = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        shown = line if len(line) <= 60 else line[:57] + "..."
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ResultsError(f"{where}: expected a JSON object, got {shown!r} ({why})") from error
    if not isinstance(record, dict):
        raise ResultsError(f"{where}: expected a JSON object, got a JSON {type(record).__name__}")
    return record


def check_record(record: Mapping[str, Any], where: str) -> list[str]:
    """Check that a record is a row of a results file.

    Args:
        record: A line's object.
        where: File and line, for messages.

    Returns:
        Keys of an official file that are not read; always empty for a file of ours.

    Raises:
        ResultsError: For a missing or unknown key, a wrong type or range, a tag that is no name or a newer schema.
    """
    problem, unknown = _read_shape(tuple(record), tuple(map(type, record.values())))
    if problem is not None:
        if problem not in record:
            raise ResultsError(f"{where}: expected the key {problem!r}, got {', '.join(record)}")
        raise ResultsError(f"{where}: {problem}: expected {_TYPES[problem][1]}, got {_shown(record[problem])}")
    if record["tag"] not in TAGS:
        try:
            check_tag(record["tag"])
        except SpecError as error:
            raise ResultsError(f"{where}: {error}") from error
    if "schema" in record:
        _check_ours(record, unknown, where)
    return list(unknown)


@lru_cache(maxsize=1000)
def _read_shape(keys: tuple[str, ...], kinds: tuple[type, ...]) -> tuple[str | None, tuple[str, ...]]:
    """Return the first key that is missing or has a wrong type, and the unknown keys; most lines have the same."""
    types = dict(zip(keys, kinds, strict=True))
    ours = "schema" in types
    names: tuple[str, ...] = OFFICIAL_KEYS + OUR_KEYS if ours else OFFICIAL_KEYS
    names += tuple(name for name in OPTIONAL_KEYS if ours and name in types)
    problem = next((name for name in names if types.get(name) not in _TYPES[name][0]), None)
    return problem, tuple(name for name in keys if name not in names)


def _check_ours(record: Mapping[str, Any], unknown: Sequence[str], where: str) -> None:
    if record["schema"] > SCHEMA:
        raise ResultsError(
            f"{where}: schema: expected {SCHEMA} or older, got {record['schema']}; update geneval-reward to read it"
        )
    if unknown:
        raise ResultsError(f"{where}: expected the keys of schema {record['schema']}, got also {', '.join(unknown)}")
    for name in ("index", "best_of"):
        if record[name] is not None and not 0 <= record[name] < 2**63:
            raise ResultsError(f"{where}: {name}: expected an integer in 0..2**63-1 or null, got {record[name]}")
    size = record["image_size"]
    if size is not None and not (
        len(size) == 2 and type(size[0]) is type(size[1]) is int and 0 < min(size) <= max(size) < 2**31
    ):
        raise ResultsError(f"{where}: image_size: expected [width, height] or null, got {_shown(size)}")
    floor = record["min_confidence"]
    if floor is not None and not 0 <= floor <= 1:
        raise ResultsError(f"{where}: min_confidence: expected a number in [0, 1] or null, got {floor}")
    rules = record["rules"]
    if rules is not None and any(isinstance(value, dict | list) for value in rules.values()):
        raise ResultsError(f"{where}: rules: expected an object of plain values, got {_shown(rules)}")
    for name, value in record["credits"].items():
        if type(value) not in (float, int):
            raise ResultsError(f"{where}: credits: {name}: expected a number, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dump_record(record: Mapping[str, Any], filename: str) -> str:
    """Write a record as a line without its newline.

    Raises:
        ResultsError: If a number is not finite; the message names `filename`.
    """
    try:
        return json.dumps(record, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ResultsError(f"{filename}: expected finite numbers to write, got NaN or infinity") from error


def failures_path(path: Path) -> Path:
    """The file of the images that failed: beside the results file, so that the official script can read that as it is."""
    return path.with_name(f"{path.stem}.failed{path.suffix}")


def index_of(filename: str) -> int | None:
    """The number of an image within its prompt, from its name: `samples/0002.png` is 2; None if the name is not a number."""
    stem = PurePosixPath(filename.replace("\\", "/")).stem
    # The limit keeps it in 64 bits.
    return int(stem) if re.fullmatch(r"0*[0-9]{1,18}", stem) else None
