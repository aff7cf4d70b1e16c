"""How often verdicts agree with what people saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results import Results
from geneval_reward.results.record import index_of
from geneval_reward.results.tables import Document, Table
from geneval_reward.stats import Estimate, clustered_bootstrap
from geneval_reward.study.annotations.read import AnnotatedImage, Criterion
from geneval_reward.study.wording import judge_text, points_text

PAPER: Final = {"annotators": 0.83, "between annotators": 0.88, "unanimous": 0.91}
"""The paper's figures (arXiv 2310.11513)."""


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
        kappa_low: Lower end of its interval, prompts drawn within tasks; NaN where the draws do not vary.
        kappa_high: Upper end of the interval.
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

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        numbers = {name: getattr(self, name) for name in ("kappa", "kappa_low", "kappa_high", "people", "backend")}
        return {
            "images": self.images,
            **{name: None if one is None else one.to_dict() for name, one in self._estimates().items()},
            **{name: None if math.isnan(number) else round(number, 6) for name, number in numbers.items()},
        }

    def cells(self) -> list[object]:
        """The figures in per cent, and kappa, as the table shows them."""
        kappa = "–" if math.isnan(self.kappa) else f"{self.kappa:.2f}"
        if not math.isnan(self.kappa_low):
            kappa += f" ({self.kappa_low:.2f} to {self.kappa_high:.2f})"
        return [self.images, *map(points_text, self._estimates().values()), kappa]

    def _estimates(self) -> dict[str, Estimate | None]:
        return {name: getattr(self, name) for name in ("annotators", "between", "majority", "unanimous")}


@dataclass(frozen=True)
class Agreement:
    """A results file beside human annotations.

    Attributes:
        overall: Agreement on all images.
        tags: Agreement by task.
        criterion: What makes an image correct in a person's eyes.
        notes: What was left out, and why.
        absent: Number of annotated images that are not in the results.
        judged_by: What judged the images, and by which rules.
    """

    overall: TaskAgreement
    tags: dict[str, TaskAgreement]
    criterion: Criterion
    notes: tuple[str, ...]
    absent: int
    judged_by: str

    def document(self) -> Document:
        """The agreement in every format; CSV has one line per task."""
        tasks = {**self.tags, "all": self.overall}
        paper = [f"{100 * PAPER[key]:.0f}" for key in ("annotators", "between annotators")]
        header = ["task", "images", "with people", "between people", "majority", "unanimous", "kappa"]
        table = Table(
            "per cent that agree, with 95 % intervals over prompts",
            header,
            [*([name, *one.cells()] for name, one in tasks.items()), [], ["the paper", "1,200", *paper, "", "91", ""]],
            [
                f"people find {100 * self.overall.people:.0f} % correct, the backend {100 * self.overall.backend:.0f} %",
                f"judged by {self.judged_by}",
            ],
            strong=(len(self.tags),),
        )
        plain = {
            name: {
                f"{key}_{part}" if part else key: number
                for key, value in one.to_dict().items()
                for part, number in (value.items() if isinstance(value, dict) else [("", value)])
            }
            for name, one in tasks.items()
        }
        columns = list(dict.fromkeys(key for values in plain.values() for key in values))
        record = {
            "criterion": self.criterion,
            "overall": self.overall.to_dict(),
            "tags": {tag: one.to_dict() for tag, one in self.tags.items()},
            "paper": PAPER,
            "notes": list(self.notes),
            "judged_by": self.judged_by,
        }
        rows = [[name, *map(values.get, columns)] for name, values in plain.items()]
        return Document([table], Table("", ["task", *columns], rows), record, problems=self.notes)


def agreement(
    images: Sequence[AnnotatedImage], results: Results, *, criterion: Criterion = "questions", draws: int = 10_000
) -> Agreement:
    """Compare verdicts with what people saw.

    An annotated image and a row belong together if the caption is the row's prompt and the number is that of the row's file
    (`00328/samples/00001.png` is number 1), or its index if the file is not called by a number. Nothing in either file says
    which *model* made an image: scoring one model's images against another's annotations gives an agreement, and a
    meaningless one.

    Args:
        images: What `read_annotations` returns.
        results: What `geneval_reward.results.read_results` returns.
        criterion: What makes an image correct in a person's eyes, as `Answer.correct` takes it.
        draws: Bootstrap draws; prompts are drawn within tasks.

    Raises:
        ResultsError: If no image is in both, or a row's record does not fit the annotated objects.
        UsageError: If the criterion is unknown.
    """
    if criterion not in ("questions", "caption"):
        raise UsageError(f"criterion: expected 'questions' or 'caption', got {criterion!r}")
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
        absent=absent,
        judged_by=judge_text(results.identities),
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
    """Average over images, with an interval from drawing prompts within tasks."""
    return clustered_bootstrap(
        [value for _, value in values],
        [spec.to_json() for spec, _ in values],
        [spec.tag for spec, _ in values],
        draws=draws,
    ).micro


def _kappa(decided: Sequence[tuple[PromptSpec, bool, bool]], draws: int) -> tuple[float, float, float]:
    """Compute Cohen's kappa of two yes/no judges, with a percentile interval from drawing prompts within tasks.

    Where all draws agree, as they do on a few images without a disagreement, the interval is unknown (NaN) and not a point.

    Source:
        J. Cohen 1960, Educ. Psychol. Meas. 20:37.
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
    tags = np.array([spec.tag for spec in prompts])
    sums = np.zeros((draws, 4))
    for tag in np.unique(tags):
        part = table[tags == tag]
        sums += rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=draws) @ part
    drawn = of(sums)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, (0.025, 0.975)) if drawn.size and np.ptp(drawn) > 0 else (np.nan, np.nan)
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
