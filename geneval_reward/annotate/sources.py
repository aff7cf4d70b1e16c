"""The parts of a data set that is annotated: files of samples, or pieces of a folder of images with texts beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import FileError, ResultsError
from geneval_reward.results.layout import ImageFolder, images_below, metadata_files, read_folder
from geneval_reward.results.raw_samples import RawSample
from geneval_reward.results.shards import Shard, digest_file, open_files, short_digest, stamp
from geneval_reward.support.counts import counted
from geneval_reward.support.files import parse_json, read_lines

_PIECE: Final = 256  # images of a folder per part
_TEXTS: Final = (".txt", ".json")


@dataclass(frozen=True, slots=True)
class FolderPiece:
    """Some images of a folder; what `geneval_reward.results.shards.Shard` is for a file.

    Attributes:
        label: Number of the piece.
        digest: Changes when its images or texts do.
        items: The samples.
    """

    label: str
    digest: str
    items: tuple[RawSample, ...]

    def raw_samples(self) -> Iterator[RawSample]:
        """Yield the samples in order."""
        return iter(self.items)


Part = Shard | FolderPiece


def open_parts(source: str | Path | Sequence[str | Path]) -> tuple[list[Part], list[str]]:
    """List the parts of a data set.

    Args:
        source: Tar, parquet or Arrow files, as `geneval_reward.results.shards.open_files` takes them; or a folder of images: with
            `metadata.jsonl` (a line per image, with its `file_name`), in the benchmark's layout, or with `NAME.txt` or
            `NAME.json` beside `NAME.png`.

    Returns:
        The parts in order, and a sentence for each thing that should be there and is not.

    Raises:
        ResultsError: If there is no image.
    """
    files = open_files(source)
    if files is not None:
        return list(files), []
    root = Path(source).resolve()  # type: ignore[arg-type]
    if not root.is_dir():
        raise ResultsError(
            f"{root}: expected a folder of images, or .tar, .parquet or .arrow files, got "
            f"{'another file' if root.exists() else 'nothing'}"
        )
    items, problems = _folder_samples(root)
    if not items:
        raise ResultsError(f"{root}: expected images, got none{'; ' + problems[0] if problems else ''}")
    pieces = [tuple(items[start : start + _PIECE]) for start in range(0, len(items), _PIECE)]
    return [FolderPiece(f"{number:05d}", _digest(piece), piece) for number, piece in enumerate(pieces)], problems


def digest_now(part: Part) -> str:
    """Compute the digest of a part again, to notice that it changed while it was read."""
    try:
        return digest_file(part.path) if isinstance(part, Shard) else _digest(part.items)
    except OSError:
        return ""


def _digest(items: Sequence[RawSample]) -> str:
    lines = []
    for item in items:
        state = stamp(item.image) if isinstance(item.image, Path) else item.problem
        texts = json.dumps(item.columns, default=str) if item.columns is not None else repr(sorted(item.files.items()))
        lines.append(f"{item.key}\t{state}\t{texts}")
    return short_digest("\n".join(lines))


def _folder_samples(root: Path) -> tuple[list[RawSample], list[str]]:
    folder = ImageFolder(root)
    listed = metadata_files(root)
    if listed:
        named: dict[str, RawSample] = {}
        for file in listed:
            for item in _lines(file, root, folder.problems):
                if item.key in named:
                    folder.problems.append(
                        f"{item.where}: expected each image once, got {item.key} again; it is skipped"
                    )
                named.setdefault(item.key, item)
        found = images_below(root, folder)
        if unlisted := [name for name in found if name not in named]:
            folder.problems.append(
                f"{counted(len(unlisted), 'image', 'are')} not in metadata.jsonl, such as {unlisted[0]}"
            )
        return list(named.values()), folder.problems
    if any((path / "metadata.jsonl").is_file() for path in root.iterdir() if path.name.isdecimal()):
        folder = read_folder(root)
        return [
            _sample(item.filename, item.path, columns={"metadata": item.spec.to_record()}) for item in folder.items
        ], folder.problems
    images = images_below(root, folder)
    return [_sample(name, root / name, files=_texts_beside(root / name)) for name in images], folder.problems


def _lines(metadata: Path, root: Path, problems: list[str]) -> Iterator[RawSample]:
    for number, line in read_lines(metadata):
        where = f"{metadata.relative_to(root)} line {number}"
        try:
            entry = parse_json(line)
        except FileError as error:
            problems.append(f"{where}: {error}; its image is skipped")
            continue
        name = (
            next((entry[key] for key in ("file_name", "filename") if key in entry), None)
            if isinstance(entry, dict)
            else None
        )
        if not isinstance(name, str) or not name:
            problems.append(
                f"{where}: expected the image's name under 'file_name', got {str(name)[:60]!r}; it is skipped"
            )
            continue
        path = metadata.parent / name
        try:
            key = path.resolve().relative_to(root).as_posix()
        except ValueError:
            problems.append(f"{where}: expected an image below {root}, got {name[:100]}; it is skipped")
            continue
        columns = {key: value for key, value in entry.items() if key not in ("file_name", "filename")}
        yield _sample(key, path, where, columns=columns)


def _texts_beside(image: Path) -> dict[str, bytes]:
    beside = (image.with_suffix(suffix) for suffix in _TEXTS)
    return {path.suffix[1:]: path.read_bytes() for path in beside if path.is_file()}


def _sample(
    name: str,
    path: Path,
    where: str | None = None,
    *,
    files: Mapping[str, bytes] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> RawSample:
    problem = None if path.is_file() else f"{where or name}: expected an image file, got none"
    return RawSample(name, name, where or name, None if problem else path, problem, files or {}, columns)
