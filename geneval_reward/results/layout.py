"""Folders of images with their records: the benchmark's layout, a Hugging Face image folder, or images and a metadata file.

Source of the benchmark's layout: djghosh13/geneval `evaluate_images.py`: `<digits>/metadata.jsonl` (one record) beside
`<digits>/samples/<digits>.png`. Unlike in the benchmark, whatever is left out is named.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import FileError, ResultsError, SpecError, name_some
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.dealing import deal
from geneval_reward.results.entries import FILENAME_KEYS, Entry, name_of, read_entry
from geneval_reward.results.generation import GENERATION, Generation, read_generation
from geneval_reward.results.generator_notes import NO_NOTES, GeneratorNotes
from geneval_reward.results.record import index_of
from geneval_reward.support.counts import counted
from geneval_reward.support.files import parse_json, read_json, read_lines
from geneval_reward.vision.formats import SUFFIXES, is_image_name

GENERATE_SETUP: Final = "generate.json"
"""Beside the prompts' folders: how `geneval-reward generate` made them."""
GENERATE_LOCK: Final = "generate.lock"
"""Beside the prompts' folders while `geneval-reward generate` writes them."""
_OWN: Final = (GENERATE_SETUP, GENERATE_LOCK)

_SAMPLE: Final = re.compile(r"[0-9]+\.(png|jpe?g|webp)", re.IGNORECASE)
_FOREIGN: Final = ("__MACOSX", "lost+found")
_LONGEST_LINE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image to score.

    Attributes:
        path: The file.
        filename: Its path below the folder, with forward slashes, which is its name in results.
        spec: What the image was asked to show.
        index: Its number among the images of its prompt: in the benchmark's layout the number in its name (`0002.png` is 2,
            whatever else is there), in other folders its place among the lines of its record, from 0.
        seed: The seed it was generated from, if the metadata says.
        rewritten: The text that the generator got, if it was not the record's.
        selected: The reward by which a search selected the image, and among how many candidates; None if none did.
        generator: What else must be known of the generator.
    """

    path: Path
    filename: str
    spec: PromptSpec
    index: int
    seed: int | None = None
    rewritten: str | None = None
    selected: tuple[str, int] | None = None
    generator: GeneratorNotes = NO_NOTES


@dataclass
class ImageFolder:
    """What a folder holds.

    Attributes:
        root: The folder.
        items: The images, in the order of folders and of the numbers in file names.
        problems: One sentence for each thing that should be there and is not. Nothing is dropped without one.
        notes: Sentences that a user should read, though nothing is wrong.
        ignored: Number of files and folders that are not part of the layout.
        subset: What `geneval-reward generate --subset` says of the folder; None if it is not a subset, or unknown.
    """

    root: Path
    items: list[ImageItem] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: int = 0
    subset: str | None = None


def read_folder(root: str | Path, metadata: str | Path | None = None) -> ImageFolder:
    """List the images of a folder with their records.

    Hidden files and folders, and what notebooks, file managers and the benchmark's script leave among images
    (`.ipynb_checkpoints`, `._0000.png`, `@eaDir`, `__MACOSX`, `grid.png` beside `samples/`), are no samples.

    Args:
        root: The benchmark's layout; a Hugging Face image folder (`metadata.jsonl` with `file_name`, at the top or in each
            split); or, with `metadata`, any folder of images.
        metadata: JSON lines, as `geneval_reward.results.entries.read_entry` reads them. Each names its image under
            `file_name` or `filename`, as a path below `root`. If no line names one, the names of the images must tell which
            line they belong to, as `geneval_reward.results.dealing.deal` describes.

    Returns:
        Images and problems.

    Raises:
        ResultsError: If the folder or metadata file is missing, there is not one image with a record in it, or it is not
            certain which image belongs to which line.
    """
    root = Path(root)
    if not root.is_dir():
        raise ResultsError(f"{root}: expected a folder of images, got {'a file' if root.exists() else 'nothing'}")
    folder = ImageFolder(root)
    if metadata is not None:
        _read_flat(folder, Path(metadata), root)
    elif own := metadata_files(root):
        for file in own:
            _read_flat(folder, file, file.parent)
        _leave_out_repeats(folder)
    else:
        _read_benchmark_layout(folder)
    _note_shared_seeds(folder)
    if not folder.items:
        found = f"; {folder.problems[0]}" if folder.problems else ""
        layout = "<digits>/metadata.jsonl and <digits>/samples/0000.png" if metadata is None else "the named images"
        hint = "" if metadata else "; for a flat folder pass --metadata FILE"
        raise ResultsError(f"{root}: expected {layout}, got no image with a record{found}{hint}")
    return folder


def _note_shared_seeds(folder: ImageFolder) -> None:
    """Say so where every prompt's images start from the same seeds, as those of a script that seeds before each prompt."""
    seeds: dict[PromptSpec, set[int]] = {}
    for item in folder.items:
        if item.seed is None:
            return
        seeds.setdefault(item.spec, set()).add(item.seed)
    own = next(iter(seeds.values()), set())
    if len(seeds) > 1 and all(other == own for other in seeds.values()):
        folder.notes.append(
            f"the images of all {len(seeds):,} prompts were made from the same seeds, such as {min(own)}: prompts share their "
            "noise, so what one noise spoils counts many times, and intervals are too narrow; give every image its own seed"
        )


def write_prompt_folder(root: str | Path, number: int, spec: PromptSpec) -> Path:
    """Make the folder of one prompt in the benchmark's layout.

    Args:
        root: The folder of the whole set.
        number: The prompt's number, from 0, which in five digits is the name of its folder.
        spec: The record, which is written to `metadata.jsonl`.

    Returns:
        The `samples` folder, into which images go as `0000.png`, `0001.png`, ...
    """
    samples = Path(root) / f"{number:05d}" / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    (samples.parent / "metadata.jsonl").write_text(spec.to_json() + "\n", encoding="utf-8")
    return samples


def _read_benchmark_layout(folder: ImageFolder) -> None:
    folder.subset = _read_subset(folder.root / GENERATE_SETUP)
    unread: dict[str, None] = {}
    others = 0
    for path in sorted(folder.root.iterdir()):
        if not (path.is_dir() and path.name.isdecimal()):
            folder.ignored += path.name not in _OWN
            continue
        found = _read_record(path, folder)
        samples = path / "samples"
        if not samples.is_dir():
            folder.problems.append(f"{path.name}: expected a folder samples/ with images, got none")
            continue
        names = sorted(file.name for file in samples.iterdir())
        images = [name for name in names if _SAMPLE.fullmatch(name)]
        folder.ignored += len(names) - len(images)
        if not images:
            folder.problems.append(f"{path.name}/samples: expected images such as 0000.png, got none")
        if found is None:
            continue
        unread.update(dict.fromkeys(found.unread))
        others += found.rewritten is not None
        said = _read_generation(path, folder)
        text = said.text or found.rewritten
        rewritten = None if text == found.spec.prompt else text
        for index, name in _numbered(images, f"{path.name}/samples", folder):
            if not os.path.isfile(samples / name):
                folder.problems.append(f"{path.name}/samples/{name}: expected an image file, got no regular file")
                continue
            below, seed, selected = f"{path.name}/samples/{name}", said.seeds.get(name), said.selected.get(name)
            folder.items.append(
                ImageItem(samples / name, below, found.spec, index, seed, rewritten, selected, said.notes)
            )
    if unread:
        folder.notes.append(f"the records have keys that are not read: {name_some(list(unread))}")
    if others:
        folder.notes.append(
            f"{counted(others, 'record', 'have')} another prompt than the benchmark's record of the same objects; their images "
            "count as made from rewritten prompts"
        )


def _numbered(images: list[str], where: str, folder: ImageFolder) -> list[tuple[int, str]]:
    """Images with the numbers in their names, so that a missing file does not shift the ones after it."""
    images = sorted(images, key=_natural)
    found: dict[int, str] = {}
    for name in images:
        number = index_of(name)
        if number is None or number in found:
            why = f"no number in {name}" if number is None else f"number {number} in {found[number]} and {name}"
            folder.problems.append(
                f"{where}: expected a number of its own in every image's name, got {why}; they are numbered by their order"
            )
            return list(enumerate(images))
        found[number] = name
    return list(found.items())


def _natural(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """A sort key by the numbers in a name: `10.png` comes after `2.png`."""
    # The odd parts are the digits; the name itself decides between 1.png and 01.png.
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)), name


def _read_subset(setup: Path) -> str | None:
    """One sentence on the subset that a folder is, from its `generate.json`; None if it is none."""
    if not setup.is_file():
        return None
    try:
        found = read_json(setup).get("subset")
        return f"{found['prompts']} of {found['of']} prompts of the {found['suite']} suite" if found else None
    except (OSError, FileError, AttributeError, KeyError, TypeError):
        return None  # a file of the same name by another program, which says nothing about a subset


def _read_generation(path: Path, folder: ImageFolder) -> Generation:
    try:
        return read_generation(path)
    except FileError as error:
        folder.problems.append(
            f"{path.name}/{GENERATION}: {error}; seeds, rewriting and selection of its images are unknown"
        )
        return Generation()


def _read_record(path: Path, folder: ImageFolder) -> Entry | None:
    file = path / "metadata.jsonl"
    if not file.is_file():
        got = "something that is no file" if file.exists() else "none"
        folder.problems.append(
            f"{path.name}: expected metadata.jsonl with the record, got {got}; its images are skipped"
        )
        return None
    try:
        ours = (path / GENERATION).exists()
        return read_entry(parse_json(file.read_bytes().removeprefix(b"\xef\xbb\xbf")), match=not ours)
    except (OSError, SpecError, FileError) as error:
        folder.problems.append(f"{path.name}/metadata.jsonl: {error}; its images are skipped")
    return None


def metadata_files(root: Path) -> list[Path]:
    """The metadata files of a Hugging Face image folder: `metadata.jsonl` with `file_name`, at the top or in each split."""
    found = []
    for file in (root / "metadata.jsonl", *sorted(root.glob("*/metadata.jsonl"))):
        # A folder with samples is a prompt of the benchmark's layout, whose record names no file.
        if not file.is_file() or (file.parent / "samples").is_dir():
            continue
        try:
            with file.open("rb") as lines:
                first = parse_json(lines.readline(_LONGEST_LINE).removeprefix(b"\xef\xbb\xbf"))
        except (OSError, FileError):
            continue
        if name_of(first) is not None:
            found.append(file)
    return found


def _leave_out_repeats(folder: ImageFolder) -> None:
    """Keep each image once where the metadata files of the whole and of a split both name it."""
    first: dict[str, ImageItem] = {}
    for item in folder.items:
        if first.setdefault(item.filename, item) is not item:
            folder.problems.append(
                f"{item.filename}: expected one metadata file to name an image, got two; the one at the top counts"
            )
    folder.items = list(first.values())


def _read_flat(folder: ImageFolder, metadata: Path, root: Path) -> None:
    """Read a folder of images, `root`, which is `folder.root` or a split below it."""
    try:
        if metadata.exists() and not metadata.is_file():
            raise ResultsError(f"{metadata}: expected a file of JSON lines, got something that is no file")
        lines = read_lines(metadata)
    except OSError as error:
        raise ResultsError(f"{metadata}: expected a file of JSON lines, got none ({error.strerror})") from error
    entries: list[tuple[str, Any]] = []
    for number, line in lines:
        where = f"{metadata.name} line {number}"
        try:
            entry = parse_json(line)
            if not isinstance(entry, dict):
                raise FileError(f"expected a JSON object, got a JSON {type(entry).__name__}")
        except FileError as error:
            # The line keeps its place, so that images which are dealt by place do not move to other lines.
            folder.problems.append(f"{where}: {error}; its image is skipped")
            entry = None
        entries.append((where, entry))
    images = images_below(root, folder)
    if any(name_of(entry) is not None for _, entry in entries):
        pairs = _named(folder, entries, images)
    else:
        pairs = _dealt(folder, metadata, entries, images)
    counts: dict[PromptSpec, int] = {}
    for where, filename, entry in pairs:
        _add_flat(folder, root, where, filename, entry, counts)


def _named(folder: ImageFolder, entries: list[tuple[str, Any]], images: list[str]) -> list[tuple[str, str, Any]]:
    pairs: dict[str, tuple[str, str, Any]] = {}
    for where, entry in entries:
        if entry is None:
            continue
        filename = name_of(entry)
        other = entry.get(FILENAME_KEYS[1])
        if not isinstance(filename, str):
            folder.problems.append(f"{where}: expected the image's name under 'file_name', got {str(filename)[:60]!r}")
            continue
        if other is not None and other != filename:
            folder.problems.append(
                f"{where}: expected one name of the image, got filename {filename[:60]!r} and file_name {str(other)[:60]!r}; "
                "it is skipped; leave one of them out"
            )
            continue
        filename = posixpath.normpath(filename) if filename else filename
        if filename in pairs:
            folder.problems.append(
                f"{where}: expected each image once, got {filename[:100]}, which {pairs[filename][0]} names; it is skipped"
            )
        else:
            pairs[filename] = where, filename, entry
    unlisted = [name for name in images if name not in pairs]
    if unlisted:
        folder.problems.append(
            f"{counted(len(unlisted), 'image', 'are')} not in the metadata file, such as {unlisted[0]}"
        )
    return list(pairs.values())


def _dealt(
    folder: ImageFolder, metadata: Path, entries: list[tuple[str, Any]], images: list[str]
) -> list[tuple[str, str, Any]]:
    owners, note = deal(images, len(entries), str(metadata))
    if note is not None:
        folder.notes.append(note)
    order = sorted(range(len(images)), key=lambda i: (owners[i], _natural(images[i])))
    return [(entries[owners[i]][0], images[i], entries[owners[i]][1]) for i in order]


def images_below(root: Path, folder: ImageFolder) -> list[str]:
    """The names of the images below a folder, without what file managers, notebooks and the benchmark's script leave there."""
    found = []
    for path, folders, files in os.walk(root, followlinks=False):
        skipped = [name for name in folders if name.startswith((".", "@", "$")) or name in _FOREIGN]
        folder.ignored += len(skipped)
        # Changing the list in place tells os.walk where to go.
        folders[:] = sorted(set(folders) - set(skipped))
        for name in files:
            if not name.lower().endswith(SUFFIXES):
                continue
            if not is_image_name(name) or (os.path.splitext(name)[0] == "grid" and "samples" in folders):
                folder.ignored += 1
            elif os.path.isfile(os.path.join(path, name)):
                found.append(Path(path, name).relative_to(root).as_posix())
    return sorted(found, key=_natural)


def _add_flat(
    folder: ImageFolder, root: Path, where: str, filename: str, entry: Any, counts: dict[PromptSpec, int]
) -> None:
    if entry is None:
        return
    shown = filename if len(filename) <= 200 else filename[:200] + "..."
    try:
        found = read_entry(entry)
    except SpecError as error:
        folder.problems.append(f"{where}: {error}; its image {shown} is skipped")
        return
    # A line counts whether or not its image is there, so that a missing one does not change the numbers of those after it.
    index = counts.get(found.spec, 0)
    counts[found.spec] = index + 1
    path = root / filename
    if not os.path.isfile(path):
        folder.problems.append(f"{where}: expected the image {shown}, got no such file")
        return
    below = (Path(os.path.relpath(root, folder.root)) / filename).as_posix()
    folder.items.append(
        ImageItem(path, below, found.spec, index if found.index is None else found.index, found.seed, found.rewritten)
    )
