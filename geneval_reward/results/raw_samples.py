"""Samples as they lie in WebDataset tar files, parquet files and Arrow files, before anything is made of their texts."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import UsageError
from geneval_reward.support.files import parse_json
from geneval_reward.support.imports import require
from geneval_reward.vision.formats import SUFFIXES

_IMAGE_COLUMNS: Final = ("image", "png", "jpg", "jpeg", "webp", "bytes")
_NAME_COLUMNS: Final = ("filename", "file_name", "__key__")
_ROWS_PER_READ: Final = 64
_MAX_MEMBER: Final = 512 * 2**20
"""Limit on the bytes of a tar member, because a sparse or compressed one may claim a terabyte in a few bytes."""


@dataclass(frozen=True, slots=True)
class RawSample:
    """An image that is not decoded, with the texts beside it, which are not read.

    Attributes:
        key: Name of the sample, unique in its data set.
        filename: Name of the image in results: the key, in a tar file with the image's suffix.
        where: What messages call it.
        image: The file, or its bytes; None if there is a problem.
        problem: Why the image cannot be read.
        files: Other files of the sample by extension, such as `json` and `txt`.
        columns: Other columns of its row.
    """

    key: str
    filename: str
    where: str
    image: Path | bytes | None
    problem: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    columns: Mapping[str, Any] | None = None

    def entry(self) -> Any:
        """Return what is said of the image: its columns, or the content of its `json`; an empty mapping if there is neither.

        Raises:
            FileError: If the `json` is not valid.
        """
        if self.columns is not None:
            return self.columns
        return parse_json(self.files["json"]) if "json" in self.files else {}


def read_tar(path: Path) -> Iterator[RawSample]:
    """Read samples by WebDataset's convention: consecutive files with the same name up to the first dot form one sample.

    Raises:
        tarfile.TarError: If the archive is damaged or cut off; the samples before that were yielded.
    """
    seen = set[str]()
    with tarfile.open(path) as tar:
        for key, members in groupby(filter(is_sample_file, tar), key=sample_key):
            name = f"{path.stem}/{key}"
            if key in seen:
                list(members)
                reason = (
                    f"{path}: {key}: expected the files of a sample one after another, got it in pieces; pack the archive again "
                    "with `tar --sort=name`"
                )
                name = f"{name}#{len(seen)}"
                yield RawSample(name, name, f"{path}: {key}", None, reason)
                continue
            seen.add(key)
            parts = dict[str, bytes]()
            problem = None
            for member in members:
                if member.size > _MAX_MEMBER or member.issparse():
                    problem = f"expected at most {_MAX_MEMBER:,} bytes in {member.name}, got {member.size:,}"
                    continue
                extension = member.name.rpartition("/")[2].partition(".")[2].lower()
                if extension in parts:
                    problem = f"expected one file {member.name}, got another of that name"
                    continue
                file = tar.extractfile(member)
                parts[extension] = b"" if file is None else file.read()
            if problem is not None:
                yield RawSample(name, name, f"{path}: {key}", None, f"{path}: {problem}", parts)
            else:
                yield _tar_sample(path, key, parts)
        # Python takes an archive that was cut between two members for a whole one.
        if tar.fileobj is not None and tar.fileobj.tell() <= tar.offset:
            raise tarfile.ReadError("it has no end mark, so samples may be missing")


def is_sample_file(member: tarfile.TarInfo) -> bool:
    """Return whether a member belongs to a sample; macOS adds `._name` files and a folder `__MACOSX`."""
    folder, _, base = member.name.rpartition("/")
    return member.isfile() and not base.startswith(".") and "__MACOSX" not in folder.split("/")


def sample_key(member: tarfile.TarInfo) -> str:
    """Return the name of a member up to the first dot, which the files of a sample share."""
    folder, _, base = member.name.rpartition("/")
    stem = base.partition(".")[0]
    return f"{folder}/{stem}" if folder else stem


def _tar_sample(path: Path, key: str, parts: dict[str, bytes]) -> RawSample:
    # Other images, such as 0.depth.png next to 0.png, are additional data of the sample unless there is nothing else.
    found = [name for name in parts if f".{name.rpartition('.')[2]}" in SUFFIXES]
    images = [name for name in found if f".{name}" in SUFFIXES] or found
    suffix = images[0] if images else None
    name = f"{path.stem}/{key}"
    filename = name + (f".{suffix}" if suffix else "")
    where = f"{path}: {key}"
    problem = None
    if len(images) > 1:
        problem = f"{where}: expected one image, got {', '.join(images)}; leave one, or name it {key}.png"
    elif suffix is None:
        problem = (
            f"{where}: expected an image (png, jpg, webp), got {', '.join(parts)}; the files of a sample must follow one "
            "another in the archive"
        )
    image = None if problem or suffix is None else parts.pop(suffix)
    return RawSample(name, filename, where, image, problem, parts)


def read_parquet(path: Path) -> Iterator[RawSample]:
    """Read the rows of a parquet file with a column of images."""
    pq = require("pyarrow.parquet", "annotate", str(path))
    with pq.ParquetFile(path) as file:
        yield from _read_rows(path, file.schema_arrow.names, file.iter_batches(batch_size=_ROWS_PER_READ))


def read_arrow(path: Path) -> Iterator[RawSample]:
    """Read the rows of an Arrow file that `datasets.Dataset.save_to_disk` wrote."""
    pa = require("pyarrow", "annotate", str(path))
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        batches = (
            batch.slice(start, _ROWS_PER_READ) for batch in stream for start in range(0, len(batch), _ROWS_PER_READ)
        )
        yield from _read_rows(path, stream.schema.names, batches)


def _read_rows(path: Path, columns: list[str], batches: Any) -> Iterator[RawSample]:
    image = next((name for name in _IMAGE_COLUMNS if name in columns), None)
    if image is None:
        raise UsageError(f"expected a column named {', '.join(_IMAGE_COLUMNS)}; it has {', '.join(sorted(columns))}")
    names = set[str]()
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows):
        yield _row_sample(path, number, row, image, names)


def _row_sample(path: Path, number: int, row: dict[str, Any], column: str, names: set[str]) -> RawSample:
    value = row.pop(column)
    name = next((row[name] for name in _NAME_COLUMNS if isinstance(row.get(name), str)), None)
    # Hugging Face data sets use {"bytes": ..., "path": ...}, where the path is a base name that may repeat.
    if isinstance(value, Mapping):
        name = name or (f"{number:06d}-{value['path']}" if value.get("path") else None)
        value = value.get("bytes")
    if name is None:
        name = f"{number:06d}"
    elif name in names:
        name = f"{number:06d}-{name}"
    names.add(name)
    filename, where = f"{path.stem}/{name}", f"{path} row {number}"
    problem = None
    if not isinstance(value, bytes):
        problem = f"{where}: {column}: expected bytes of an image, got {type(value).__name__}"
    return RawSample(filename, filename, where, None if problem else value, problem, columns=row)
