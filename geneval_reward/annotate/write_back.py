"""A data set written again with the scores in it: tar and parquet files, or a `metadata.jsonl`."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from geneval_reward.annotate.sources import FolderPiece, open_parts
from geneval_reward.annotate.table import Annotations, read_annotations
from geneval_reward.errors import FileError, ResultsError, UsageError
from geneval_reward.results.raw_samples import is_sample_file, sample_key
from geneval_reward.results.shards import Shard
from geneval_reward.support.files import open_whole, parse_json, write_whole
from geneval_reward.support.imports import require

KEY: Final = "rewards"
"""Key of the scores in a sample's `json` and in a line of `metadata.jsonl`."""

Scores = Mapping[str, float | None]


def write_back(
    source: str | Path | Sequence[str | Path], table: str | Path, folder: str | Path
) -> tuple[list[Path], list[str]]:
    """Write a data set again with the scores of a table in it. The files of the data set are not touched.

    A tar file becomes one whose samples have the scores under `rewards` in their `json`, which is made where there is none; a
    parquet or Arrow file becomes a parquet file with a column per reward; a folder of images gets a `metadata.jsonl` whose
    `file_name` is a path below the folder of the data set.

    Args:
        source: The data set, as `annotate` takes it.
        table: The table that `annotate` made of it.
        folder: Another folder, for the new files. Each is written whole.

    Returns:
        The new files, and a sentence for each sample whose `json` could not hold the scores and was copied as it is.

    Raises:
        UsageError: If the folder is one of the data set.
        ResultsError: If the data set has changed since it was annotated.
    """
    parts, _ = open_parts(source)
    folder = Path(folder)
    homes = {part.path.parent if isinstance(part, Shard) else Path(source).resolve() for part in parts}  # type: ignore[arg-type]
    if folder.resolve() in homes:
        raise UsageError(f"write_back: expected another folder than that of the data set, got {folder}")
    found = read_annotations(table)
    states = {state.label: state for state in found.info.shards}
    for part in parts:
        if part.label not in states or states[part.label].digest != part.digest:
            raise ResultsError(
                f"{table}: expected a table of all that is in the data set, got one of another {part.label}; annotate again"
            )
    rows = _scores(found)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [part for part in parts if isinstance(part, FolderPiece)]
    if pieces:
        target = folder / "metadata.jsonl"
        write_whole(target, "".join(_lines(pieces, rows)))
        return [target], []
    files, problems = list[Path](), list[str]()
    for part in parts:
        if isinstance(part, Shard) and part.kind == "tar":
            files.append(_write_tar(part.path, rows[part.label], folder, problems))
        elif isinstance(part, Shard):
            files.append(_write_columns(part, rows[part.label], folder))
    return files, problems


def _scores(found: Annotations) -> dict[str, list[Scores]]:
    """The scores of the samples of each part, in order."""
    columns = {name: [None if math.isnan(one) else one for one in values] for name, values in found.rewards.items()}
    rows: dict[str, list[Scores]] = {state.label: [] for state in found.info.shards}
    for number, label in enumerate(found.shards):
        rows[label].append({name: values[number] for name, values in columns.items()})
    return rows


def _write_tar(path: Path, rows: Sequence[Scores], folder: Path, problems: list[str]) -> Path:
    target = folder / path.name
    left = iter(rows)
    with tarfile.open(path) as old, open_whole(target) as file, tarfile.open(fileobj=file, mode="w") as new:
        for key, members in groupby(old, key=lambda one: sample_key(one) if is_sample_file(one) else None):
            if key is None:
                for member in members:
                    new.addfile(member, old.extractfile(member) if member.isfile() else None)
                continue
            scores, done, first = next(left), False, None
            for member in members:
                content = old.extractfile(member)
                first = first or member
                if member.name.rpartition("/")[2].partition(".")[2].lower() != "json" or content is None:
                    new.addfile(member, content)
                    continue
                done = True
                data = content.read()
                try:
                    data = _with_scores(data, scores)
                except FileError as error:
                    problems.append(f"{path}: {member.name}: {error}; it is copied as it is")
                _add(new, member, member.name, data)
            if not done and first is not None:
                _add(new, first, f"{key}.json", _with_scores(b"{}", scores))
    return target


def _add(tar: tarfile.TarFile, like: tarfile.TarInfo, name: str, data: bytes) -> None:
    info = copy(like)
    info.name, info.size = name, len(data)
    info.pax_headers = {}
    tar.addfile(info, io.BytesIO(data))


def _with_scores(data: bytes, scores: Scores) -> bytes:
    entry = parse_json(data)
    if not isinstance(entry, dict):
        raise FileError(f"expected a JSON object for the scores, got a JSON {type(entry).__name__}")
    return json.dumps(entry | {KEY: scores}).encode()


def _write_columns(part: Shard, rows: Sequence[Scores], folder: Path) -> Path:
    pa, pq = require("pyarrow", "annotate", "write_back"), require("pyarrow.parquet", "annotate", "write_back")
    target = folder / f"{part.path.stem}.parquet"
    names = list(rows[0]) if rows else []
    writer = None
    at = 0
    with open_whole(target) as file:
        for batch in _batches(part):
            old = batch
            for name in names:
                values = pa.array([row[name] for row in rows[at : at + len(old)]], pa.float64())
                place = old.schema.get_field_index(name)
                old = old.append_column(name, values) if place < 0 else old.set_column(place, name, values)
            at += len(old)
            writer = writer or pq.ParquetWriter(file, old.schema)
            writer.write_table(old)
        if writer is not None:
            writer.close()
    return target


def _batches(part: Shard) -> Iterator[Any]:
    pa, pq = require("pyarrow", "annotate", "write_back"), require("pyarrow.parquet", "annotate", "write_back")
    if part.kind == "parquet":
        with pq.ParquetFile(part.path) as file:
            yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(batch_size=1000))
        return
    with pa.memory_map(str(part.path)) as file, pa.ipc.open_stream(file) as stream:
        yield from (pa.Table.from_batches([batch]) for batch in stream)


def _lines(pieces: Sequence[FolderPiece], rows: Mapping[str, Sequence[Scores]]) -> Iterator[str]:
    for piece in pieces:
        for item, scores in zip(piece.items, rows[piece.label], strict=True):
            said: Mapping[str, Any] = item.columns or {}
            if "json" in item.files:
                try:
                    beside = parse_json(item.files["json"])
                except FileError:
                    beside = None
                said = beside if isinstance(beside, dict) else {}
            if "txt" in item.files:
                said = {**said, "text": item.files["txt"].decode("utf-8", "replace").strip()}
            yield json.dumps({"file_name": item.key, **said, KEY: scores}) + "\n"
