"""`FolderGenerator`: a generator that returns stored images from a folder."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from geneval_reward.errors import ResultsError
from geneval_reward.generate.batches import check_request
from geneval_reward.generate.seeds import seed_for
from geneval_reward.results.layout import ImageItem, read_folder
from geneval_reward.support.counts import counted
from geneval_reward.vision.images import load_rgb


class FolderGenerator:
    """Returns a folder's stored images for the prompts and seeds that they were made from.

    It lets anything that takes a generator (a sweep, a callback, a comparison) run on images of any origin.

    Images with a recorded seed, such as those of `geneval-reward generate`, are found by that seed. Otherwise, image `i` of
    a prompt (the number in its file name, see `geneval_reward.results.layout.ImageItem`) has the seed
    `seed_for(base_seed, prompt, i)`, which everything in this package asks for.

    Args:
        root: A folder in the benchmark's layout or, with `metadata`, any folder of images; see
            `geneval_reward.results.layout.read_folder`.
        metadata: File of JSON lines with records and file names, for a flat folder.
        base_seed: Seed of the whole set, for images whose own seed is not recorded.

    Attributes:
        root: The folder.
        prompts: Texts of the records, in order of appearance, each once.
        problems: One sentence for each problem with the folder.

    Raises:
        ResultsError: If the folder is missing or holds no image with a record.

    Examples:
        >>> import pathlib, tempfile
        >>> from geneval_reward.results.layout import write_prompt_folder
        >>> from geneval_reward.prompts import official_suite
        >>> root, spec = pathlib.Path(tempfile.mkdtemp()), official_suite()[0]
        >>> Image.new("RGB", (8, 8), "red").save(write_prompt_folder(root, 0, spec) / "0000.png")
        >>> generator = FolderGenerator(root)
        >>> generator.generate([spec.prompt], [seed_for(0, spec.prompt, 0)])[0].getpixel((0, 0))
        (255, 0, 0)
    """

    def __init__(self, root: str | Path, metadata: str | Path | None = None, *, base_seed: int = 0) -> None:
        folder = read_folder(root, metadata)
        self.root = folder.root
        self.base_seed = base_seed
        self._items: dict[str, list[ImageItem]] = {}
        for item in folder.items:
            self._items.setdefault(item.spec.prompt, []).append(item)
        self._by_seed: dict[tuple[str, int], ImageItem] = {}
        for prompt, items in self._items.items():
            for number, item in zip(_numbers(prompt, items, folder.problems), items, strict=True):
                seed = seed_for(base_seed, prompt, number) if item.seed is None else item.seed
                self._by_seed.setdefault((prompt, seed), item)
        self.problems = tuple(folder.problems)

    @property
    def prompts(self) -> tuple[str, ...]:
        """Texts of the records, in order of appearance, each once."""
        return tuple(self._items)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Read images.

        Args:
            prompts: Texts of the records (not rewritten ones).
            seeds: One per prompt.

        Returns:
            One RGB image per prompt, in order.

        Raises:
            ResultsError: If there is no image of a prompt, or none with that seed; the message lists those that exist.
            ImageError: If a file cannot be read.
            ValueError: If there are not as many seeds as prompts.
            TypeError: If a prompt is not text.
        """
        texts, numbers = check_request(prompts, seeds)
        # Look up all images before reading the first, so that a missing one is reported at once.
        items = [
            self._find(prompt, seed, index) for index, (prompt, seed) in enumerate(zip(texts, numbers, strict=True))
        ]
        return [_read(item.path) for item in items]

    def _find(self, prompt: str, seed: int, index: int) -> ImageItem:
        item = self._by_seed.get((prompt, seed))
        if item is not None:
            return item
        items = self._items.get(prompt)
        if items is None:
            shown = prompt[:300]  # difflib uses many times the memory of a long text
            near = difflib.get_close_matches(shown, self._items, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ResultsError(
                f"prompts[{index}]: expected a prompt with images in {self.root} ({len(self._items)} prompts), got "
                f"{shown!r}{hint}"
            )
        if all(stored.seed is None for stored in items):
            there = _ranges(_numbers(prompt, items, []))
            raise ResultsError(
                f"seeds[{index}]: expected seed_for({self.base_seed}, {prompt!r}, i) with i of {there}, the "
                f"{counted(len(items), 'image')} stored in {self.root}, got {seed}; generate more, or ask with another base_seed"
            )
        known = ", ".join(f"{stored.seed} ({stored.filename})" for stored in items[:4])
        raise ResultsError(
            f"seeds[{index}]: expected a seed of the {counted(len(items), 'image')} of {prompt!r} in {self.root}, such "
            f"as {known}, got {seed}; generate more, or ask with the same base seed"
        )


def _numbers(prompt: str, items: Sequence[ImageItem], problems: list[str]) -> list[int]:
    """Number a prompt's images by file name, or by order if two folders with the same text repeat a number."""
    own: dict[int, ImageItem] = {}
    for item in items:
        if item.seed is None and own.setdefault(item.index, item) is not item:
            problems.append(
                f"{prompt!r}: expected every number of an image once, got {item.index} for {own[item.index].filename} and "
                f"{item.filename}; the images of this prompt are numbered by their order"
            )
            return list(range(len(items)))
    return [item.index for item in items]


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as ranges: `0..2, 5` for 0, 1, 2, 5."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("..".join(map(str, part)) for part in parts)


def _read(path: Path) -> Image.Image:
    # Read files as the judge does, so that a rotated or 16-bit image is the same here and in `score`.
    return load_rgb(path)
