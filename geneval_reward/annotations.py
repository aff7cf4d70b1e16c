"""How far a backend agrees with people: the human annotations that accompany the benchmark.

Five people answered structured questions about each of 400 images of three models: how many of each object, which colours,
where the second lies, how well the caption fits. The files are ``annotations/annotations_{clip,if-xl,sdv2}.csv`` of
djghosh13/geneval; the images are public (column ``Input.image_url``). Score the images, then compare.

The paper (arXiv 2310.11513) reports 83 % agreement of the metric with annotators, 88 % between annotators, and 91 % on
images about which all agree. It does not publish the code of these figures, so ours stand beside them and are not them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.vocabulary import COLORS
from geneval_reward.results import Results
from geneval_reward.results.record import index_of
from geneval_reward.stats import Estimate, clustered_bootstrap

PAPER: Final = {"annotators": 0.83, "between annotators": 0.88, "unanimous": 0.91}
"""As the paper reports them (arXiv 2310.11513)."""

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
        counts: Number of each of the caption's objects, 0 to 5 (5: or more); None where nothing was answered.
        colors: Colours of each; ``gray`` may be among them.
        relations: Where the second object lies as seen from the first: of ``left of, right of, above, below``.
        quality: How well the caption fits: 4 fully, 3 misses one element, 2 misses several, 1 unrelated; or None.
    """

    counts: tuple[int | None, int | None]
    colors: tuple[frozenset[str], frozenset[str]]
    relations: frozenset[str]
    quality: int | None

    def correct(self, spec: PromptSpec, criterion: Criterion = "questions") -> bool | None:
        """Whether this person saw what the record asks for.

        Args:
            spec: The record, of at most two clauses.
            criterion: ``questions``: the answers on numbers, colours and places, held against the record as the benchmark
                holds detections (at least so many, fewer than excluded, the colour among those named, the relation said).
                ``caption``: the caption fits fully (4 of 4).

        Returns:
            True, False, or None if what it takes was not answered.

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
    """One image with its answers.

    Attributes:
        prompt: The caption: the record's text.
        number: The image's number among those of its prompt, as its file is called.
        url: Where the image is.
        objects: Names of the objects that were asked about.
        answers: One per person.
    """

    prompt: str
    number: int
    url: str
    objects: tuple[str, ...]
    answers: tuple[Answer, ...]


def read_annotations(path: str | Path) -> list[AnnotatedImage]:
    """Read an annotation file of the benchmark.

    Args:
        path: CSV with the columns of djghosh13/geneval's files; others are not read.

    Returns:
        Images in order of appearance.

    Raises:
        ResultsError: If the file is missing or empty, a column lacks, or a cell is not what it must be; the message names line
            and column.

    Example:
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
    except UnicodeDecodeError as error:
        raise ResultsError(f"{path}: expected text in UTF-8, got something else ({error})") from error
    if not found:
        raise ResultsError(f"{path}: expected at least one annotated image, got a header only")
    return [AnnotatedImage(*key, url, objects, tuple(answers)) for key, (url, objects, answers) in found.items()]


@dataclass(frozen=True)
class TaskAgreement:
    """Agreement on the images of one task, or of all.

    Attributes:
        annotators: Mean over images of the share of people who agree with the backend; the paper's 83 %.
        between: The same among people: of the other people's answers, the share that agrees, averaged over pairs; the paper's
            88 %. None if no image has two answers.
        majority: Share of images on which the backend agrees with most people (ties left out); None if there is none.
        unanimous: The same on images about which all people agree; the paper's 91 %. None if there is none.
        kappa: Cohen's kappa with the majority: agreement beyond what the two rates of "correct" give by chance.
        kappa_low: Lower end of its interval, bootstrapped by prompt.
        kappa_high: Upper end.
        people: Share of images that most people find correct.
        backend: Share of the same images that the backend finds correct.
        images: Number of images.
    """

    annotators: Estimate
    between: Estimate | None
    majority: Estimate | None
    unanimous: Estimate | None
    kappa: float
    kappa_low: float
    kappa_high: float
    people: float
    backend: float
    images: int


@dataclass(frozen=True)
class Agreement:
    """A results file beside human annotations.

    Attributes:
        overall: On all images.
        tags: By task.
        criterion: What makes an image correct in a person's eyes.
        notes: What was left out, and why.
    """

    overall: TaskAgreement
    tags: dict[str, TaskAgreement]
    criterion: Criterion
    notes: tuple[str, ...]


def agreement(
    images: Sequence[AnnotatedImage], results: Results, *, criterion: Criterion = "questions", draws: int = 10_000
) -> Agreement:
    """Compare verdicts with what people saw.

    An annotated image and a row belong together if the caption is the row's prompt and the number is that of the row's file
    (``00328/samples/00001.png`` is number 1), or its index if the file is not called by a number. Nothing in either file says
    which *model* made an image: scoring one model's images against another's annotations gives an agreement, and a
    meaningless one.

    Args:
        images: What :func:`read_annotations` gives.
        results: What :func:`geneval_reward.results.read_results` gives.
        criterion: See :meth:`Answer.correct`.
        draws: Bootstrap draws; prompts are drawn, within tasks.

    Raises:
        ResultsError: If no image is in both, or a row's record does not fit the annotated objects.
        ValueError: For an unknown criterion.
    """
    if criterion not in ("questions", "caption"):
        raise ValueError(f"criterion: expected 'questions' or 'caption', got {criterion!r}")
    rows = _rows(results)
    specs = results.specs()
    notes, table = [], []
    absent = incomplete = 0
    for image in images:
        row = rows.pop((image.prompt, image.number), None)
        if row is None:
            absent += 1
            continue
        spec = specs[int(results.prompt_ids[row])]
        _check_objects(image, spec)
        said = [answer.correct(spec, criterion) for answer in image.answers]
        known = [bool(one) for one in said if one is not None]
        incomplete += len(said) - len(known)
        if known:
            table.append((spec, bool(results.correct[row]), known))
    if not table:
        raise ResultsError(
            f"{results.path}: expected images that are annotated, got none of {len(images)}; score the images of "
            "Input.image_url under their own names (00328/samples/00001.png), with the official prompts"
        )
    for count, text in (
        (absent, f"of {len(images)} annotated images are not in {results.path.name} and left out"),
        (
            len(rows),
            f"scored images are not annotated, such as {results.filenames[next(iter(rows.values()))]!r}"
            if rows
            else "",
        ),
        (incomplete, "answers lack what the criterion takes and are left out"),
    ):
        if count:
            notes.append(f"{count} {text}")
    tags = [spec.tag for spec, _, _ in table]
    return Agreement(
        overall=_agreement(table, draws),
        tags={
            tag: _agreement([row for row in table if row[0].tag == tag], draws) for tag in dict.fromkeys(sorted(tags))
        },
        criterion=criterion,
        notes=tuple(notes),
    )


_Row = tuple[PromptSpec, bool, list[bool]]


def _agreement(table: Sequence[_Row], draws: int) -> TaskAgreement:
    votes = [(spec, verdict, 2 * sum(said) - len(said), said) for spec, verdict, said in table]
    decided = [(spec, verdict, lean > 0) for spec, verdict, lean, _ in votes if lean]
    pairs = [
        (spec, float(np.mean([a == b for a, b in combinations(said, 2)]))) for spec, _, said in table if len(said) > 1
    ]
    kappa, low, high = _kappa(decided, draws)
    return TaskAgreement(
        annotators=_mean(
            [(spec, float(np.mean([one == verdict for one in said]))) for spec, verdict, said in table], draws
        ),
        between=_mean(pairs, draws) if pairs else None,
        majority=_mean([(spec, float(verdict == most)) for spec, verdict, most in decided], draws) if decided else None,
        unanimous=_mean(unanimous, draws)
        if (unanimous := [(s, float(v == (lean > 0))) for s, v, lean, said in votes if abs(lean) == len(said)])
        else None,
        kappa=kappa,
        kappa_low=low,
        kappa_high=high,
        people=float(np.mean([most for _, _, most in decided])) if decided else float("nan"),
        backend=float(np.mean([verdict for _, verdict, _ in decided])) if decided else float("nan"),
        images=len(table),
    )


def _mean(values: Sequence[tuple[PromptSpec, float]], draws: int) -> Estimate:
    """Mean over images, with an interval that draws prompts within tasks."""
    return clustered_bootstrap(
        [value for _, value in values],
        [spec.to_json() for spec, _ in values],
        [spec.tag for spec, _ in values],
        draws=draws,
    ).micro


def _kappa(decided: Sequence[tuple[PromptSpec, bool, bool]], draws: int) -> tuple[float, float, float]:
    """Cohen's kappa of two yes/no judges, with a percentile interval over prompts.

    Source: J. Cohen 1960, Educ. Psychol. Meas. 20:37.
    """
    prompts = {spec: i for i, spec in enumerate(dict.fromkeys(spec for spec, _, _ in decided))}
    # Per prompt: images, both yes, backend yes, people yes.
    table = np.zeros((len(prompts), 4))
    for spec, verdict, most in decided:
        table[prompts[spec]] += (1.0, verdict and most, verdict, most)

    def of(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        n, both, a, b = sums.T
        with np.errstate(invalid="ignore", divide="ignore"):
            seen = (n - a - b + 2 * both) / n
            chance = (a * b + (n - a) * (n - b)) / n**2
            result: npt.NDArray[np.float64] = np.where(chance < 1, (seen - chance) / (1 - chance), np.nan)
        return result

    if not len(table):
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=draws)
    drawn = of(weights @ table)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if drawn.size else (np.nan, np.nan)
    return float(of(table.sum(axis=0, keepdims=True))[0]), float(low), float(high)


def _rows(results: Results) -> dict[tuple[str, int], int]:
    texts = [spec.prompt for spec in results.specs()]
    found: dict[tuple[str, int], int] = {}
    for row, (name, prompt) in enumerate(zip(results.filenames, results.prompt_ids.tolist(), strict=True)):
        number = index_of(name)
        key = (texts[prompt], int(results.index[row]) if number is None else number)
        if key in found:
            raise ResultsError(
                f"{results.path}: expected an image once, got number {key[1]} of {key[0]!r} twice: "
                f"{results.filenames[found[key]]} and {name}"
            )
        found[key] = row
    return found


def _check_objects(image: AnnotatedImage, spec: PromptSpec) -> None:
    names = tuple(item.class_name for item in spec.include)
    if image.objects != names[: len(image.objects)] or len(image.objects) < min(len(set(names)), 2):
        raise ResultsError(
            f"{image.prompt!r}: expected annotations of {', '.join(names)}, got questions about {', '.join(image.objects)}; is "
            "this the file for these prompts?"
        )


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
    """A number >= 0, also as ``1.0``, which pandas makes of columns with gaps; None for an empty cell."""
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
