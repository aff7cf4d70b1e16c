"""Data sets as shards: parts of a folder of images, WebDataset tar files, parquet files, Hugging Face data sets on disk.

A shard is small, can be sent to any node that sees the same paths, and always yields the same images under the same names, which
makes scoring resumable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from geneval_reward.errors import DependencyError, FileError, GenEvalError, ResultsError, UsageError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.entries import read_entry
from geneval_reward.results.generator_notes import NO_NOTES, GeneratorNotes
from geneval_reward.results.layout import ImageItem, read_folder
from geneval_reward.results.raw_samples import RawSample, read_arrow, read_parquet, read_tar
from geneval_reward.results.row import FailedImage
from geneval_reward.results.spread import spread
from geneval_reward.support.files import read_json

_READERS: Final = {"tar": read_tar, "parquet": read_parquet, "arrow": read_arrow}
_SUFFIXES: Final = (".tar", ".parquet")


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
        label: Unique within the data set: the number of the part of a folder, or the name of a file without its ending.
        digest: Changes when the shard's files or records do.
        kind: `folder`, `tar`, `parquet` or `arrow`.
        path: The folder or file.
        items: For a folder, the images of this shard.
    """

    label: str
    digest: str
    kind: str
    path: Path
    items: tuple[ImageItem, ...] = ()

    @property
    def name(self) -> str:
        """Unique within the data set, and constant while the data are unchanged; names the results file."""
        return f"{self.label}-{self.digest}"

    def samples(self) -> Iterator[Sample | FailedImage]:
        """Yield the images in order; one that cannot be read, or has no record, becomes a failure that says why."""
        if self.kind == "folder":
            for item in self.items:
                said = (item.index, item.seed, item.rewritten, item.selected, item.generator)
                yield Sample(item.filename, item.path, item.spec, *said)
            return
        try:
            for raw in self.raw_samples():
                yield _with_record(raw)
        except FileError as error:
            yield FailedImage(self.path.name, str(error))

    def raw_samples(self) -> Iterator[RawSample]:
        """Yield the samples of a file in order, before their texts are read.

        Raises:
            FileError: If the file is damaged; what was read before was yielded.
        """
        try:
            yield from _READERS[self.kind](self.path)
        except DependencyError:
            raise
        except UsageError as error:
            raise FileError(f"{self.path}: {error}") from error
        except Exception as error:
            # Damaged files make their readers raise all kinds of errors.
            raise FileError(
                f"{self.path}: expected a whole {self.kind} file, got a damaged one ({error}); copy it again"
            ) from error


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
            such files, or a list of them; or a folder that `datasets.Dataset.save_to_disk` wrote.
        metadata: Records for a flat folder of images, as for `read_folder`.
        shard_size: Number of images per shard of a folder.
        limit: For a folder, the maximum number of images to take, evenly many of each task.

    Raises:
        ResultsError: If there is nothing to score, or two files have the same name.
        UsageError: If an argument does not fit the source.
    """
    if shard_size < 1:
        raise UsageError(f"shard_size: expected an integer >= 1, got {shard_size!r}")
    shards = open_files(source)
    if shards is None:
        # Workers may have a different working folder.
        folder = read_folder(Path(source).resolve(), metadata)  # type: ignore[arg-type]
        items = spread(folder.items, limit)
        pieces = [tuple(items[start : start + shard_size]) for start in range(0, len(items), shard_size)]
        shards = [
            Shard(f"{number:05d}", _digest_items(piece), "folder", folder.root, piece)
            for number, piece in enumerate(pieces)
        ]
        return Source(shards, folder.problems, folder.ignored, folder.subset, folder.notes)
    if metadata is not None or limit is not None:
        raise UsageError(
            "metadata, limit: expected neither with tar, parquet or Arrow files, which hold their records; leave them out"
        )
    return Source(shards)


def open_files(source: str | Path | Sequence[str | Path]) -> list[Shard] | None:
    """List the tar, parquet or Arrow files of a source, one shard each; None if it is a folder of images.

    Raises:
        ResultsError: If a file is of another kind or missing, there is none, or two have the same name.
    """
    files = _find_files(source)
    if files is None:
        return None
    shards = [Shard(path.stem, digest_file(path), path.suffix[1:].lower(), path) for path in files]
    labels = [shard.label for shard in shards]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ResultsError(
            f"{twice[0]}: expected files of different names, got two; their images would be called alike"
        )
    return shards


def _find_files(source: str | Path | Sequence[str | Path]) -> list[Path] | None:
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            if (path / "state.json").is_file():
                return _saved_files(path)
            if (path / "dataset_dict.json").is_file():
                raise ResultsError(
                    f"{path}: expected one split of a data set on disk, got all; name one, such as "
                    f"{path / next((split.name for split in sorted(path.iterdir()) if split.is_dir()), 'train')}"
                )
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
            return [file.resolve() for file in found] or None
        if path.suffix.lower() not in (*_SUFFIXES, ".arrow"):
            return None
        files = [path]
    else:
        files = [Path(one) for one in source]
    for file in files:
        if file.suffix.lower() not in (*_SUFFIXES, ".arrow") or not file.is_file():
            raise ResultsError(
                f"{file}: expected a .tar, .parquet or .arrow file, got {'another' if file.exists() else 'nothing'}"
            )
    if not files:
        raise ResultsError("source: expected at least one file, got none")
    return [file.resolve() for file in files]


def _saved_files(folder: Path) -> list[Path]:
    """The Arrow files of `datasets.Dataset.save_to_disk`, in the order that its `state.json` says."""
    try:
        names = [one["filename"] for one in read_json(folder / "state.json")["_data_files"]]
    except (KeyError, TypeError) as error:
        raise ResultsError(
            f"{folder / 'state.json'}: expected the _data_files of a data set on disk, got none; save it again"
        ) from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ResultsError(
            f"{folder}: expected the files that state.json names, got no {', '.join(missing[:3]) or 'names'}; copy it again"
        )
    return [(folder / name).resolve() for name in names]


def _digest_items(items: Sequence[ImageItem]) -> str:
    """Hash the names, records and files of the images, so that results of other images are not mistaken for theirs."""
    return short_digest("\n".join(f"{item.filename}\t{item.spec.to_json()}\t{stamp(item.path)}" for item in items))


def digest_file(file: Path) -> str:
    """Hash a file's name, size and time of change."""
    return short_digest(f"{file.name} {stamp(file)}")


def short_digest(text: str) -> str:
    """Hash a text to eight hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def stamp(file: Path) -> str:
    """Write a file's size and time of change."""
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


def _with_record(raw: RawSample) -> Sample | FailedImage:
    if raw.image is None:
        return FailedImage(raw.filename, raw.problem or f"{raw.where}: expected an image, got none")
    try:
        entry = raw.entry()
        if not entry and "txt" in raw.files:
            entry = {"prompt": raw.files["txt"].decode().strip()}
        found = read_entry(entry)
    except (GenEvalError, ValueError) as error:
        return FailedImage(raw.filename, f"{raw.where}: {error}")
    return Sample(raw.filename, raw.image, found.spec, found.index, found.seed, found.rewritten)
