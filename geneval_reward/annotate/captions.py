"""The caption of a sample, and the record that `geneval_*` rewards are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import FileError, GenEvalError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import resolve, suite_by_prompt
from geneval_reward.prompts.vocabulary import Vocabulary
from geneval_reward.results.entries import read_entry
from geneval_reward.results.raw_samples import RawSample
from geneval_reward.support.files import parse_json, read_lines

_NAMES: Final = ("caption", "text", "prompt")

Records = Mapping[str, PromptSpec | SpecError]


class UnscorableError(Exception):
    """Why a sample has no value; the text begins with what is at fault: `image`, `caption`, `record` or a reward's name."""


class MissingCaptionError(UnscorableError):
    """A sample has no caption, so that it may take the prompt of its record."""


def read_records(source: str | Path | Mapping[str, Any]) -> dict[str, PromptSpec | SpecError]:
    """Read the records of samples by their keys.

    Args:
        source: JSON lines with a `key` and a record (its keys, or under `metadata`); or a mapping of keys to records.

    Returns:
        For each key its spec, or the error of a record that is not valid.

    Raises:
        FileError: If a line is not a JSON object with a `key`, or a key stands in two lines.
    """
    if isinstance(source, Mapping):
        return {str(key): _try_record(record) for key, record in source.items()}
    found: dict[str, PromptSpec | SpecError] = {}
    for number, line in read_lines(source):
        where = f"{source} line {number}"
        try:
            entry = parse_json(line)
        except FileError as error:
            raise FileError(f"{where}: {error}") from error
        key = entry.pop("key", None) if isinstance(entry, dict) else None
        if not isinstance(key, str):
            raise FileError(f"{where}: expected an object with a text under 'key', got {line[:60]!r}")
        if key in found:
            raise FileError(f"{where}: expected each key once, got {key!r} again; remove one")
        found[key] = _try_record(entry)
    if not found:
        raise FileError(f"{source}: expected at least one line with a key and a record, got none")
    return found


def _try_record(record: Any) -> PromptSpec | SpecError:
    try:
        return (
            record
            if isinstance(record, PromptSpec)
            else read_entry(record).spec
            if isinstance(record, Mapping)
            else resolve(record)
        )
    except SpecError as error:
        return error


def find_caption(raw: RawSample, name: str | None) -> str:
    """Find the caption of a sample.

    Args:
        raw: The sample.
        name: The column, key of its `json`, or file beside it (by extension) that holds the caption; None for the first of the
            file `txt`, the keys `caption`, `text` and `prompt`, and the prompt of its record.

    Raises:
        MissingCaptionError: If there is none.
        UnscorableError: If it is no text.
    """
    if name is None and "txt" in raw.files:
        return _text(raw.files["txt"], "txt")
    if name is not None and name in raw.files:
        return _text(raw.files[name], name)
    try:
        entry = raw.entry()
    except FileError as error:
        raise UnscorableError(f"caption: {error}") from error
    if isinstance(entry, Mapping):
        for key in _NAMES if name is None else (name,):
            if entry.get(key) is not None:
                return _text(entry[key], key)
        record = entry.get("metadata")
        if name is None and record is not None:
            try:
                return _text(
                    resolve(record).prompt if isinstance(record, str) else record.get("prompt"), "metadata: prompt"
                )
            except (SpecError, AttributeError) as error:
                raise MissingCaptionError("caption: expected one, got none") from error
    raise MissingCaptionError(f"caption: expected one{'' if name is None else f' under {name}'}, got none")


def _text(value: Any, name: str) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise UnscorableError(f"caption: {name}: expected UTF-8 text, got {error}") from error
    if not isinstance(value, str):
        raise UnscorableError(f"caption: {name}: expected text, got {type(value).__name__}")
    if not value.strip():
        raise UnscorableError(f"caption: {name}: expected text, got an empty one")
    return value.strip()


def find_record(
    raw: RawSample, caption: str | None, records: Records | None, *, parse: bool, vocabulary: Vocabulary | None
) -> tuple[PromptSpec, str]:
    """Find the record of a sample.

    Args:
        raw: The sample.
        caption: Its caption, if it has one.
        records: Records by key, which take precedence.
        parse: Whether to read a caption that is no known prompt by `PromptSpec.from_text`.
        vocabulary: The words that the scorer knows.

    Returns:
        The record, and where it is from: `records`, `sample`, `suite` (the caption is an official prompt) or `parsed`.

    Raises:
        UnscorableError: If there is none, or it is not valid.
    """
    if records is not None and raw.key in records:
        found = records[raw.key]
        if isinstance(found, SpecError):
            raise UnscorableError(f"record: {found}")
        return found, "records"
    try:
        entry = raw.entry()
        if isinstance(entry, Mapping) and _holds_record(entry):
            return read_entry(entry).spec, "sample"
    except GenEvalError as error:
        raise UnscorableError(f"record: {error}") from error
    if caption is None:
        raise UnscorableError("record: expected one, or a caption that is a prompt of the official suite, got neither")
    known = suite_by_prompt().get(caption)
    if known is not None:
        return known, "suite"
    if not parse:
        raise UnscorableError("record: expected one beside the caption, got none; give --records FILE or --parse")
    spec = _parsed(caption, vocabulary)
    if isinstance(spec, str):
        raise UnscorableError(f"record: the caption is not understood ({spec})")
    return spec, "parsed"


def _holds_record(entry: Mapping[str, Any]) -> bool:
    record = entry.get("metadata")
    if isinstance(record, str):
        return record.lstrip().startswith("{") and '"include"' in record
    return (isinstance(record, Mapping) and "include" in record) or entry.get("include") is not None


@lru_cache(maxsize=4096)
def _parsed(caption: str, vocabulary: Vocabulary | None) -> PromptSpec | str:
    try:
        return PromptSpec.from_text(caption, vocabulary)
    except SpecError as error:
        return str(error)
