"""`ScoreRecord`: one round of scores, as trackers show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from geneval_reward.judge.boxes import Box, boxes
from geneval_reward.judge.verdict import Verdict
from geneval_reward.results import ResultRow

TABLE_COLUMNS: Final = ("prompt", "task", "image", "correct", "reason", "detections", "step", "seed")
"""Columns of the table of samples, in every tracker that can show one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One judged image.

    Attributes:
        verdict: The scorer's verdict.
        filename: Name within the round's folder.
        index: Number of the image within its prompt.
        seed: The seed it was made from.
        image: The picture if it is shown; else None.
    """

    verdict: Verdict
    filename: str
    index: int
    seed: int
    image: Image.Image | None = None


@dataclass(frozen=True)
class ScoreRecord:
    """One round of scores.

    Attributes:
        name: Prefix of all keys, such as `geneval`.
        step: Number of optimizer steps.
        metrics: Scalars by full key, such as `geneval/overall`.
        samples: All images; those with a picture are shown.
        backend: Name of the scorer's backend.
        fingerprint: What determines the scorer's answers.
        fingerprint_id: Short form of `fingerprint`.
    """

    name: str
    step: int
    metrics: Mapping[str, float]
    samples: tuple[Sample, ...]
    backend: str = "custom"
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    fingerprint_id: str = ""

    @property
    def shown(self) -> list[Sample]:
        """Return the samples that have a picture."""
        return [sample for sample in self.samples if sample.image is not None]

    def rows(self) -> list[ResultRow]:
        """Return all samples as rows of a results file."""
        return [
            ResultRow.from_verdict(
                sample.verdict,
                sample.filename,
                index=sample.index,
                seed=sample.seed,
                backend=self.backend,
                fingerprint=self.fingerprint_id,
            )
            for sample in self.samples
        ]

    def table(self) -> list[list[Any]]:
        """Return the shown samples with the columns `TABLE_COLUMNS`; images are PIL images."""
        return [
            [
                sample.verdict.spec.prompt,
                sample.verdict.spec.tag,
                sample.image,
                sample.verdict.correct,
                sample.verdict.reason,
                describe_detections(sample.verdict),
                self.step,
                str(sample.seed),  # as text, because trackers round 63-bit integers
            ]
            for sample in self.shown
        ]


def shown_boxes(verdict: Verdict) -> list[Box]:
    """Return the detections that pictures show, most confident first within a class."""
    return sorted(boxes(verdict), key=lambda box: (box.order, -box.confidence))


def label(box: Box) -> str:
    """Return the class and confidence of a detection, with its colour if the prompt asks for one."""
    return f"{box.name} {box.confidence:.2f}" + ("" if box.color is None else f" {box.color}")


def describe_detections(verdict: Verdict) -> str:
    """Describe the shown detections in one line."""
    return ", ".join(map(label, shown_boxes(verdict))) or "nothing"
