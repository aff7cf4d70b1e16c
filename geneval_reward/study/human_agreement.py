"""How far a backend agrees with people: the human annotations that accompany the benchmark.

Five people answered structured questions about each of 400 images of three models: how many of each object there are, in which
colours, where the second lies, and how well the caption fits. The files are `annotations/annotations_{clip,if-xl,sdv2}.csv` of
djghosh13/geneval; the images are public (column `Input.image_url`). Score the images, then compare the verdicts with the answers.

The paper (arXiv 2310.11513) reports 83 % agreement of the metric with annotators, 88 % between annotators, and 91 % on
images about which all agree. The code behind these figures is not published, so ours are comparable with them but not the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np

from geneval_reward.errors import ResultsError, UsageError
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results import Results
from geneval_reward.results.notation import judge_text, kappa_text, rounded, score_text, share_text
from geneval_reward.results.record import index_of
from geneval_reward.results.tables import Document, Table
from geneval_reward.stats import Estimate, clustered_bootstrap, cohen_kappa
from geneval_reward.study.human_annotations import AnnotatedImage, Criterion

PAPER: Final = {"annotators": 0.83, "between annotators": 0.88, "unanimous": 0.91}
"""The paper's figures (arXiv 2310.11513)."""

_ESTIMATES: Final = ("annotators", "between", "majority", "unanimous")
_NUMBERS: Final = ("kappa", "kappa_low", "kappa_high", "people", "backend")


@dataclass(frozen=True)
class TaskAgreement:
    """Agreement on the images of one task, or of all.

    Attributes:
        annotators: Mean over images of the share of people who agree with the backend; the paper's 83 %.
        between: Share of pairs of people who agree, averaged over images; the paper's 88 %. None if no image has two answers.
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
        estimates = {name: getattr(self, name) for name in _ESTIMATES}
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {
            "images": self.images,
            **{name: None if one is None else one.to_dict() for name, one in estimates.items()},
            **{name: rounded(number) for name, number in numbers.items()},
        }

    def cells(self) -> list[object]:
        """The shares, and kappa, as the table shows them."""
        kappa = kappa_text(self.kappa, self.kappa_low, self.kappa_high)
        return [self.images, *(score_text(getattr(self, name)) for name in _ESTIMATES), kappa]


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
        printed = [f"{share:.2f}" for share in PAPER.values()]
        paper = ["the paper", "1,200", *printed[:2], "", printed[2], ""]
        table = Table(
            "share that agree, with 95 % intervals over prompts",
            ["task", "images", "with people", "between people", "majority", "unanimous", "kappa"],
            [*([name, *one.cells()] for name, one in tasks.items()), [], paper],
            [
                f"correct to people {share_text(self.overall.people)}, to the backend {share_text(self.overall.backend)}",
                f"judged by {self.judged_by}",
            ],
            strong=(len(self.tags),),
        )
        parts = {"value": "", "low": "_low", "high": "_high", "images": "_images", "prompts": "_prompts"}
        columns = ["images", *(f"{name}{part}" for name in _ESTIMATES for part in parts.values()), *_NUMBERS]
        rows: list[list[object]] = []
        for name, one in tasks.items():
            plain = one.to_dict()
            estimates = [(plain[key] or {}).get(part) for key in _ESTIMATES for part in parts]
            rows.append([name, one.images, *estimates, *(plain[key] for key in _NUMBERS)])
        record = {
            "criterion": self.criterion,
            "overall": self.overall.to_dict(),
            "tags": {tag: one.to_dict() for tag, one in self.tags.items()},
            "paper": PAPER,
            "notes": list(self.notes),
            "judged_by": self.judged_by,
        }
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
        images: What `geneval_reward.study.human_annotations.read_human_annotations` returns.
        results: What `geneval_reward.results.read_results` returns.
        criterion: What makes an image correct in a person's eyes, as `Answer.correct` takes it.
        draws: Bootstrap draws; prompts are drawn within tasks.

    Raises:
        ResultsError: If no image is in both, or a row's record does not fit the annotated objects.
        UsageError: If the criterion is unknown.
    """
    if criterion not in get_args(Criterion):
        raise UsageError(f"criterion: expected 'questions' or 'caption', got {criterion!r}")
    rows = _rows_by_image(results)
    specs = results.specs()
    cases: list[_Case] = []
    absent = unanswered = 0
    for image in images:
        row = rows.pop((image.prompt, image.number), None)
        if row is None:
            absent += 1
            continue
        spec = specs[int(results.prompt_ids[row])]
        _check_objects(image, spec)
        answers = [answer.correct(spec, criterion) for answer in image.answers]
        known = [answer for answer in answers if answer is not None]
        unanswered += len(answers) - len(known)
        if known:
            cases.append(_Case(spec, bool(results.correct[row]), sum(known), len(known)))
    if not cases:
        raise ResultsError(
            f"{results.path}: expected images that are annotated, got none of {len(images)}; score the images of "
            "Input.image_url under their own names (00328/samples/00001.png), with the official prompts"
        )
    name = results.filenames[next(iter(rows.values()))] if rows else ""
    notes = (
        (absent, f"of {len(images)} annotated images are not in {results.path.name} and left out"),
        (len(rows), f"scored images are not annotated, such as {name!r}"),
        (unanswered, "answers lack what the criterion takes and are left out"),
    )
    return Agreement(
        overall=_task_agreement(cases, draws),
        tags={
            tag: _task_agreement([case for case in cases if case.spec.tag == tag], draws)
            for tag in sorted({case.spec.tag for case in cases})
        },
        criterion=criterion,
        notes=tuple(f"{count} {text}" for count, text in notes if count),
        absent=absent,
        judged_by=judge_text(results.identities),
    )


@dataclass(frozen=True)
class _Case:
    """A verdict with the number of people who find the image correct, of those who answered."""

    spec: PromptSpec
    verdict: bool
    yes: int
    people: int

    @property
    def majority(self) -> bool:
        return 2 * self.yes > self.people

    @property
    def agreeing(self) -> float:
        """Share of people who agree with the verdict."""
        return (self.yes if self.verdict else self.people - self.yes) / self.people

    @property
    def agreeing_pairs(self) -> float:
        """Share of pairs of people who agree with each other."""
        return (math.comb(self.yes, 2) + math.comb(self.people - self.yes, 2)) / math.comb(self.people, 2)


def _task_agreement(cases: Sequence[_Case], draws: int) -> TaskAgreement:
    decided = [case for case in cases if 2 * case.yes != case.people]
    majority = [(case, float(case.verdict == case.majority)) for case in decided]
    kappa, low, high = cohen_kappa(
        [case.verdict for case in decided],
        [case.majority for case in decided],
        [case.spec for case in decided],
        [case.spec.tag for case in decided],
        draws=draws,
    )
    nan = float("nan")
    annotators = _mean([(case, case.agreeing) for case in cases], draws)
    assert annotators is not None
    return TaskAgreement(
        annotators=annotators,
        between=_mean([(case, case.agreeing_pairs) for case in cases if case.people > 1], draws),
        majority=_mean(majority, draws),
        unanimous=_mean([(case, right) for case, right in majority if case.yes in (0, case.people)], draws),
        kappa=kappa,
        kappa_low=low,
        kappa_high=high,
        people=float(np.mean([case.majority for case in decided])) if decided else nan,
        backend=float(np.mean([case.verdict for case in decided])) if decided else nan,
        images=len(cases),
    )


def _mean(values: Sequence[tuple[_Case, float]], draws: int) -> Estimate | None:
    """Average over images, with an interval from drawing prompts within tasks; None if there is no image."""
    if not values:
        return None
    specs = [case.spec for case, _ in values]
    tags = [spec.tag for spec in specs]
    return clustered_bootstrap([value for _, value in values], specs, tags, draws=draws).micro


def _rows_by_image(results: Results) -> dict[tuple[str, int], int]:
    """Find the row of every (prompt text, number of the image)."""
    texts = [spec.prompt for spec in results.specs()]
    found: dict[tuple[str, int], int] = {}
    for row, (name, prompt) in enumerate(zip(results.filenames, results.prompt_ids.tolist(), strict=True)):
        number = index_of(name)
        key = texts[prompt], int(results.index[row]) if number is None else number
        other = found.setdefault(key, row)
        if other != row:
            raise ResultsError(
                f"{results.path}: expected an image once, got number {key[1]} of {key[0]!r} twice: "
                f"{results.filenames[other]} and {name}"
            )
    return found


def _check_objects(image: AnnotatedImage, spec: PromptSpec) -> None:
    names = tuple(item.class_name for item in spec.include)
    if image.objects != names[: len(image.objects)] or len(image.objects) < min(len(set(names)), 2):
        raise ResultsError(
            f"{image.prompt!r}: expected annotations of {', '.join(names)}, got questions about {', '.join(image.objects)}; is "
            "this the file for these prompts?"
        )
