"""`ScoreRecord`: one round of scores, as trackers show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from geneval_reward.judge.verdict import Verdict
from geneval_reward.results import ResultRow
from geneval_reward.results.drawing import Box, boxes

TABLE_COLUMNS: Final = ("prompt", "tag", "image", "correct", "reason", "detections", "step", "seed")
"""What a table of samples has, in every tracker that can show one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One judged image.

    Attributes:
        verdict: What the scorer said.
        filename: Its name within the round's folder.
        index: Which image of its prompt.
        seed: The seed it was made from.
        image: The picture, for those that are shown; else None.
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
        samples: All images, of which those with a picture are shown.
        backend: Name of the scorer's backend.
        fingerprint: What decides the scorer's answers.
        fingerprint_id: Its short form.
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
        """Samples that have a picture."""
        return [sample for sample in self.samples if sample.image is not None]

    def rows(self) -> list[ResultRow]:
        """All samples as lines of a results file."""
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
        """Shown samples by `TABLE_COLUMNS`; the image as a PIL image."""
        return [
            [
                sample.verdict.spec.prompt,
                sample.verdict.spec.tag,
                sample.image,
                sample.verdict.correct,
                sample.verdict.reason,
                describe_detections(sample.verdict),
                self.step,
                str(sample.seed),  # as text: trackers show integers of 63 bits rounded
            ]
            for sample in self.shown
        ]


def shown_boxes(verdict: Verdict) -> list[Box]:
    """The detections that are worth a look, as pictures show them, most confident first within a class."""
    return sorted(boxes(verdict), key=lambda box: (box.order, -box.confidence))


def label(box: Box) -> str:
    """Class and confidence of a detection, with its colour where one was asked."""
    return f"{box.name} {box.confidence:.2f}" + ("" if box.color is None else f" {box.color}")


def describe_detections(verdict: Verdict) -> str:
    """What was seen of what was asked, in one line."""
    return ", ".join(map(label, shown_boxes(verdict))) or "nothing"
