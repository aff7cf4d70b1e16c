"""How much of a score hangs on the confidence threshold: what lies near it, and which verdicts would flip.

GenEval cuts detections at one confidence (0.3; 0.9 for counting). A model whose objects sit just above or below it has a
score that says as much about the detector as about the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError
from geneval_reward.judge import Rules, Verdict
from geneval_reward.results import ResultRow

SHIFT: Final = 0.05
"""Thresholds are moved by so much, down and up."""

WINDOW: Final = 0.2
"""The histogram reaches so far to both sides of a threshold."""

BIN: Final = 0.025
"""Width of its bins; `SHIFT` is a multiple, so that the band ends where a bin does."""

RULE_OF_TAG: Final = {True: "counting_confidence", False: "confidence"}
"""Field of the rules that cuts an image's detections, by whether its tag is `counting`."""


@dataclass(frozen=True, slots=True)
class Flip:
    """What becomes of one image when its threshold moves.

    Attributes:
        lower: Whether the verdict changes with a lower threshold; None: cannot be known (detections or colours that were
            not kept).
        higher: The same with a higher one.
    """

    lower: bool | None
    higher: bool | None

    @property
    def fragile(self) -> bool:
        """Whether either changes it."""
        return bool(self.lower or self.higher)


@dataclass(frozen=True, eq=False)
class Threshold:
    """One threshold of the rules and what lies around it.

    Attributes:
        field: Its name in the rules.
        value: Where it stands.
        edges: `(b + 1,)` edges of the bins, rising.
        counts: `(b,)` detections of asked classes in each bin.
        detections: How many there are in all, outside the window too.
        images: Images that it decides.
        fragile: Of them, how many verdicts flip within `SHIFT`.
        lower: Verdicts gained and lost with the lower threshold: wrong to right, right to wrong.
        higher: The same with the higher one.
        unknown: Images where one of the two cannot be known.
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
    """Whether an image's verdict changes if its threshold moves by `SHIFT`."""
    field = RULE_OF_TAG[row.tag == "counting"]
    here = verdict.rules.threshold(row.tag)
    return Flip(*(_flips(row, verdict, field, here + step) for step in (-SHIFT, SHIFT)))


def _flips(row: ResultRow, verdict: Verdict, field: str, threshold: float) -> bool | None:
    value = min(1.0, max(0.0, round(threshold, 6)))
    try:
        rules = Rules.parse(verdict.rules.to_dict() | {field: value})
        return row.verdict(rules).correct != verdict.correct
    except (ResultsError, ValueError):
        # Below what the file keeps, or a box whose colour nobody asked for.
        return None


def calibrate(verdicts: Sequence[Verdict], flips: Sequence[Flip]) -> list[Threshold]:
    """Look at the confidences around each threshold that is used.

    Args:
        verdicts: Of images judged by one set of rules.
        flips: `(n,)` what `flip` says of each.

    Returns:
        One entry for the tags other than counting and one for counting, where there are such images.
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
    # Compared in float32, as the judge does. A detection counts if it is strictly more confident than the threshold, so bins
    # are open below and closed above: turned round, numpy's are.
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
    """Confidences of the detections of classes that the record names."""
    names = set(verdict.spec.class_names)
    asked = np.array([name in names for name in verdict.detections.class_names], np.bool_)
    return np.asarray(verdict.detections.confidence, np.float64)[asked]
