"""`read_results`: a results file as columns."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from geneval_reward.errors import ResultsError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.columns import CutLine, Results
from geneval_reward.results.generator_notes import GeneratorNotes
from geneval_reward.results.record import check_record, failures_path, index_of, load_line
from geneval_reward.results.row import FailedImage, RunIdentity
from geneval_reward.support.files import split_lines

_BOM = b"\xef\xbb\xbf"

# It reads a line in a quarter of the time; files are read without it too.
orjson: Any = importlib.import_module("orjson") if importlib.util.find_spec("orjson") else None

_COLUMNS: Final = (
    "filenames", "tags", "prompt_ids", "correct", "reasons", "index", "seeds", "credits", "identity_ids", "rewritten",
    "best_of", "selected_by", "line_numbers", "offsets",
)  # fmt: skip


def read_results(path: str | Path) -> Results:
    """Read a results file of this package or of the official script.

    An unfinished last line, which a killed writer leaves, is left out with a warning and kept in `cut`. Images that failed are
    listed in `<name>.failed.jsonl` beside the file; they are kept in `failed` unless the file has a row for them.

    Args:
        path: JSON lines.

    Raises:
        ResultsError: If the file is missing or empty, or a line is not a result; the message names file and line.

    Warns:
        UserWarning: For an unfinished last line, and for keys that are not read.
    """
    path = Path(path)
    found = _Reading(path)
    try:
        if path.exists() and not path.is_file():
            raise ResultsError(f"{path}: expected a results file, got something that is no regular file")
        with path.open("rb") as file:
            # Windows editors put a byte order mark in front.
            offset = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
            file.seek(offset)
            for number, line in enumerate(file, 1):
                found.add(line, number, offset)
                offset += len(line)
    except OSError as error:
        raise ResultsError(f"{path}: expected a results file, got none ({error.strerror})") from error
    if offset == 0:
        raise ResultsError(f"{path}: expected lines of results, got an empty file")
    found.add_failures()
    if found.unread:
        warnings.warn(f"{path}: keys that are not read: {', '.join(sorted(found.unread))}", stacklevel=2)
    if found.cut is not None:
        warnings.warn(
            f"{path} line {found.cut.number}: the last line is cut off and left out ({found.cut.text!r}); "
            "score with --resume to complete the file",
            stacklevel=2,
        )
    return found.columns()


@dataclass
class _Reading:
    """What has been read of a file so far: a column of each key, without the heavy ones.

    Detections and clauses are read again when a row is asked for; held for all rows, they would fill the memory.
    """

    path: Path
    failed: dict[str, str] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    cut: CutLine | None = None
    records: dict[PromptSpec, int] = field(default_factory=dict)
    """Numbers of the prompts by their record, in order of appearance. Records that differ in further keys only are one."""
    prompts: dict[str, int] = field(default_factory=dict)
    """The same numbers by the record as the file spells it."""
    identities: dict[RunIdentity, int] = field(default_factory=dict)
    judges: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """Numbers of the identities by what a line says of its judge."""
    generators: dict[GeneratorNotes, None] = field(default_factory=dict)
    columns_of: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    official: bool = False

    def add(self, line: bytes, number: int, offset: int) -> None:
        """Read a line; `offset` is the byte at which it begins."""
        if not line.strip():
            return
        where = f"{self.path} line {number}"
        try:
            record = _parse(line, where)
            if "error" in record and "correct" not in record:
                failed = read_failed(record, where)
                self.failed[failed.filename] = failed.error
                return
            self.unread.update(check_record(record, where))
        except ResultsError:
            # What a killed writer leaves behind has no newline at its end.
            if line.endswith(b"\n"):
                raise
            self.cut = CutLine(number, offset, line[:60].decode(errors="replace"))
            return
        metadata, ours = record["metadata"], "schema" in record
        if metadata not in self.prompts:
            try:
                spec = PromptSpec.parse(metadata)
            except SpecError as error:
                raise ResultsError(f"{where}: metadata: {error}") from error
            self.prompts[metadata] = self.records.setdefault(spec, len(self.records))
        if "generator" in record:
            notes = GeneratorNotes.from_dict(record["generator"], f"{where}: generator")
            if notes:
                self.generators[notes] = None
        self.official = self.official or not ours
        index = record["index"] if ours else index_of(record["filename"])
        row = (
            record["filename"],
            record["tag"],
            self.prompts[metadata],
            record["correct"],
            record["reason"],
            -1 if index is None else index,
            record.get("seed") if ours else None,
            record["credits"] if ours else {"official": float(record["correct"])},
            self._judge(record if ours else {}),
            ours and record["rewritten"] is not None,
            (record["best_of"] or 0) if ours else 0,
            record.get("selected_by") if ours else None,
            number,
            offset,
        )
        for column, value in zip(self.columns_of.values(), row, strict=True):
            column.append(value)

    def _judge(self, record: Mapping[str, Any]) -> int:
        rules = record.get("rules")
        key = (None if rules is None else tuple(rules.items()), record.get("backend"), record.get("fingerprint"))
        if key not in self.judges:
            identity = RunIdentity.of(rules, *key[1:])
            self.judges[key] = self.identities.setdefault(identity, len(self.identities))
        return self.judges[key]

    def add_failures(self) -> None:
        """Read the file of the images that failed, if there is one."""
        path = failures_path(self.path)
        if not path.is_file():
            return
        content = path.read_bytes()
        for number, line in split_lines(content, str(path)):
            where = f"{path} line {number}"
            if not line.strip():
                continue
            try:
                failed = read_failed(load_line(line, where), where)
            except ResultsError:
                # The unfinished last line of a killed writer; its image is tried again anyway.
                if content.endswith(line.encode()):
                    return
                raise
            self.failed[failed.filename] = failed.error

    def columns(self) -> Results:
        """Turn what was read into arrays."""
        column = self.columns_of
        names = dict.fromkeys(name for values in column["credits"] for name in values)
        nan = float("nan")
        scored = set(column["filenames"])
        return Results(
            path=self.path,
            filenames=column["filenames"],
            tags=np.array(column["tags"], dtype=np.str_),
            prompt_ids=np.array(column["prompt_ids"], np.int64),
            records=[spec.core.to_json() for spec in self.records],
            correct=np.array(column["correct"], np.bool_),
            reasons=column["reasons"],
            index=np.array(column["index"], np.int64),
            seeds=column["seeds"],
            credits={
                name: np.array([values.get(name, nan) for values in column["credits"]], np.float64) for name in names
            },
            identities=list(self.identities),
            identity_ids=np.array(column["identity_ids"], np.int64),
            rewritten=np.array(column["rewritten"], np.bool_),
            best_of=np.array(column["best_of"], np.int64),
            selected_by=column["selected_by"],
            generators=list(self.generators),
            failed={name: error for name, error in self.failed.items() if name not in scored},
            cut=self.cut,
            official=self.official,
            line_numbers=np.array(column["line_numbers"], np.int64),
            offsets=np.array(column["offsets"], np.int64),
        )


def read_failed(record: dict[str, Any], where: str) -> FailedImage:
    """Read the object of a failed image's line."""
    if not isinstance(record.get("filename"), str) or not isinstance(record.get("error"), str):
        raise ResultsError(f"{where}: expected strings filename and error, got keys {', '.join(record)[:60]}")
    return FailedImage(record["filename"], record["error"])


def _parse(line: bytes, where: str) -> dict[str, Any]:
    if orjson is not None:
        try:
            record = orjson.loads(line)
        except ValueError:
            record = None  # what is wrong is said by the strict reader below
        if isinstance(record, dict) and _is_bounded(record):
            return record
    try:
        return load_line(line.decode(), where)
    except UnicodeDecodeError as error:
        raise ResultsError(f"{where}: expected UTF-8 text, got {line[:20]!r}; is this a results file?") from error


def _is_bounded(record: dict[str, Any]) -> bool:
    """Whether no number of a column can be an integer beyond 64 bits, which `orjson` reads as a float."""
    for name in ("credits", "rules"):
        values = record.get(name)
        if isinstance(values, dict) and any(
            type(value) is float and abs(value) >= 2.0**63 for value in values.values()
        ):
            return False
    return not any(type(record.get(name)) is float for name in ("seed", "index", "best_of", "schema"))
