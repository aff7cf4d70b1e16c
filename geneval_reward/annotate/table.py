"""The table of an annotation: a parquet file with a row per sample, and what it was made with in its metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError
from geneval_reward.support.files import open_whole, parse_json
from geneval_reward.support.imports import require

BEFORE: Final = ("key", "shard", "caption")
AFTER: Final = ("judge", "rules", "versions", "record", "record_from", "reasons", "digest")
"""The columns before and behind the rewards; all of them are texts."""

_META: Final = b"geneval_reward"
_FORMAT: Final = 1


@dataclass(frozen=True)
class ShardState:
    """How far a part of the data set is.

    Attributes:
        label: Name of the part.
        digest: Its digest when it was read; empty if it was damaged or changed while it was read.
        rows: Number of its samples.
        empty: By reward, the number of samples without a value.
    """

    label: str
    digest: str
    rows: int
    empty: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TableInfo:
    """What a table was made with.

    Attributes:
        caption_name: The column, key or file that held the captions; None for the usual ones.
        identities: What each reward is: a class with its arguments, or a function with a digest of its source. The columns'
            order is that of the table.
        judge: Name and fingerprint of what judged `geneval_*`; None if there is no such reward.
        rules: Its rules as JSON.
        shards: The parts of the data set in order.
    """

    caption_name: str | None = None
    identities: dict[str, str] = field(default_factory=dict)
    judge: str | None = None
    rules: str | None = None
    shards: tuple[ShardState, ...] = ()


@dataclass(frozen=True, eq=False)
class Annotations:
    """A table of annotations; `n` samples in the order of the data set.

    Attributes:
        keys: The samples' names, `(n,)`.
        shards: The part of the data set that each is from, `(n,)`.
        captions: The captions that were scored, `(n,)`; empty where there is none.
        rewards: By name, `(n,)` float64; NaN where a sample has no value.
        records: The records that `geneval_*` was judged by, as JSON, `(n,)`; None where there is none.
        origins: Where each record is from, `(n,)`: `records` (a file given for it), `sample` (beside the image), `suite` (the
            caption is a prompt of the official suite) or `parsed` (the caption was read as a sentence).
        reasons: Why a reward has no value, by its name, for each sample, `(n,)`.
        info: What the table was made with.
    """

    keys: list[str]
    shards: list[str]
    captions: list[str]
    rewards: dict[str, npt.NDArray[np.float64]]
    records: list[str | None]
    origins: list[str | None]
    reasons: list[dict[str, str]]
    info: TableInfo

    def __len__(self) -> int:
        return len(self.keys)


def read_annotations(path: str | Path) -> Annotations:
    """Read a table that `annotate` wrote.

    Args:
        path: The parquet file.

    Raises:
        DependencyError: Without pyarrow.
        ResultsError: If the file is no such table.
        OSError: If it cannot be read.
    """
    info = read_info(path)
    table = require("pyarrow.parquet", "annotate", str(path)).read_table(path)
    texts = {name: table.column(name).to_pylist() for name in (*BEFORE, "record", "record_from", "reasons")}
    rewards = {
        # An empty cell becomes NaN; a copy, because pyarrow's arrays are read-only.
        name: np.array(table.column(name).cast("float64").to_numpy(), np.float64)
        for name in info.identities
    }
    return Annotations(
        keys=texts["key"],
        shards=texts["shard"],
        captions=[text or "" for text in texts["caption"]],
        rewards=rewards,
        records=texts["record"],
        origins=texts["record_from"],
        reasons=[json.loads(text) if text else {} for text in texts["reasons"]],
        info=info,
    )


def read_info(path: str | Path) -> TableInfo:
    """Read what a table was made with.

    Raises:
        ResultsError: If the file is no table of annotations.
    """
    pq = require("pyarrow.parquet", "annotate", str(path))
    try:
        schema = pq.read_schema(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # pyarrow raises several kinds
        raise ResultsError(
            f"{path}: expected a table of annotations, got a file that is no parquet ({error})"
        ) from error
    try:
        stored = parse_json((schema.metadata or {})[_META])
        shards = tuple(ShardState(**one) for one in stored.pop("shards"))
        version = stored.pop("format")
        info = TableInfo(**stored, shards=shards)
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            f"{path}: expected a table that `geneval-reward annotate` wrote, got another parquet file; name another file"
        ) from error
    if version != _FORMAT:
        raise ResultsError(f"{path}: expected format {_FORMAT}, got {version}; update geneval-reward")
    lacking = [name for name in (*BEFORE, *info.identities, *AFTER) if name not in schema.names]
    if lacking:
        raise ResultsError(f"{path}: expected the columns {', '.join(lacking)}, got none; annotate again")
    return info


def make_table(rows: Sequence[Mapping[str, Any]] | Any, info: TableInfo) -> Any:
    """Make a `pyarrow.Table` of rows, or of a table that may lack columns."""
    pa = require("pyarrow", "annotate", "annotate")
    stored = asdict(info) | {"format": _FORMAT}
    columns = [(name, pa.string()) for name in BEFORE]
    columns += [(name, pa.float64()) for name in info.identities]
    columns += [(name, pa.string()) for name in AFTER]
    schema = pa.schema(columns, metadata={_META: json.dumps(stored).encode()})
    if not isinstance(rows, pa.Table):
        return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    arrays = [
        rows.column(field.name) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def write_table(path: Path, tables: Iterable[Any], info: TableInfo) -> None:
    """Write tables, one row group each, whole or not at all."""
    pq = require("pyarrow.parquet", "annotate", str(path))
    with open_whole(path) as file, pq.ParquetWriter(file, make_table([], info).schema, compression="zstd") as writer:
        for table in tables:
            if len(table):
                writer.write_table(make_table(table, info), row_group_size=len(table))


class StoredTable:
    """A table on disk, read part by part.

    Args:
        path: The parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.info = path, read_info(path)
        self.states = {state.label: state for state in self.info.shards}
        with_rows = [state.label for state in self.info.shards if state.rows]
        self._groups = {label: number for number, label in enumerate(with_rows)}

    def rows(self, label: str) -> Any:
        """Read the rows of a part as a `pyarrow.Table`; None if it has none."""
        if label not in self._groups:
            return None
        pq = require("pyarrow.parquet", "annotate", str(self.path))
        with pq.ParquetFile(self.path) as file:
            return file.read_row_group(self._groups[label])

    def rows_of(self, keys: Sequence[str]) -> Any:
        """Read the rows of some samples, whichever part they are in."""
        pa, pq = require("pyarrow", "annotate", str(self.path)), require("pyarrow.parquet", "annotate", str(self.path))
        return pq.read_table(self.path, filters=[("key", "in", pa.array(keys, pa.string()))])
