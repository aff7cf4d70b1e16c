"""Folders of images with their records: the benchmark's own layout, or a flat folder with a metadata file.

Source of the layout: djghosh13/geneval `evaluate_images.py`: `<digits>/metadata.jsonl` (one record) beside
`<digits>/samples/<digits>.png`. Unlike the benchmark, whatever is left out is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import ResultsError, SpecError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import resolve
from geneval_reward.results.record import index_of

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
GENERATE_SETUP: Final = "generate.json"
"""Beside the prompts' folders: how `geneval-reward generate` made them."""
GENERATION: Final = "generation.json"
"""Beside a prompt's `metadata.jsonl`: the text that the generator got, whether it was rewritten, and the images' seeds."""
GENERATE_LOCK: Final = "generate.lock"
_OWN: Final = (GENERATE_SETUP, GENERATE_LOCK)

_SAMPLE: Final = re.compile(r"\d+\.(png|jpe?g|webp)", re.IGNORECASE)
_FILENAME_KEYS: Final = ("filename", "file_name")


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image to score.

    Attributes:
        path: The file.
        filename: Its path below the folder, with forward slashes: how results call it.
        spec: What it was asked to show.
        index: Its number among the images of its prompt: in the benchmark's layout that of its file name (`0002.png` is 2,
            whatever else is there), in a flat folder its place among the lines of its record, from 0.
        seed: The seed it was generated from, if the metadata says.
        rewritten: The text that the generator got, where it was not the record's.
    """

    path: Path
    filename: str
    spec: PromptSpec
    index: int
    seed: int | None = None
    rewritten: str | None = None


@dataclass
class ImageFolder:
    """What a folder holds.

    Attributes:
        root: The folder.
        items: Images in the order of folders and of the numbers in file names.
        problems: One sentence for each thing that should be there and is not, naming it. Nothing is dropped silently.
        ignored: Number of files that are not images of the layout.
        subset: What `geneval-reward generate --subset` says of it; None: not a subset, or unknown.
    """

    root: Path
    items: list[ImageItem] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ignored: int = 0
    subset: str | None = None


def read_folder(root: str | Path, metadata: str | Path | None = None) -> ImageFolder:
    """List the images of a folder with their records.

    Args:
        root: The benchmark's layout; or, with `metadata`, any folder of images.
        metadata: JSON lines. Each is a record, with its image's name below `root` under `filename` or `file_name`
            (and optionally `seed`, and `rewritten`: the text that the generator got). If no line names a file, the images
            in order of their names are dealt to the lines in equal shares.

    Returns:
        Images and problems.

    Raises:
        ResultsError: If the folder or metadata file is missing, or there is not one image with a record in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise ResultsError(f"{root}: expected a folder of images, got {'a file' if root.exists() else 'nothing'}")
    folder = ImageFolder(root)
    if metadata is None:
        _read_benchmark_layout(folder)
    else:
        _read_flat(folder, Path(metadata))
    if not folder.items:
        found = f"; {folder.problems[0]}" if folder.problems else ""
        layout = "<digits>/metadata.jsonl and <digits>/samples/0000.png" if metadata is None else "the named images"
        hint = "" if metadata else "; for a flat folder pass --metadata FILE"
        raise ResultsError(f"{root}: expected {layout}, got no image with a record{found}{hint}")
    return folder


def write_prompt_folder(root: str | Path, number: int, spec: PromptSpec) -> Path:
    """Make the folder of one prompt in the benchmark's layout.

    Args:
        root: The folder of the whole set.
        number: The prompt's number, from 0; its folder is that in five digits.
        spec: The record, written as `metadata.jsonl`.

    Returns:
        The `samples` folder, into which images go as `0000.png`, `0001.png`, ...
    """
    samples = Path(root) / f"{number:05d}" / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    (samples.parent / "metadata.jsonl").write_text(spec.to_json() + "\n")
    return samples


def _read_benchmark_layout(folder: ImageFolder) -> None:
    folder.subset = _read_subset(folder.root / GENERATE_SETUP)
    for path in sorted(folder.root.iterdir()):
        if not (path.is_dir() and path.name.isdecimal()):
            folder.ignored += path.name not in _OWN
            continue
        spec = _read_record(path, folder)
        samples = path / "samples"
        if not samples.is_dir():
            folder.problems.append(f"{path.name}: expected a folder samples/ with images, got none")
            continue
        names = sorted(file.name for file in samples.iterdir())
        images = [name for name in names if _SAMPLE.fullmatch(name)]
        folder.ignored += len(names) - len(images)
        if not images:
            folder.problems.append(f"{path.name}/samples: expected images such as 0000.png, got none")
        if spec is None:
            continue
        seeds, rewritten = _read_generation(path, spec, folder)
        for index, name in _numbered(images, f"{path.name}/samples", folder):
            seed = seeds.get(name)
            folder.items.append(ImageItem(samples / name, f"{path.name}/samples/{name}", spec, index, seed, rewritten))


def _numbered(images: list[str], where: str, folder: ImageFolder) -> list[tuple[int, str]]:
    """Images with their numbers: those of the names, so that a missing file does not shift the ones after it."""
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
    """Sorts by the numbers in names: `10.png` after `2.png`."""
    # Odd parts are the digits; the name itself settles 1.png and 01.png.
    parts = re.split(r"([0-9]+)", name)
    return tuple((int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)), name


def _read_subset(setup: Path) -> str | None:
    """One sentence on the subset that a folder is, by its `generate.json`; None if it is none."""
    try:
        found = json.loads(setup.read_text(encoding="utf-8")).get("subset")
        return f"{found['prompts']} of {found['of']} prompts of the {found['suite']} suite" if found else None
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None  # not ours: it says nothing about a subset


def _read_generation(path: Path, spec: PromptSpec, folder: ImageFolder) -> tuple[dict[str, int], str | None]:
    """Seeds by file name, and the rewritten text; nothing if the folder does not say."""
    file = path / GENERATION
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        seeds = {str(name): int(seed) for name, seed in found["seeds"].items()}
        text = found["text"]
        if not isinstance(text, str):
            raise TypeError(f"text is {text!r}")
    except FileNotFoundError:
        return {}, None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        folder.problems.append(
            f"{path.name}/{GENERATION}: expected text and seeds, got something else ({error}); seeds and rewriting of its "
            "images are unknown"
        )
        return {}, None
    return seeds, None if text == spec.prompt else text


def _read_record(path: Path, folder: ImageFolder) -> PromptSpec | None:
    file = path / "metadata.jsonl"
    try:
        return PromptSpec.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        folder.problems.append(
            f"{path.name}: expected metadata.jsonl with the record, got none; its images are skipped"
        )
    except (SpecError, UnicodeDecodeError) as error:
        folder.problems.append(f"{path.name}/metadata.jsonl: {error}; its images are skipped")
    return None


def _read_flat(folder: ImageFolder, metadata: Path) -> None:
    try:
        lines = metadata.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ResultsError(f"{metadata}: expected a file of JSON lines, got none ({error.strerror})") from error
    entries: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                folder.problems.append(f"{metadata.name} line {number}: expected a JSON object, got {error}")
                continue
            if isinstance(entry, dict):
                entries.append((number, entry))
            else:
                folder.problems.append(f"{metadata.name} line {number}: expected a JSON object, got {entry!r}")
    named = [any(key in entry for key in _FILENAME_KEYS) for _, entry in entries]
    pairs = _named(folder, entries) if any(named) else _dealt(folder, metadata, entries)
    counts: dict[PromptSpec, int] = {}
    for number, filename, entry in pairs:
        _add_flat(folder, f"{metadata.name} line {number}", filename, entry, counts)


def _named(folder: ImageFolder, entries: list[tuple[int, dict[str, Any]]]) -> list[tuple[int, str, dict[str, Any]]]:
    pairs = []
    for number, entry in entries:
        filename = next((entry[key] for key in _FILENAME_KEYS if key in entry), None)
        if isinstance(filename, str):
            pairs.append((number, filename, entry))
        else:
            folder.problems.append(f"line {number}: expected the image's name under 'filename', got {filename!r}")
    listed = {filename for _, filename, _ in pairs}
    unlisted = [name for name in _images_below(folder.root) if name not in listed]
    if unlisted:
        folder.problems.append(f"{len(unlisted)} images are not in the metadata file, such as {unlisted[0]}")
    return pairs


def _dealt(
    folder: ImageFolder, metadata: Path, entries: list[tuple[int, dict[str, Any]]]
) -> list[tuple[int, str, dict[str, Any]]]:
    images = _images_below(folder.root)
    if not entries or not images or len(images) % len(entries):
        raise ResultsError(
            f"{metadata}: expected 'filename' in each line, or a number of images that is a multiple of the lines; "
            f"got {len(images)} images and {len(entries)} lines without names"
        )
    share = len(images) // len(entries)
    return [(*entries[index // share][:1], name, entries[index // share][1]) for index, name in enumerate(images)]


def _images_below(root: Path) -> list[str]:
    files = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted((path.relative_to(root).as_posix() for path in files), key=_natural)


def _add_flat(
    folder: ImageFolder, where: str, filename: str, entry: Mapping[str, Any], counts: dict[PromptSpec, int]
) -> None:
    record = {key: value for key, value in entry.items() if key not in (*_FILENAME_KEYS, "seed", "rewritten")}
    path = folder.root / filename
    try:
        # A line with nothing but a prompt text is enough for the official suite.
        spec = resolve(record["prompt"] if set(record) == {"prompt"} else record)
    except SpecError as error:
        folder.problems.append(f"{where}: {error}; its image is skipped")
        return
    # A line counts whether or not its file is there, so that a missing one does not shift those after it.
    index = counts.get(spec, 0)
    counts[spec] = index + 1
    if not path.is_file():
        folder.problems.append(f"{where}: expected the image {filename}, got no such file")
        return
    seed, text = entry.get("seed"), entry.get("rewritten")
    rewritten = text if isinstance(text, str) and text != spec.prompt else None
    folder.items.append(ImageItem(path, filename, spec, index, seed if isinstance(seed, int) else None, rewritten))
