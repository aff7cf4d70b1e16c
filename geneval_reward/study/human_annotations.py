"""What people answered about the benchmark's images: its annotation files."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from geneval_reward.errors import ResultsError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.vocabulary import COLORS

Criterion = Literal["questions", "caption"]

_SEEN_COLORS: Final = (*COLORS, "gray")
_PLACES: Final = {
    "left": "left of", "right": "right of", "neither_x": "", "above": "above", "below": "below", "neither_y": "",
}  # fmt: skip
_COLUMNS: Final = (
    *(f"Input.{name}" for name in ("prompt_id", "image_id", "image_url", "caption", "object_0_name", "object_1_name")),
    *(
        f"Answer.task-{name}"
        for name in ("color-0", "color-1", "count-0", "count-1", "position-x", "position-y", "quality")
    ),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one person said of one image.

    Attributes:
        counts: Number of each of the caption's objects, 0 to 5, where 5 means 5 or more; None where nothing was answered.
        colors: Colours of each object; `gray` may be among them.
        relations: Where the second object lies as seen from the first: any of `left of`, `right of`, `above`, `below`.
        quality: How well the caption fits: 4 fully, 3 misses one element, 2 misses several, 1 unrelated; None if not answered.
    """

    counts: tuple[int | None, int | None]
    colors: tuple[frozenset[str], frozenset[str]]
    relations: frozenset[str]
    quality: int | None

    def correct(self, spec: PromptSpec, criterion: Criterion = "questions") -> bool | None:
        """Decide whether this person saw what the record asks for.

        Args:
            spec: The record, with at most two clauses.
            criterion: `questions` holds the answers on numbers, colours and places against the record as the benchmark holds
                detections: at least as many objects as included, fewer than excluded, the colour among those named, and the
                relation named. `caption` asks whether the caption fits fully (4 of 4).

        Returns:
            True, False, or None if a question that matters was not answered.

        Raises:
            ResultsError: If the record has more than two clauses, which the questions do not cover.
        """
        if criterion == "caption":
            return None if self.quality is None else self.quality == 4
        if len(spec.include) > 2:
            raise ResultsError(
                f"{spec.prompt!r}: expected at most two objects, as the questions have, got {len(spec.include)}"
            )
        counts = dict(zip((item.class_name for item in spec.include), self.counts, strict=False))
        for item, count, colors in zip(spec.include, self.counts, self.colors, strict=False):
            if count is None:
                return None
            if count < item.count or (item.color is not None and item.color not in colors):
                return False
        if any((counts.get(unwanted.class_name) or 0) >= unwanted.count for unwanted in spec.exclude):
            return False
        return all(place.relation in self.relations for item in spec.include for place in item.positions)


@dataclass(frozen=True)
class AnnotatedImage:
    """One image with the answers about it.

    Attributes:
        prompt: The caption, which is the text of the record.
        number: Number of the image among those of its prompt, after which its file is named.
        url: Address of the image.
        objects: Names of the objects that the questions were about.
        answers: One answer per person.
    """

    prompt: str
    number: int
    url: str
    objects: tuple[str, ...]
    answers: tuple[Answer, ...]


def read_human_annotations(path: str | Path) -> list[AnnotatedImage]:
    """Read an annotation file of the benchmark.

    Args:
        path: A CSV file with the columns of djghosh13/geneval's files; further columns are not read.

    Returns:
        Images in order of appearance.

    Raises:
        ResultsError: If the file is missing or empty, lacks a column, or has a cell that cannot be read; the message names the
            line and the column.
    """
    path = Path(path)
    found: dict[tuple[str, int], tuple[str, tuple[str, ...], list[Answer]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ResultsError(
                    f"{path}: expected the columns of the benchmark's annotation files, got none called {missing[0]!r}; the "
                    "files are annotations/annotations_*.csv of djghosh13/geneval"
                )
            for row in reader:
                cells = _Cells(row, f"{path} line {reader.line_num}")
                number = cells.number("Input.image_id")
                if not row["Input.caption"] or number is None:
                    name, kind = ("image_id", "a number") if row["Input.caption"] else ("caption", "text")
                    raise ResultsError(f"{cells.where}: Input.{name}: expected {kind}, got an empty cell")
                objects = tuple(filter(None, (row[f"Input.object_{i}_name"] for i in (0, 1))))
                key = row["Input.caption"], number
                found.setdefault(key, (row["Input.image_url"], objects, []))[2].append(cells.answer())
    except OSError as error:
        raise ResultsError(f"{path}: expected an annotation file, got none ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(
            f"{path}: expected text in UTF-8 with comma-separated cells, got something else ({error})"
        ) from error
    if not found:
        raise ResultsError(f"{path}: expected at least one annotated image, got a header only")
    return [AnnotatedImage(*key, url, objects, tuple(answers)) for key, (url, objects, answers) in found.items()]


@dataclass(frozen=True)
class _Cells:
    """A line of an annotation file; `where` is its file and number."""

    row: Mapping[str, Any]
    where: str

    def answer(self) -> Answer:
        quality = self.number("Answer.task-quality")
        if quality not in (None, 1, 2, 3, 4):
            raise ResultsError(f"{self.where}: Answer.task-quality: expected 1 to 4, got {quality}")
        x = self.choices("Answer.task-position-x", list(_PLACES)[:3], "one of")
        y = self.choices("Answer.task-position-y", list(_PLACES)[3:], "one of")
        first, second = (self.choices(f"Answer.task-color-{i}", _SEEN_COLORS, "colours of") for i in (0, 1))
        return Answer(
            counts=(self.number("Answer.task-count-0"), self.number("Answer.task-count-1")),
            colors=(first, second),
            relations=frozenset(_PLACES[name] for name in x | y if _PLACES[name]),
            quality=quality,
        )

    def number(self, name: str) -> int | None:
        """Read a number >= 0, also written as `1.0`, which pandas makes of columns with gaps; None for an empty cell."""
        value = (self.row[name] or "").strip()
        if value and re.fullmatch(r"\d+(\.0+)?", value) is None:
            raise ResultsError(f"{self.where}: {name}: expected a whole number, got {value!r}")
        return int(float(value)) if value else None

    def choices(self, name: str, known: Sequence[str], expected: str) -> frozenset[str]:
        values = [value for value in (self.row[name] or "").split("|") if value]
        for value in values:
            if value not in known:
                raise ResultsError(f"{self.where}: {name}: expected {expected} {', '.join(known)}, got {value!r}")
        return frozenset(values)
