from __future__ import annotations

import json

import numpy as np
import pytest

from geneval_reward.judge import Detections
from geneval_reward.prompts import CLASS_NAMES
from geneval_reward.vision.parity import compare


def found(rows: list[tuple[float, float, float, float, float, int]], masks: bool = False) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    mask = np.zeros((len(rows), 50, 60), np.bool_)
    for index, (x0, y0, x1, y1, _, _) in enumerate(rows):
        mask[index, int(y0) : int(y1), int(x0) : int(x1)] = True
    return Detections(table[:, :4], table[:, 4], table[:, 5], (60, 50), mask if masks else None)


def test_same_answer() -> None:
    answer = found([(0, 0, 10, 10, 0.9, 2), (20, 20, 40, 40, 0.8, 2), (0, 0, 5, 5, 0.1, 7)], masks=True)
    difference = compare(answer, answer)
    assert difference.same
    assert difference.objects == (2, 2)
    assert (difference.matched, difference.confidence, difference.box, difference.mask_iou) == (2, 0.0, 0.0, 1.0)


def test_differences_are_measured() -> None:
    first = found([(0, 0, 10, 10, 0.9, 2), (20, 20, 40, 40, 0.8, 2), (5, 5, 9, 9, 0.31, 7)], masks=True)
    second = found([(20, 20, 40, 42, 0.75, 2), (0, 0, 10, 9, 0.85, 2), (5, 5, 9, 9, 0.29, 7)], masks=True)
    difference = compare(first, second)
    assert not difference.same
    assert difference.counts_differ == (CLASS_NAMES[7],)
    assert difference.objects == (3, 2)
    assert difference.matched == 2
    assert difference.confidence == pytest.approx(0.05, abs=1e-6)
    assert difference.box == 2
    assert difference.mask_iou == pytest.approx(0.9, abs=0.02)
    json.dumps(difference.to_dict())


def test_equal_boxes_are_told_apart_by_confidence() -> None:
    first = found([(0, 0, 10, 10, 0.9, 2), (0, 0, 10, 10, 0.5, 2)])
    second = found([(0, 0, 10, 10, 0.5, 2), (0, 0, 10, 10, 0.9, 2)])
    assert compare(first, second).confidence == 0.0


def test_other_image() -> None:
    with pytest.raises(ValueError, match="60, 50"):
        compare(found([]), Detections.empty((50, 60)))
