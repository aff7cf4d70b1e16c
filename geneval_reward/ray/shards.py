"""Data sets as shards: parts of a folder of images, WebDataset tar files, parquet files. This module does not need Ray.

A shard is small, can be sent to any node that sees the same paths, and always yields the same images under the same names, which
makes scoring resumable.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import GenEvalError, ResultsError, UsageError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results import FailedImage
from geneval_reward.results.entries import read_entry
from geneval_reward.results.generator_notes import NO_NOTES, GeneratorNotes
from geneval_reward.results.layout import ImageItem, read_folder
from geneval_reward.results.spread import spread
from geneval_reward.support.files import parse_json
from geneval_reward.vision.formats import SUFFIXES

_IMAGE_COLUMNS: Final = ("image", "png", "jpg", "jpeg", "webp", "bytes")
_NAME_COLUMNS: Final = ("filename", "file_name", "__key__")
_ROWS_PER_READ: Final = 64
_MAX_MEMBER: Final = 512 * 2**20
"""Limit on the bytes of a tar member, because a sparse or compressed one may claim a terabyte in a few bytes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image to score, not yet decoded.

    Attributes:
        filename: Name of the image in the results.
        image: The file, or its bytes.
        spec: What the image should show.
        index: Number of the image within its prompt; None to assign it when the shards are merged.
        seed: The seed it was generated from, if known.
        rewritten: The text given to the generator, if it was not the record's.
        selected: The reward by which a search selected the image, and the number of candidates.
        generator: Other settings of the generator that must be recorded.
    """

    filename: str
    image: Path | bytes
    spec: PromptSpec
    index: int | None = None
    seed: int | None = None
    rewritten: str | None = None
    selected: tuple[str, int] | None = None
    generator: GeneratorNotes = NO_NOTES


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a data set.

    Attributes:
        name: Unique within the data set, and constant while the data are unchanged; names the results file.
        kind: `folder`, `tar` or `parquet`.
        path: The folder or file.
        items: For a folder, the images of this shard.
    """

    name: str
    kind: str
    path: Path
    items: tuple[ImageItem, ...] = ()

    def samples(self) -> Iterator[Sample | FailedImage]:
        """Yield the images in order; one that cannot be read becomes a failure that says why."""
        if self.kind == "folder":
            for item in self.items:
                said = (item.index, item.seed, item.rewritten, item.selected, item.generator)
                yield Sample(item.filename, item.path, item.spec, *said)
            return
        read = _read_tar if self.kind == "tar" else _read_parquet
        try:
            yield from read(self.path)
        except Exception as error:  # noqa: BLE001 - damaged files make their readers raise all kinds of errors
            reason = f"{self.path}: expected a whole {self.kind} file, got a damaged one ({error}); copy it again"
            yield FailedImage(self.path.name, reason)


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        shards: In the order in which results are merged.
        problems: For a folder, what is missing, one sentence each.
        ignored: For a folder, the number of files that do not belong to its layout.
        subset: For a folder of generated images, the subset it covers, as in `geneval_reward.results.layout.ImageFolder`.
    """

    shards: list[Shard]
    problems: list[str] = field(default_factory=list)
    ignored: int = 0
    subset: str | None = None
    notes: list[str] = field(default_factory=list)
    """For a folder, sentences that a user should read although nothing is wrong."""


def open_source(
    source: str | Path | Sequence[str | Path],
    metadata: str | Path | None = None,
    *,
    shard_size: int = 256,
    limit: int | None = None,
) -> Source:
    """List the shards of a data set.

    Args:
        source: A folder of images as for `geneval_reward.results.layout.read_folder`; a `.tar` or `.parquet` file, a folder of
            such files, or a list of them.
        metadata: Records for a flat folder of images, as for `read_folder`.
        shard_size: Number of images per shard of a folder.
        limit: For a folder, the maximum number of images to take, evenly many of each task.

    Raises:
        ResultsError: If there is nothing to score, or two files have the same name.
        UsageError: If an argument does not fit the source.
    """
    if shard_size < 1:
        raise UsageError(f"shard_size: expected an integer >= 1, got {shard_size!r}")
    files = _files(source)
    if files is None:
        # Workers may have a different working folder.
        folder = read_folder(Path(source).resolve(), metadata)  # type: ignore[arg-type]
        items = spread(folder.items, limit)
        pieces = [tuple(items[start : start + shard_size]) for start in range(0, len(items), shard_size)]
        shards = [
            Shard(f"{number:05d}-{_digest(piece)}", "folder", folder.root, piece) for number, piece in enumerate(pieces)
        ]
        return Source(shards, folder.problems, folder.ignored, folder.subset, folder.notes)
    if metadata is not None or limit is not None:
        raise UsageError(
            "metadata, limit: expected neither with tar or parquet files, which hold their records; leave them out"
        )
    shards = [Shard(f"{file.stem}-{_digest_file(file)}", file.suffix[1:].lower(), file) for file in files]
    stems = [file.stem for file in files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ResultsError(
            f"{twice[0]}: expected files of different names, got two; their images would be called alike"
        )
    return Source(shards)


def _files(source: str | Path | Sequence[str | Path]) -> list[Path] | None:
    """List the tar and parquet files of a source; None if it is a folder of images."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in (".tar", ".parquet"))
            return [file.resolve() for file in found] or None
        if path.suffix.lower() not in (".tar", ".parquet"):
            return None
        files = [path]
    else:
        files = [Path(one) for one in source]
    for file in files:
        if file.suffix.lower() not in (".tar", ".parquet") or not file.is_file():
            raise ResultsError(
                f"{file}: expected a .tar or .parquet file, got {'another' if file.exists() else 'nothing'}"
            )
    if not files:
        raise ResultsError("source: expected at least one file, got none")
    return [file.resolve() for file in files]


def _digest(items: Sequence[ImageItem]) -> str:
    """Hash the names, records and files of the images, so that results of other images are not mistaken for theirs."""
    text = "\n".join(f"{item.filename}\t{item.spec.to_json()}\t{_stamp(item.path)}" for item in items)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _digest_file(file: Path) -> str:
    return hashlib.sha256(f"{file.name} {_stamp(file)}".encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _stamp(file: Path) -> str:
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _read_tar(path: Path) -> Iterator[Sample | FailedImage]:
    """Read samples by WebDataset's convention: consecutive files with the same name up to the first dot form one sample."""
    seen = set[str]()
    with tarfile.open(path) as tar:
        for key, members in groupby(filter(_is_member, tar), key=_member_key):
            if key in seen:
                list(members)
                reason = (
                    f"{path}: {key}: expected the files of a sample one after another, got it in pieces; pack the archive again "
                    "with `tar --sort=name`"
                )
                yield FailedImage(f"{path.stem}/{key}#{len(seen)}", reason)
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
            yield FailedImage(f"{path.stem}/{key}", f"{path}: {problem}") if problem else _tar_sample(path, key, parts)


def _is_member(member: tarfile.TarInfo) -> bool:
    """Return whether a member belongs to a sample; macOS adds `._name` files and a folder `__MACOSX`."""
    folder, _, base = member.name.rpartition("/")
    return member.isfile() and not base.startswith(".") and "__MACOSX" not in folder.split("/")


def _member_key(member: tarfile.TarInfo) -> str:
    folder, _, base = member.name.rpartition("/")
    stem = base.partition(".")[0]
    return f"{folder}/{stem}" if folder else stem


def _tar_sample(path: Path, key: str, parts: Mapping[str, bytes]) -> Sample | FailedImage:
    # Other images, such as 0.depth.png next to 0.png, are additional data of the sample unless there is nothing else.
    found = [name for name in parts if f".{name.rpartition('.')[2]}" in SUFFIXES]
    images = [name for name in found if f".{name}" in SUFFIXES] or found
    suffix = images[0] if images else None
    filename = f"{path.stem}/{key}" + (f".{suffix}" if suffix else "")
    if len(images) > 1:
        return FailedImage(
            filename, f"{path}: {key}: expected one image, got {', '.join(images)}; leave one, or name it {key}.png"
        )
    if suffix is None:
        return FailedImage(
            filename,
            f"{path}: {key}: expected an image (png, jpg, webp), got {', '.join(parts)}; "
            "the files of a sample must follow one another in the archive",
        )
    try:
        entry: Any = {}
        if "json" in parts:
            entry = parse_json(parts["json"])
        elif "txt" in parts:
            entry = {"prompt": parts["txt"].decode().strip()}
        return _sample(filename, parts[suffix], entry)
    except (GenEvalError, ValueError) as error:
        return FailedImage(filename, f"{path}: {key}: {error}")


def _read_parquet(path: Path) -> Iterator[Sample | FailedImage]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = set(file.schema_arrow.names)
        image = next((name for name in _IMAGE_COLUMNS if name in columns), None)
        if image is None:
            raise UsageError(
                f"expected a column named {', '.join(_IMAGE_COLUMNS)}; it has {', '.join(sorted(columns))}"
            )
        rows = (row for batch in file.iter_batches(batch_size=_ROWS_PER_READ) for row in batch.to_pylist())
        names = set[str]()
        for number, row in enumerate(rows):
            yield _parquet_sample(path, number, row, image, names)


def _parquet_sample(path: Path, number: int, row: dict[str, Any], column: str, names: set[str]) -> Sample | FailedImage:
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
    filename = f"{path.stem}/{name}"
    if not isinstance(value, bytes):
        return FailedImage(
            filename, f"{path} row {number}: {column}: expected bytes of an image, got {type(value).__name__}"
        )
    try:
        return _sample(filename, value, row)
    except (GenEvalError, ValueError) as error:
        return FailedImage(filename, f"{path} row {number}: {error}")


def _sample(filename: str, image: bytes, entry: Any) -> Sample:
    found = read_entry(entry)
    return Sample(filename, image, found.spec, found.index, found.seed, found.rewritten)
