"""What lies around the thresholds, and which verdicts flip."""

import math

import numpy as np
import pytest

from geneval_reward.judge import Detections, Rules, judge
from geneval_reward.prompts import PromptSpec
from geneval_reward.results import ResultRow
from geneval_reward.study.report.calibration import BIN, SHIFT, calibrate, flip

DOG = PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}]})
DOGS = PromptSpec.parse(
    {"tag": "counting", "include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]}
)
RED = PromptSpec.parse({"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]})


def look(spec, *confidences, names=None, floor=0.0):
    ids = [{"dog": 16, "cat": 15}[name] for name in names or ["dog"] * len(confidences)]
    boxes = [[10 * i, 10, 10 * i + 8, 18] for i in range(len(confidences))]
    detections = Detections(np.array(boxes, np.float32), np.array(confidences), np.array(ids), (200, 100))
    row = ResultRow.from_verdict(judge(spec, detections), "0.png", min_confidence=floor)
    return row, row.verdict()


@pytest.mark.parametrize(
    ("spec", "confidences", "lower", "higher"),
    [
        (DOG, [0.9], False, False),
        (DOG, [0.32], False, True),
        (DOG, [0.28], True, False),
        (DOG, [0.2], False, False),
        (DOGS, [0.99, 0.92], False, True),
        (DOGS, [0.99, 0.98, 0.87], True, False),  # a third dog is one too many
        (DOGS, [0.99, 0.98, 0.92], False, True),  # and with it gone, two are left
        (DOGS, [0.99, 0.93, 0.92], False, False),
    ],
)
def test_flips(spec, confidences, lower, higher):
    found = flip(*look(spec, *confidences))
    assert (found.lower, found.higher) == (lower, higher)
    assert found.fragile == (lower or higher)


def test_what_was_not_kept_is_unknown():
    assert flip(*look(DOG, 0.9, floor=0.28)).lower is None
    assert flip(*look(DOG, 0.9, floor=0.28)).higher is False


def test_a_colour_that_nobody_asked_for_is_unknown():
    """Lowered, the threshold lets in a dog whose colour is not in the file."""
    detections = Detections(np.array([[10, 10, 18, 18]], np.float32), np.array([0.27]), np.array([16]), (200, 100))
    detections = detections.with_color(np.full((1, 10), math.nan, np.float32))
    row = ResultRow(
        "0.png", RED.tag, RED.prompt, False, "", RED.to_json(), rules=Rules().to_dict(), detections=detections
    )
    found = flip(row, row.verdict())
    assert (found.lower, found.higher, found.fragile) == (None, False, False)
    assert calibrate([row.verdict()], [found])[0].unknown == 1


def test_histogram_counts_asked_classes_beside_the_threshold():
    looks = [look(DOG, 0.3, 0.301, 0.299, 0.9, names=["dog", "dog", "dog", "dog"]), look(DOG, 0.31, names=["cat"])]
    flips = [flip(*one) for one in looks]
    (found,) = calibrate([verdict for _, verdict in looks], flips)
    assert (found.field, found.images, found.detections) == ("confidence", 2, 4)
    at = int(np.argmin(abs(found.edges - 0.3)))
    # A detection of exactly the threshold does not count, and stands below it.
    assert found.counts[at - 1] == 2
    assert found.counts[at] == 1
    assert found.counts.sum() == 3
    assert len(found.edges) == len(found.counts) + 1
    assert math.isclose(SHIFT / BIN, round(SHIFT / BIN))


def test_two_thresholds_and_their_gains():
    looks = [look(DOG, 0.28), look(DOG, 0.32), look(DOGS, 0.99, 0.93), look(DOGS, 0.99, 0.98, 0.87)]
    found = calibrate([verdict for _, verdict in looks], [flip(*one) for one in looks])
    assert [(one.field, one.value, one.images) for one in found] == [
        ("confidence", 0.3, 2),
        ("counting_confidence", 0.9, 2),
    ]
    assert (found[0].lower, found[0].higher) == ((1, 0), (0, 1))
    assert (found[1].lower, found[1].higher) == ((0, 1), (0, 1))
    assert [one.fragile for one in found] == [2, 2]
    assert found[1].edges[-1] <= 1.0 + 1e-6
