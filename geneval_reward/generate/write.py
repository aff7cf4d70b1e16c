"""List the images of a prompt set in a folder, and generate those that are missing."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from geneval_reward.errors import FileError, SpecError, UsageError
from geneval_reward.generate.callable import as_pil
from geneval_reward.generate.generator import Generator
from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.generation import GENERATION
from geneval_reward.results.generator_notes import NO_NOTES, GeneratorNotes
from geneval_reward.results.layout import write_prompt_folder
from geneval_reward.support.files import read_json, write_whole

DEFAULT_BATCH = 8


@dataclass(frozen=True, slots=True)
class ImageJob:
    """One image to make.

    Attributes:
        path: The file.
        spec: The record of its prompt.
        text: The text that the generator gets: the record's, or a rewritten one.
        seed: The seed.
        index: Index among the prompt's images, from 0.
    """

    path: Path
    spec: PromptSpec
    text: str
    seed: int
    index: int


def plan_images(
    root: str | Path,
    specs: Sequence[PromptSpec],
    images_per_prompt: int,
    base_seed: int,
    *,
    numbers: Sequence[int] | None = None,
    rewrites: Mapping[PromptSpec, str] | None = None,
    notes: GeneratorNotes = NO_NOTES,
) -> list[ImageJob]:
    """Create the prompts' folders with their records, and list the images that go into them.

    Next to each `metadata.jsonl`, a `generation.json` records the text that the generator gets, whether it was rewritten,
    notes on the generator, and the seed of each image; `score` reads them from there.

    Args:
        root: The folder of the whole set.
        specs: Records.
        images_per_prompt: Images per prompt, >= 1.
        base_seed: Seed of the whole set. The seed of an image is `seed_for` of this seed, the *record's* text and the image's
            index, so a run with rewritten prompts starts from the same noise.
        numbers: Numbers of the folders; None for 0, 1, 2, ...
        rewrites: New text by record.
        notes: What a reader of the score must know about the generator; see `geneval_reward.generate.generator.notes_of`.

    Returns:
        One job per image, whether it exists or not.

    Raises:
        UsageError: If a folder holds images of another record, text or seed, which would be mistaken for images of this one.
        FileError: If an existing record cannot be read.
    """
    rewrites = {} if rewrites is None else rewrites
    jobs = []
    places = list(zip(range(len(specs)) if numbers is None else numbers, specs, strict=True))
    for number, spec in places:
        _refuse_images_of_others(Path(root) / f"{number:05d}", spec)
    for number, spec in places:
        samples = write_prompt_folder(root, number, spec)
        text = rewrites.get(spec, spec.prompt)
        own = [
            ImageJob(image_path(root, number, index), spec, text, seed_for(base_seed, spec.prompt, index), index)
            for index in range(images_per_prompt)
        ]
        record = {"text": text, "rewritten": spec in rewrites, "seeds": {job.path.name: job.seed for job in own}}
        record |= {"generator": notes.to_dict()} if notes else {}
        _update(samples.parent / GENERATION, record)
        jobs += own
    return jobs


def image_path(root: str | Path, number: int, index: int) -> Path:
    """Return an image's file from the number of its prompt and its index."""
    return Path(root) / f"{number:05d}" / "samples" / f"{index:04d}.png"


def _refuse_images_of_others(folder: Path, spec: PromptSpec) -> None:
    """Raise if a prompt's folder holds images that were made for another record."""
    record = folder / "metadata.jsonl"
    if not record.is_file() or not any((folder / "samples").glob("*.png")):
        return
    try:
        before = PromptSpec.parse(record.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except SpecError as error:
        raise FileError(f"{record}: {error}; choose another folder, or delete this one") from error
    if before != spec:
        raise UsageError(
            f"{folder}: expected images of {spec.prompt!r}, got some of another record, {before.prompt!r}; the prompt set has "
            "changed: choose another folder"
        )


@dataclass(frozen=True, slots=True)
class MadeBatch:
    """Images that were just made and written to disk.

    Attributes:
        jobs: Their jobs.
        seconds: Seconds that the generator took, excluding writing.
    """

    jobs: tuple[ImageJob, ...]
    seconds: float


def write_images(generator: Generator, jobs: Sequence[ImageJob]) -> Iterator[MadeBatch]:
    """Make the missing images, batch by batch.

    Each image is written to a temporary file and renamed, so an interruption leaves no partial image behind.

    Args:
        generator: Makes the images. Its `batch_size`, if it has one, sets the size of each batch, even if it shrinks. If it
            has `records`, one mapping per image of its last call, they go into `generation.json` before the images are
            written, so that every image has its record.
        jobs: All images; existing ones are left alone.

    Yields:
        Each batch once it is on disk.

    Raises:
        ValueError: If the generator returns the wrong number of images, or something that is not an image. Nothing of that
            batch is written.
    """
    todo = [job for job in jobs if not job.path.exists()]
    while todo:
        size = max(1, int(getattr(generator, "batch_size", DEFAULT_BATCH)))
        part, todo = todo[:size], todo[size:]
        start = time.perf_counter()
        images = generator.generate([job.text for job in part], [job.seed for job in part])
        seconds = time.perf_counter() - start
        # Check all of them before writing the first: an image in another one's place would never be made again.
        checked = as_pil(images, len(part), f"{type(generator).__name__}.generate")
        for job, record in zip(part, getattr(generator, "records", ()), strict=False):
            _add_records(job.path, record)
        for job, image in zip(part, checked, strict=True):
            save_image(image, job.path)
        yield MadeBatch(tuple(part), seconds)


def save_image(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    write_whole(path, buffer.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def _add_records(image: Path, records: Mapping[str, Any]) -> None:
    """Add an image's records to its prompt's `generation.json`, grouped by kind and keyed by image name."""
    path = image.parent.parent / GENERATION
    before = read_json(path)
    write_json(path, before | {kind: before.get(kind, {}) | {image.name: one} for kind, one in records.items()})


def _update(path: Path, record: dict[str, Any]) -> None:
    """Write a prompt's `generation.json`, keeping the seeds of images beyond those requested now."""
    if path.exists():
        before = read_json(path)
        if not isinstance(before, dict) or not isinstance(before.get("seeds"), dict):
            raise FileError(f"{path}: expected an object with text and seeds, got something else; delete the file")
        same = (
            before.get("text") == record["text"]
            and record["seeds"].items() <= (record["seeds"] | before["seeds"]).items()
        )
        if not same and any((path.parent / "samples").glob("*.png")):
            raise UsageError(
                f"{path.parent}: expected images of the text {record['text']!r} and its seeds, got some of another text or seed; "
                "choose another folder"
            )
        record = before | record | {"seeds": before["seeds"] | record["seeds"]}
        if before == record:
            return
    write_json(path, record)
