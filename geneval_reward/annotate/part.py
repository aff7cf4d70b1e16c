"""Annotate one part of a data set: read its samples, score what they lack, and store rows as it goes."""

from __future__ import annotations

import glob
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from geneval_reward.annotate.captions import (
    MissingCaptionError,
    Records,
    UnscorableError,
    find_caption,
    find_record,
    read_records,
)
from geneval_reward.annotate.rewards import RewardSet, RewardSpec, Row, is_credit
from geneval_reward.annotate.sources import FolderPiece, Part, digest_now
from geneval_reward.annotate.table import ShardState, StoredTable, TableInfo, make_table, write_table
from geneval_reward.errors import FileError, ImageError, ResultsError
from geneval_reward.results.raw_samples import RawSample
from geneval_reward.results.shards import Shard
from geneval_reward.support.imports import require
from geneval_reward.support.read_ahead import read_ahead
from geneval_reward.vision.images import load_image

_ROWS: Final = 256  # samples per stored piece of a part
_SECONDS: Final = 30.0  # or as many seconds of work
_ENOUGH: Final = 16  # samples of a part that cannot all have changed by chance

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Setup:
    """How a worker annotates.

    Attributes:
        rewards: The rewards that are asked for.
        scorer: What judges, as `RewardSet` takes it.
        options: Options of the scorer.
        records: Records by key, or the file that holds them.
        parse: Whether captions are read as sentences.
        caption_name: Where captions are; None for the usual places.
        known: What the table was made with so far.
        replace: Whether a part may be another one than the table's of that name.
    """

    rewards: tuple[RewardSpec, ...]
    scorer: Any = "lite"
    options: Mapping[str, Any] = field(default_factory=dict)
    records: str | Path | Mapping[str, Any] | None = None
    parse: bool = False
    caption_name: str | None = None
    known: TableInfo = field(default_factory=TableInfo)
    replace: bool = False


@dataclass(frozen=True)
class Job:
    """One part that is to be annotated.

    Attributes:
        part: The part.
        path: The parquet file for its rows; its unfinished pieces stand beside it.
        table: The table of earlier runs, if there is one.
    """

    part: Part
    path: Path
    table: Path | None = None


@dataclass(frozen=True)
class PartReport:
    """What annotating a part gave.

    Attributes:
        label: The part.
        rows: Number of its samples.
        scored: Number of those of which something was scored, and not only taken over.
        changed: Number of samples that are not what they were when they were scored.
        gone: Number of samples that the table has and the part has no longer.
        problem: What is wrong with the part as a whole.
    """

    label: str
    rows: int
    scored: int
    changed: int
    gone: int
    problem: str | None = None


class Annotator:
    """Annotates parts in this process.

    Args:
        setup: How.

    Raises:
        ResultsError: If the table was made with another judge, reward or caption.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.rewards = RewardSet(setup.rewards, setup.scorer, setup.options)
        self.records: Records | None = None if setup.records is None else read_records(setup.records)
        self._vocabulary = getattr(self.rewards.scorer, "vocabulary", None)
        self.info = self._merged(setup.known)

    def annotate(self, job: Job, tick: Tick | None = None) -> PartReport:
        """Annotate a part. What an interrupted call stored is taken up again.

        Args:
            job: The part.
            tick: Called with the number of samples of each batch.

        Raises:
            ResultsError: If the table has a part of this name with other samples.
        """
        pieces = _Pieces(job.path, self.info)
        known = {row["key"]: row for table in (*_known_tables(job), *pieces.stored()) for row in table.to_pylist()}
        problems: list[str] = []
        rows = scored = changed = again = 0
        try:
            for batch in read_ahead(
                _read(job.part, problems),
                lambda raw: self._row(job.part, raw, known.get(clean(raw.key))),
                self.rewards.batch_size,
                2,
            ):
                fresh = [row for _, (row, _) in batch]
                changed += sum(differs for _, (_, differs) in batch)
                again += sum(row.values["key"] in known for row in fresh)
                scored += sum(row.image is not None for row in fresh)
                self.rewards.score(fresh)
                pieces.add([_finished(row) for row in fresh])
                rows += len(fresh)
                if tick is not None:
                    tick(len(fresh))
        finally:
            pieces.flush()
        gone = 0 if problems or isinstance(job.part, FolderPiece) else len(known) - again
        if len(known) >= _ENOUGH and again == changed and not problems and not self.setup.replace:
            pieces.discard()
            raise ResultsError(
                f"{job.part.label}: expected a part of the table's data set, got another of the same name, in which no sample is "
                "what it was; name another file, or pass --overwrite (overwrite=True) to replace its rows"
            )
        digest = job.part.digest
        if not problems and digest_now(job.part) != digest:
            problems.append(
                f"{job.part.label}: expected a part that stays as it is, got one that changed while it was read"
            )
        pieces.finish(ShardState(job.part.label, "" if problems else digest, rows))
        return PartReport(job.part.label, rows, scored, changed, gone, "; ".join(problems) or None)

    def _merged(self, known: TableInfo) -> TableInfo:
        """What the table is made with after this run; refuses what does not fit."""
        ours = self.rewards
        differing = [
            f"{name}, which was {known.identities[name] or 'another'} and is {ours.identities[name]}"
            for name in ours.names
            if name in known.identities and known.identities[name] != ours.identities[name]
        ]
        if ours.judge is not None and known.judge is not None:
            differing += [
                f"{what} of geneval_*, which was {theirs} and is {mine}"
                for what, theirs, mine in (
                    ("the judge", known.judge, ours.judge),
                    ("the rules", known.rules, ours.rules),
                )
                if theirs != mine
            ]
        if differing:
            raise ResultsError(
                f"rewards: expected those of the table, got another {'; '.join(differing)}; name another file, or "
                "pass --overwrite (overwrite=True) with all columns that this concerns"
            )
        identities = known.identities | {name: ours.identities[name] for name in ours.names}
        judge = (ours.judge, ours.rules) if ours.judge is not None else (known.judge, known.rules)
        return TableInfo(self.setup.caption_name, identities, *judge)

    def _row(self, part: Part, raw: RawSample, known: Mapping[str, Any] | None) -> tuple[Row, bool]:
        """Prepare a sample: its texts, its record, what is known of it, and its image if something is to be scored."""
        names = self.rewards.names
        row = Row(dict.fromkeys(self.info.identities) | {"key": clean(raw.key), "shard": clean(part.label)}, set(names))
        caption, problem, origin = None, None, None
        try:
            caption = find_caption(raw, self.setup.caption_name)
        except UnscorableError as error:
            problem = error
        if self.rewards.read_records:
            try:
                row.spec, origin = find_record(
                    raw, caption, self.records, parse=self.setup.parse, vocabulary=self._vocabulary
                )
            except UnscorableError as error:
                row.reasons |= {name: str(error) for name in names if self.rewards.needs_record(name)}
        if isinstance(problem, MissingCaptionError) and row.spec is not None and self.setup.caption_name is None:
            caption = row.spec.prompt
        elif problem is not None:
            row.reasons |= {name: str(problem) for name in names if self.rewards.needs_caption(name)}
        record = None if row.spec is None else row.spec.to_json()
        row.values |= {"caption": caption, "record": record, "record_from": origin}
        content, missing = _content(raw)
        row.values["digest"] = None if content is None else _digest(content, caption)
        differs = known is not None and not self._keep_known(row, known)
        row.todo = {name for name in names if row.values[name] is None}
        if content is None:
            row.reasons |= dict.fromkeys(row.todo, f"image: {missing}")
        elif row.todo - set(row.reasons):
            try:
                row.image = load_image(BytesIO(content), raw.where)
            except ImageError as error:
                row.reasons |= dict.fromkeys(row.todo, f"image: {error}")
        row.todo -= set(row.reasons)
        return row, differs

    def _keep_known(self, row: Row, known: Mapping[str, Any]) -> bool:
        """Take over what is known of a sample, and return whether it is still the same."""
        same: bool = known["digest"] == row.values["digest"]
        asked = self.rewards.names
        if same and row.values["record"] is None:
            row.values |= {name: known[name] for name in ("record", "record_from")}
        same_record = row.values["record"] == known["record"]
        reasons = json.loads(known["reasons"]) if known["reasons"] else {}
        for name, identity in self.info.identities.items():
            value = known.get(name)
            if value is not None and same and (same_record or not is_credit(identity)):
                row.values[name] = value
                row.reasons.pop(name, None)
            elif name not in asked and (value is not None or name in reasons):
                now = "changed: the sample or its record is another one now; annotate this reward again"
                row.reasons[name] = now if value is not None else reasons[name]
        if same:
            row.values |= {name: known[name] for name in ("judge", "rules", "versions")}
        return same


def _finished(row: Row) -> dict[str, Any]:
    reasons = {name: text for name, text in row.reasons.items() if row.values.get(name) is None}
    values = row.values | {"reasons": json.dumps(reasons, sort_keys=True) if reasons else None}
    return {name: clean(value) if isinstance(value, str) else value for name, value in values.items()}


def clean(text: str) -> str:
    """Replace what UTF-8 cannot hold: bytes of a file's name, or half a pair of surrogates from JSON."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _content(raw: RawSample) -> tuple[bytes | None, str | None]:
    """Read the bytes of an image, or say why they cannot be read."""
    if not isinstance(raw.image, Path):
        return raw.image, raw.problem
    try:
        return raw.image.read_bytes(), None
    except OSError as error:
        return None, f"{raw.where}: expected an image file, got {error.strerror}"


def _digest(content: bytes, caption: str | None) -> str:
    return hashlib.blake2b(
        content + b"\0" + (caption or "").encode("utf-8", "surrogatepass"), digest_size=8
    ).hexdigest()


def _read(part: Part, problems: list[str]) -> Iterator[RawSample]:
    try:
        yield from part.raw_samples()
    except FileError as error:
        problems.append(str(error))


class _Pieces:
    """The rows of a part, stored in pieces until it is finished, so that a killed process loses at most one piece."""

    def __init__(self, path: Path, info: TableInfo) -> None:
        self._path, self._info = path, info
        self._found = self._list()
        self._number = 1 + max((int(file.suffixes[-2][1:]) for file in self._found), default=-1)
        self._rows: list[Mapping[str, Any]] = []
        self._flushed = time.monotonic()
        self._written: list[Path] = []

    def stored(self) -> list[Any]:
        """Rows that an interrupted run stored."""
        pq = require("pyarrow.parquet", "annotate", "annotate")
        return [pq.read_table(file) for file in self._found]

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows += rows
        if len(self._rows) >= _ROWS or time.monotonic() > self._flushed + _SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            file = self._path.with_suffix(f".{self._number:06d}.piece")
            write_table(file, [make_table(self._rows, self._info)], self._info)
            self._written.append(file)
            self._number += 1
        self._rows, self._flushed = [], time.monotonic()

    def finish(self, state: ShardState) -> None:
        """Join the pieces to the part's file."""
        pa, pq = require("pyarrow", "annotate", "annotate"), require("pyarrow.parquet", "annotate", "annotate")
        tables = [pq.read_table(file) for file in self._written]
        table = pa.concat_tables(tables) if tables else make_table([], self._info)
        empty = {name: table.column(name).null_count for name in self._info.identities}
        info = replace(self._info, shards=(replace(state, empty=empty),))
        write_table(self._path, [table], info)
        self.discard()

    def discard(self) -> None:
        """Remove the pieces."""
        for file in self._list():
            file.unlink()

    def _list(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{glob.escape(self._path.stem)}.??????.piece"))


def _known_tables(job: Job) -> Iterator[Any]:
    """Rows that earlier runs have of a part: of the table, then of an interrupted run, which are newer."""
    for path in (job.table, job.path):
        if path is None or not path.exists():
            continue
        stored = StoredTable(path)
        state = stored.states.get(job.part.label)
        if isinstance(job.part, Shard) or (state is not None and state.digest == job.part.digest):
            found = stored.rows(job.part.label)
        else:
            # Images that came or went have moved the others to other pieces.
            found = stored.rows_of([item.key for item in job.part.items])
        if found is not None:
            yield found
