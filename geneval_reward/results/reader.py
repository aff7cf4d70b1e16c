"""`read_results`: a results file as columns. The heavy parts of a line are parsed only when its row is asked for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from geneval_reward.errors import ResultsError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.columns import CutLine, Results
from geneval_reward.results.record import FIRST_HEAVY_KEY, check_record, failures_path, index_of, load_line, scan_object
from geneval_reward.results.row import FailedImage, RunIdentity
from geneval_reward.support.files import split_lines

_HEAVY = f',"{FIRST_HEAVY_KEY}":'.encode()
_RUN = b',"rules":'
_PROMPT = b',"metadata":'
_AFTER_PROMPT = b',"details":'
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
    columns = _Columns(path)
    try:
        if path.exists() and not path.is_file():
            raise ResultsError(f"{path}: expected a results file, got something that is no regular file")
        with path.open("rb") as file:
            # Windows editors put a byte order mark in front.
            offset = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
            file.seek(offset)
            for number, line in enumerate(file, 1):
                columns.add(line, number, offset)
                offset += len(line)
    except OSError as error:
        raise ResultsError(f"{path}: expected a results file, got none ({error.strerror})") from error
    if offset == 0:
        raise ResultsError(f"{path}: expected lines of results, got an empty file")
    columns.add_failures()
    if columns.unread:
        warnings.warn(f"{path}: keys that are not read: {', '.join(sorted(columns.unread))}", stacklevel=2)
    results = columns.finish()
    if results.cut is not None:
        warnings.warn(
            f"{path} line {results.cut.number}: the last line is cut off and left out ({results.cut.text!r}); "
            "score with --resume to complete the file",
            stacklevel=2,
        )
    return results


@dataclass
class _Columns:
    path: Path
    filenames: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    records: list[str] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)
    credits: list[tuple[float, ...]] = field(default_factory=list)
    credit_names: tuple[str, ...] = ()
    identities: list[RunIdentity] = field(default_factory=list)
    identity_ids: list[int] = field(default_factory=list)
    rewritten: list[bool] = field(default_factory=list)
    best_of: list[int] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    cut: CutLine | None = None
    official: bool = False
    numbers: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    _prompts: dict[str, int] = field(default_factory=dict)
    _judges: dict[Any, int] = field(default_factory=dict)
    _last: tuple[Any, tuple[Any, Any], int] | None = None

    def add(self, line: bytes, number: int, offset: int) -> None:
        if not line.strip():
            return
        where = f"{self.path} line {number}"
        try:
            record, light = _parse(line, where)
            if "error" in record and "correct" not in record:
                failed = read_failed(record, where)
                self.failed[failed.filename] = failed.error
                return
            self.unread.update(check_record(record, where, light=light))
        except ResultsError:
            # What a killed writer leaves behind has no newline at its end.
            if line.endswith(b"\n"):
                raise
            self.cut = CutLine(number, offset, line[:60].decode(errors="replace"))
            return
        self._append(record, number, offset)

    def add_failures(self) -> None:
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

    def _append(self, record: dict[str, Any], number: int, offset: int) -> None:
        ours = "schema" in record
        self.filenames.append(record["filename"])
        self.tags.append(record["tag"])
        self.correct.append(record["correct"])
        self.reasons.append(record["reason"])
        self.numbers.append(number)
        self.offsets.append(offset)
        metadata = record["metadata"]
        prompt_id = self._prompts.get(metadata)
        if prompt_id is None:
            prompt_id = self._prompts[metadata] = self._new_prompt(metadata, number)
        self.prompt_ids.append(prompt_id)
        index = record["index"] if ours else index_of(record["filename"])
        self.index.append(-1 if index is None else index)
        self.seeds.append(record["seed"] if ours else None)
        self._add_credits(record["credits"] if ours else {"official": float(record["correct"])})
        self.rewritten.append(ours and record["rewritten"] is not None)
        self.best_of.append((record["best_of"] or 0) if ours else 0)
        self.official |= not ours
        self.identity_ids.append(self._judge(record, ours=ours))

    def _judge(self, record: dict[str, Any], *, ours: bool) -> int:
        rules = record["rules"] if ours else None
        said = (record.get("backend"), record.get("fingerprint"))
        # The lines of a run share the object that was parsed once, so its fields are looked at only once.
        if self._last is not None and rules is self._last[0] and said == self._last[1]:
            return self._last[2]
        judge = (None if rules is None else tuple(rules.items()), *said)
        number = self._judges.get(judge)
        if number is None:
            identity = RunIdentity.of(rules, *said) if ours else RunIdentity()
            if identity not in self.identities:
                self.identities.append(identity)
            number = self._judges[judge] = self.identities.index(identity)
        self._last = (rules, said, number) if ours else None
        return number

    def _add_credits(self, credits: dict[str, float]) -> None:
        names = tuple(credits)
        if names != self.credit_names:
            more = tuple(name for name in names if name not in self.credit_names)
            nan = float("nan")
            self.credits = [row + (nan,) * len(more) for row in self.credits] if more else self.credits
            self.credit_names += more
            self.credits.append(tuple(credits.get(name, nan) for name in self.credit_names))
        else:
            self.credits.append(tuple(credits.values()))

    def _new_prompt(self, metadata: str, number: int) -> int:
        try:
            record = PromptSpec.parse(metadata).to_json()
        except SpecError as error:
            raise ResultsError(f"{self.path} line {number}: metadata: {error}") from error
        known = self._prompts.get(record)
        if known is None:
            known = self._prompts[record] = len(self.records)
            self.records.append(record)
        return known

    def finish(self) -> Results:
        scored = set(self.filenames)
        table = np.array(self.credits, np.float64).reshape(len(self.filenames), len(self.credit_names))
        return Results(
            path=self.path,
            filenames=self.filenames,
            tags=np.array(self.tags, dtype=np.str_),
            prompt_ids=np.array(self.prompt_ids, np.int64),
            records=self.records,
            correct=np.array(self.correct, np.bool_),
            reasons=self.reasons,
            index=np.array(self.index, np.int64),
            seeds=self.seeds,
            credits={name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(self.credit_names)},
            identities=self.identities,
            identity_ids=np.array(self.identity_ids, np.int64),
            rewritten=np.array(self.rewritten, np.bool_),
            best_of=np.array(self.best_of, np.int64),
            failed={name: error for name, error in self.failed.items() if name not in scored},
            cut=self.cut,
            official=self.official,
            line_numbers=np.array(self.numbers, np.int64),
            offsets=np.array(self.offsets, np.int64),
        )


def read_failed(record: dict[str, Any], where: str) -> FailedImage:
    """Read the object of a failed image's line."""
    if not isinstance(record.get("filename"), str) or not isinstance(record.get("error"), str):
        raise ResultsError(f"{where}: expected strings filename and error, got keys {', '.join(record)[:60]}")
    return FailedImage(record["filename"], record["error"])


def _parse(line: bytes, where: str) -> tuple[dict[str, Any], bool]:
    """Parse a line's object; also returns whether its heavy keys were left out.

    A quote inside a JSON string is escaped, so the first `,"clauses":` is a key. If what stands before it is an object once
    it is closed, that key is a top-level one. The rest of the line is only checked for being whole, and for not containing
    the beginning of another line.

    The record of the prompt, and the rules and all that follows them, are the same in many lines and are parsed once. For
    this a line is split at those keys, and each part must be an object of its own.
    """
    cut = line.find(_HEAVY)
    if cut > 0 and _whole(line, cut):
        run = line.find(_RUN, 0, cut)
        end = run if run > 0 else cut
        prompt = line.find(_PROMPT, 0, end)
        after = line.find(_AFTER_PROMPT, prompt, end) if prompt > 0 else -1
        try:
            if after > 0:
                record = scan_object(line[:prompt].decode() + "}")
                record.update(_load_part(line[prompt:after]))
                record.update(scan_object("{" + line[after + 1 : end].decode() + "}"))
            else:
                record = scan_object(line[:end].decode() + "}")
            if run > 0:
                record.update(_load_part(line[run:cut]))
            return record, True
        except ValueError:
            pass  # it is parsed as a whole below, for a message about the whole line
    try:
        return load_line(line.decode(), where), False
    except UnicodeDecodeError as error:
        raise ResultsError(f"{where}: expected UTF-8 text, got {line[:20]!r}; is this a results file?") from error


def _whole(line: bytes, start: int) -> bool:
    return (
        line.endswith((b"}\n", b"}"))
        and line.count(b"{", start) + 1 == line.count(b"}", start)
        and line.count(b"[", start) == line.count(b"]", start)
        and line.find(b'"filename"', start) < 0
    )


@lru_cache(maxsize=4096)
def _load_part(text: bytes) -> dict[str, Any]:
    """Parse a part of a line that begins with the comma before its first key."""
    return scan_object("{" + text[1:].decode() + "}")
