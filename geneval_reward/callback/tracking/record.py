"""`ScoreRecord`: one round of scores, as trackers show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from PIL import Image

from geneval_reward.judge.evidence import Evidence
from geneval_reward.judge.verdict import Verdict
from geneval_reward.results import ResultRow

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


def seen_rows(verdict: Verdict) -> list[int]:
    """Rows of the detections that are worth a look: of the asked classes, down to half the threshold."""
    evidence = Evidence(verdict.detections, verdict.rules, verdict.spec.tag)
    ranked = [row for name in verdict.spec.class_names for row in evidence.ranked(name)]
    return [row for row in ranked if evidence.confidence(row) > evidence.threshold / 2]


def label(verdict: Verdict, row: int) -> str:
    """Class and confidence of a detection, with its colour where one was asked."""
    detections = verdict.detections
    text = f"{detections.class_names[row]} {detections.confidence[row]:.2f}"
    if detections.color is not None and not np.isnan(detections.color[row]).any():
        text += f" {Evidence(detections, verdict.rules, verdict.spec.tag).color(row) or 'no colour'}"
    return text


def describe_detections(verdict: Verdict) -> str:
    """What was seen of what was asked, in one line."""
    return ", ".join(label(verdict, row) for row in seen_rows(verdict)) or "nothing"
