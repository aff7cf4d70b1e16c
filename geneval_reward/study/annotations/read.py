"""What people answered about the benchmark's images: its annotation files."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from geneval_reward.errors import ResultsError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.vocabulary import COLORS

Criterion = Literal["questions", "caption"]

_COLUMNS: Final = (
    "Input.prompt_id",
    "Input.image_id",
    "Input.image_url",
    "Input.caption",
    "Input.object_0_name",
    "Input.object_1_name",
    "Answer.task-color-0",
    "Answer.task-color-1",
    "Answer.task-count-0",
    "Answer.task-count-1",
    "Answer.task-position-x",
    "Answer.task-position-y",
    "Answer.task-quality",
)
_SEEN_COLORS: Final = (*COLORS, "gray")
_X: Final = {"left": "left of", "right": "right of", "neither_x": None}
_Y: Final = {"above": "above", "below": "below", "neither_y": None}
_QUALITY: Final = (1, 2, 3, 4)


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
        names = [item.class_name for item in spec.include]
        for item, count, colors in zip(spec.include, self.counts, self.colors, strict=False):
            if count is None:
                return None
            if count < item.count or (item.color is not None and item.color not in colors):
                return False
        for unwanted in spec.exclude:
            count = self.counts[names.index(unwanted.class_name)] if unwanted.class_name in names else 0
            if count is not None and count >= unwanted.count:
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


def read_annotations(path: str | Path) -> list[AnnotatedImage]:
    """Read an annotation file of the benchmark.

    Args:
        path: A CSV file with the columns of djghosh13/geneval's files; further columns are not read.

    Returns:
        Images in order of appearance.

    Raises:
        ResultsError: If the file is missing or empty, lacks a column, or has a cell that cannot be read; the message names the
            line and the column.

    Examples:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> row = dict.fromkeys(_COLUMNS, "") | {"Input.caption": "a photo of a dog", "Input.image_id": "2",
        ...     "Input.object_0_name": "dog", "Answer.task-count-0": "1", "Answer.task-quality": "4"}
        >>> _ = path.write_text(",".join(row) + "\\n" + ",".join(row.values()) + "\\n")
        >>> image, = read_annotations(path)
        >>> image.prompt, image.number, image.answers[0].counts
        ('a photo of a dog', 2, (1, None))
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ResultsError(
                    f"{path}: expected the columns of the benchmark's annotation files, got none called {missing[0]!r}; the "
                    "files are annotations/annotations_*.csv of djghosh13/geneval"
                )
            found: dict[tuple[str, int], tuple[str, tuple[str, ...], list[Answer]]] = {}
            for row in reader:
                where = f"{path} line {reader.line_num}"
                key = (_text(row, "Input.caption", where), _whole(row, "Input.image_id", where))
                objects = tuple(filter(None, (row[f"Input.object_{i}_name"] for i in (0, 1))))
                answers = found.setdefault(key, (row["Input.image_url"], objects, []))[2]
                answers.append(_answer(row, where))
    except OSError as error:
        raise ResultsError(f"{path}: expected an annotation file, got none ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(
            f"{path}: expected text in UTF-8 with comma-separated cells, got something else ({error})"
        ) from error
    if not found:
        raise ResultsError(f"{path}: expected at least one annotated image, got a header only")
    return [AnnotatedImage(*key, url, objects, tuple(answers)) for key, (url, objects, answers) in found.items()]


def _answer(row: Mapping[str, Any], where: str) -> Answer:
    relations = [
        _choice(row, "Answer.task-position-x", _X, where),
        _choice(row, "Answer.task-position-y", _Y, where),
    ]
    quality = _number(row, "Answer.task-quality", where)
    if quality is not None and quality not in _QUALITY:
        raise ResultsError(f"{where}: Answer.task-quality: expected 1 to 4, got {quality}")
    return Answer(
        counts=(_number(row, "Answer.task-count-0", where), _number(row, "Answer.task-count-1", where)),
        colors=(_colors(row, "Answer.task-color-0", where), _colors(row, "Answer.task-color-1", where)),
        relations=frozenset(filter(None, relations)),
        quality=quality,
    )


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row[name]
    if not value:
        raise ResultsError(f"{where}: {name}: expected text, got an empty cell")
    return str(value)


def _whole(row: Mapping[str, Any], name: str, where: str) -> int:
    number = _number(row, name, where)
    if number is None:
        raise ResultsError(f"{where}: {name}: expected a number, got an empty cell")
    return number


def _number(row: Mapping[str, Any], name: str, where: str) -> int | None:
    """Read a number >= 0, also written as `1.0`, which pandas makes of columns with gaps; None for an empty cell."""
    value = (row[name] or "").strip()
    if not value:
        return None
    if re.fullmatch(r"\d+(\.0+)?", value) is None:
        raise ResultsError(f"{where}: {name}: expected a whole number, got {value!r}")
    return int(float(value))


def _colors(row: Mapping[str, Any], name: str, where: str) -> frozenset[str]:
    values = [value for value in (row[name] or "").split("|") if value]
    unknown = [value for value in values if value not in _SEEN_COLORS]
    if unknown:
        raise ResultsError(f"{where}: {name}: expected colours of {', '.join(_SEEN_COLORS)}, got {unknown[0]!r}")
    return frozenset(values)


def _choice(row: Mapping[str, Any], name: str, known: Mapping[str, str | None], where: str) -> str | None:
    value = row[name] or ""
    if value and value not in known:
        raise ResultsError(f"{where}: {name}: expected one of {', '.join(known)}, got {value!r}")
    return known.get(value)
