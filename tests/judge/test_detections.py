import pickle
from typing import Any

import numpy as np
import pytest

from geneval_reward.judge import Detections

BOXES = [[0, 0, 10, 10], [5, 5, 20, 20], [1, 2, 3, 4]]


def made(**changes: Any) -> Detections:
    parts: dict[str, Any] = {
        "xyxy": BOXES,
        "confidence": [0.5, 0.25, 1.0],
        "class_id": [16, 0, 79],
        "image_size": (32, 24),
    }
    return Detections(**(parts | changes))


def test_arrays_are_cast() -> None:
    found = made(
        xyxy=np.array(BOXES, np.float64),
        class_id=np.array([16, 0, 79], np.int32),
        image_size=(np.int64(32), 24.0),
        mask=np.ones((3, 24, 32), np.uint8),
        color=np.zeros((3, 10)),
    )
    assert (found.xyxy.dtype, found.confidence.dtype, found.class_id.dtype) == (np.float32, np.float32, np.int64)
    assert found.mask is not None
    assert found.color is not None
    assert (found.mask.dtype, found.color.dtype) == (np.bool_, np.float32)
    assert found.image_size == (32, 24)
    assert found.class_names == ["dog", "person", "toothbrush"]
    assert len(found) == 3


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), np.zeros((0, 5))])
def test_nothing_is_fine(nothing: Any) -> None:
    found = Detections(nothing, [], [], (8, 8), color=np.zeros((0, 0)))
    assert found.xyxy.shape == (0, 4)
    assert found.color is not None
    assert found.color.shape == (0, 10)
    assert len(Detections.empty((8, 8))) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xyxy": [[0, 0, 1]] * 3}, r"xyxy: expected shape \(3, 4\), got \(3, 3\); the arrays are parallel"),
        ({"xyxy": [0, 0, 1, 1]}, r"xyxy: expected shape \(4, 4\), got \(4,\)"),
        ({"confidence": [0.5]}, r"confidence: expected shape \(3,\), got \(1,\)"),
        ({"confidence": [[0.5]] * 3}, r"confidence: expected shape \(3,\), got \(3, 1\)"),
        ({"class_id": [1, 2]}, r"class_id: expected shape \(3,\), got \(2,\)"),
        ({"class_id": [1, 80, 2]}, r"class_id: expected 0..79, got 80; map the detector's labels by index"),
        ({"class_id": [1, -1, 2]}, r"class_id: expected 0..79, got -1"),
        ({"confidence": [0.5, np.nan, 0.1]}, r"expected finite numbers, got NaN or infinity"),
        ({"xyxy": [[0, 0, np.inf, 1]] * 3}, r"expected finite numbers, got NaN or infinity"),
        ({"confidence": [0.5, 55.0, 0.1]}, r"confidence: expected numbers in \[0, 1\], got 55; apply"),
        ({"confidence": [0.5, -0.5, 0.1]}, r"confidence: expected numbers in \[0, 1\], got -0.5"),
        ({"mask": np.ones((3, 32, 24))}, r"mask: expected shape \(3, 24, 32\), got \(3, 32, 24\)"),
        ({"color": np.ones((3, 11))}, r"color: expected shape \(3, 10\), got \(3, 11\)"),
        ({"color": np.full((3, 10), 7.5)}, r"color: expected numbers in \[0, 1\], got 7.5; apply the softmax"),
        ({"color": np.full((3, 10), -1.0)}, r"color: expected numbers in \[0, 1\], got -1"),
    ],
)
def test_wrong_arrays_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**changes)


def test_colours_that_were_not_asked_are_nan() -> None:
    color = np.full((3, 10), np.nan)
    color[1] = 0.1
    found = made(color=color)
    assert found.color is not None
    assert np.isnan(found.color[[0, 2]]).all()


@pytest.mark.parametrize(
    "index", [slice(1, None), np.array([2, 0]), np.array([True, False, True]), np.array([], np.int64)]
)
def test_rows_stay_parallel(index: Any) -> None:
    full = made(mask=np.random.default_rng(0).random((3, 24, 32)) > 0.5, color=np.eye(3, 10))
    part = full[index]
    for name in ("xyxy", "confidence", "class_id", "mask", "color"):
        np.testing.assert_array_equal(getattr(part, name), getattr(full, name)[index])
    assert part.image_size == full.image_size


def test_copies_leave_the_original_alone() -> None:
    full = made(mask=np.ones((3, 24, 32)))
    colored = full.with_color(np.eye(3, 10))
    assert full.color is None
    assert colored.mask is not None
    assert colored.with_color(None).color is None
    assert full.without_masks().mask is None
    assert full.mask is not None
    plain = made()
    assert plain.without_masks() is plain


def test_pickles() -> None:
    full = made(color=np.eye(3, 10))
    again = pickle.loads(pickle.dumps(full))
    for name in ("xyxy", "confidence", "class_id", "color"):
        np.testing.assert_array_equal(getattr(again, name), getattr(full, name))
    assert (again.image_size, again.mask) == (full.image_size, None)
