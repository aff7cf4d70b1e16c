"""How much of a score depends on the confidence threshold: what lies near it, and which verdicts would flip.

GenEval drops detections below one confidence (0.3, or 0.9 for counting). If a model's objects are found just above or just below
it, the score says as much about the detector as about the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError
from geneval_reward.judge import Rules, Verdict
from geneval_reward.results import ResultRow

SHIFT: Final = 0.05
"""How far the thresholds are moved, down and up."""

WINDOW: Final = 0.2
"""How far the histogram reaches on both sides of a threshold."""

BIN: Final = 0.025
"""Width of the bins of the histogram. `SHIFT` is a multiple of it, so that the band ends where a bin does."""

RULE_OF_TAG: Final = {True: "counting_confidence", False: "confidence"}
"""The threshold that holds for an image, by whether its tag is `counting`."""


@dataclass(frozen=True, slots=True)
class Flip:
    """Whether the verdict on one image changes when its threshold moves.

    Attributes:
        lower: Whether it changes with a lower threshold; None if that cannot be known, because detections or colours that it
            takes were not kept.
        higher: Whether it changes with a higher threshold; None likewise.
    """

    lower: bool | None
    higher: bool | None

    @property
    def fragile(self) -> bool:
        """Whether the verdict changes in either direction."""
        return bool(self.lower or self.higher)


@dataclass(frozen=True, eq=False)
class Threshold:
    """One threshold of the rules and the detections around it.

    Attributes:
        field: Name of the threshold in the rules.
        value: The threshold.
        edges: `(b + 1,)` edges of the bins, rising.
        counts: `(b,)` number of detections of asked classes in each bin.
        detections: Number of such detections in all, also outside the window.
        images: Number of images that the threshold decides.
        fragile: Number of these images whose verdict flips within `SHIFT`.
        lower: Verdicts that turn right, and verdicts that turn wrong, with the lower threshold.
        higher: The same numbers for the higher threshold.
        unknown: Number of images where one of the two cannot be known.
    """

    field: str
    value: float
    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    detections: int
    images: int
    fragile: int
    lower: tuple[int, int]
    higher: tuple[int, int]
    unknown: int


def flip(row: ResultRow, verdict: Verdict) -> Flip:
    """Find out whether the verdict on an image changes if its threshold moves by `SHIFT`."""
    field = RULE_OF_TAG[row.tag == "counting"]
    here = verdict.rules.threshold(row.tag)
    return Flip(*(_flips(row, verdict, field, here + step) for step in (-SHIFT, SHIFT)))


def _flips(row: ResultRow, verdict: Verdict, field: str, threshold: float) -> bool | None:
    moved: dict[str, Any] = {field: min(1.0, max(0.0, round(threshold, 6)))}
    try:
        return row.verdict(replace(verdict.rules, **moved)).correct != verdict.correct
    except (ResultsError, ValueError):
        # The threshold is below what the file keeps, or a box counts whose colour was not asked for.
        return None


def calibrate(verdicts: Sequence[Verdict], flips: Sequence[Flip]) -> list[Threshold]:
    """Look at the confidences around each threshold that is used.

    Args:
        verdicts: `(n,)` verdicts by one set of rules.
        flips: `(n,)` what `flip` returns for each.

    Returns:
        One entry for the tags other than counting and one for counting, if there are such images.
    """
    found = []
    for counting, field in ((False, RULE_OF_TAG[False]), (True, RULE_OF_TAG[True])):
        chosen = [i for i, verdict in enumerate(verdicts) if (verdict.spec.tag == "counting") == counting]
        if chosen:
            some = [verdicts[i] for i in chosen]
            found.append(_threshold(field, some[0].rules, some, [flips[i] for i in chosen]))
    return found


def _threshold(field: str, rules: Rules, verdicts: Sequence[Verdict], flips: Sequence[Flip]) -> Threshold:
    value = float(getattr(rules, field))
    confidence = np.concatenate([asked_confidences(verdict) for verdict in verdicts])
    steps = round(WINDOW / BIN)
    # Edges fall on the threshold itself, so no bin holds both sides of it.
    around: npt.NDArray[np.float64] = value + BIN * np.arange(-steps, steps + 1, dtype=np.float64)
    edges = around[(around > -BIN / 2) & (around < 1 + BIN / 2)]
    # The judge compares in float32. A detection counts if it is strictly more confident than the threshold, so the bins must be
    # open below and closed above; numpy's are the other way round, so the signs are turned.
    edges = edges.astype(np.float32).astype(np.float64)
    counts = np.histogram(-confidence, -edges[::-1])[0][::-1]
    return Threshold(
        field=field,
        value=value,
        edges=edges,
        counts=counts.astype(np.int64),
        detections=len(confidence),
        images=len(verdicts),
        fragile=sum(one.fragile for one in flips),
        lower=_moved(verdicts, [one.lower for one in flips]),
        higher=_moved(verdicts, [one.higher for one in flips]),
        unknown=sum(one.lower is None or one.higher is None for one in flips),
    )


def _moved(verdicts: Sequence[Verdict], flipped: Sequence[bool | None]) -> tuple[int, int]:
    gained = sum(bool(one) and not verdict.correct for verdict, one in zip(verdicts, flipped, strict=True))
    lost = sum(bool(one) and verdict.correct for verdict, one in zip(verdicts, flipped, strict=True))
    return gained, lost


def asked_confidences(verdict: Verdict) -> npt.NDArray[np.float64]:
    """Return the confidences of the detections of classes that the record names."""
    names = set(verdict.spec.class_names)
    asked = np.array([name in names for name in verdict.detections.class_names], np.bool_)
    return np.asarray(verdict.detections.confidence, np.float64)[asked]
