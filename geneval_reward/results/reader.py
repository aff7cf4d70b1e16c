"""`read_results`: a results file as columns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geneval_reward.errors import ResultsError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.columns import CutLine, Results
from geneval_reward.results.record import check_record, failures_path, load_line
from geneval_reward.results.row import FailedImage, ResultRow, RunIdentity
from geneval_reward.support.files import split_lines

_BOM = b"\xef\xbb\xbf"


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
    """What has been read of a file so far."""

    path: Path
    rows: list[ResultRow] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    cut: CutLine | None = None
    records: dict[PromptSpec, int] = field(default_factory=dict)
    """Numbers of the prompts by their record, in order of appearance. Records that differ in further keys only are one."""
    prompts: dict[str, int] = field(default_factory=dict)
    """The same numbers by the record as the file spells it."""

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
        # Detections and clauses are read again when a row is asked for; held for all rows, they would fill the memory.
        row = ResultRow.from_record(record | {"details": "{}", "clauses": [], "detections": None}, where)
        if row.metadata not in self.prompts:
            try:
                spec = PromptSpec.parse(row.metadata)
            except SpecError as error:
                raise ResultsError(f"{where}: metadata: {error}") from error
            self.prompts[row.metadata] = self.records.setdefault(spec, len(self.records))
        self.rows.append(row)
        self.places.append((number, offset))

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
        """Turn the rows into columns."""
        rows, filenames = self.rows, [row.filename for row in self.rows]
        identities: dict[RunIdentity, int] = {}
        identity_ids = [identities.setdefault(row.identity, len(identities)) for row in rows]
        credits = [{"official": float(row.correct)} if row.schema is None else row.credits for row in rows]
        names = dict.fromkeys(name for values in credits for name in values)
        nan = float("nan")
        scored = set(filenames)
        return Results(
            path=self.path,
            filenames=filenames,
            tags=np.array([row.tag for row in rows], dtype=np.str_),
            prompt_ids=np.array([self.prompts[row.metadata] for row in rows], np.int64),
            records=[spec.core.to_json() for spec in self.records],
            correct=np.array([row.correct for row in rows], np.bool_),
            reasons=[row.reason for row in rows],
            index=np.array([-1 if row.index is None else row.index for row in rows], np.int64),
            seeds=[row.seed for row in rows],
            credits={name: np.array([values.get(name, nan) for values in credits], np.float64) for name in names},
            identities=list(identities),
            identity_ids=np.array(identity_ids, np.int64),
            rewritten=np.array([row.rewritten is not None for row in rows], np.bool_),
            best_of=np.array([row.best_of or 0 for row in rows], np.int64),
            selected_by=[row.selected_by for row in rows],
            generators=list(dict.fromkeys(row.generator for row in rows if row.generator)),
            failed={name: error for name, error in self.failed.items() if name not in scored},
            cut=self.cut,
            official=any(row.schema is None for row in rows),
            line_numbers=np.array([number for number, _ in self.places], np.int64),
            offsets=np.array([offset for _, offset in self.places], np.int64),
        )


def read_failed(record: dict[str, Any], where: str) -> FailedImage:
    """Read the object of a failed image's line."""
    if not isinstance(record.get("filename"), str) or not isinstance(record.get("error"), str):
        raise ResultsError(f"{where}: expected strings filename and error, got keys {', '.join(record)[:60]}")
    return FailedImage(record["filename"], record["error"])


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        return load_line(line.decode(), where)
    except UnicodeDecodeError as error:
        raise ResultsError(f"{where}: expected UTF-8 text, got {line[:20]!r}; is this a results file?") from error
