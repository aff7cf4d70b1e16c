"""The adapter's reading of mmdet's answers, in the forms that mmdet documents; the real stack where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from geneval_reward.errors import WeightsError
from geneval_reward.vision.detectors.mmdet import MMDetDetector, check_filled, from_mmdet2, from_mmdet3
from geneval_reward.vision.protocols import Detector, Wanted

SIZE = (6, 4)
ROWS = {3: [[0, 0, 3, 2, 0.9], [1, 1, 4, 4, 0.2]], 41: [[2, 0, 6, 4, 0.5]]}


def mask(row: list[float]) -> npt.NDArray[np.bool_]:
    picture = np.zeros((SIZE[1], SIZE[0]), np.bool_)
    picture[int(row[1]) : int(row[3]), int(row[0]) : int(row[2])] = True
    return picture


def answer2(_: npt.NDArray[np.uint8]) -> Any:
    boxes = [np.array(ROWS.get(c, np.zeros((0, 5))), np.float32) for c in range(80)]
    return boxes, [[mask(row) for row in ROWS.get(c, [])] for c in range(80)]


class Instances(dict[str, Any]):
    """mmengine's InstanceData can be read like a mapping."""


def answer3(_: npt.NDArray[np.uint8]) -> Any:
    rows = [(c, row) for c, group in ROWS.items() for row in group]
    table = torch.tensor([row for _, row in rows])
    masks = torch.from_numpy(np.stack([mask(row) for _, row in rows]))
    labels = torch.tensor([c for c, _ in rows])
    return SimpleNamespace(
        pred_instances=Instances(bboxes=table[:, :4], scores=table[:, 4], labels=labels, masks=masks)
    )


@pytest.mark.parametrize(("read", "answer"), [(from_mmdet2, answer2), (from_mmdet3, answer3)])
def test_reading(read: Any, answer: Any) -> None:
    found = read(answer(np.zeros((4, 6, 3), np.uint8)), SIZE)
    assert found.class_id.tolist() == [3, 3, 41]
    np.testing.assert_allclose(found.confidence, [0.9, 0.2, 0.5])
    np.testing.assert_array_equal(found.xyxy[2], [2, 0, 6, 4])
    np.testing.assert_array_equal(found.mask[2], mask([2, 0, 6, 4]))
    assert found.image_size == SIZE


def test_nothing_found() -> None:
    empty = ([np.zeros((0, 5), np.float32)] * 80, [[] for _ in range(80)])
    found = from_mmdet2(empty, SIZE)
    assert len(found) == 0
    assert found.mask is not None
    assert found.mask.shape == (0, 4, 6)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(boxes, masks\) of 80 classes"):
        from_mmdet2([np.zeros((0, 5))] * 80, SIZE)


@pytest.mark.parametrize(("major", "answer"), [(2, answer2), (3, answer3)])
@pytest.mark.parametrize("swap_rb", [False, True])
def test_mmdet_is_handed_bgr(major: int, answer: Any, swap_rb: bool) -> None:
    seen: list[npt.NDArray[np.uint8]] = []

    def infer(pixels: npt.NDArray[np.uint8]) -> Any:
        seen.append(pixels)
        return answer(pixels)

    detector = MMDetDetector(infer, major, swap_rb=swap_rb)
    assert isinstance(detector, Detector)
    red = torch.zeros(3, 4, 6, dtype=torch.uint8)
    red[0] = 255
    wanted = Wanted(frozenset({3}), frozenset({3}), 0.3)
    (found,) = detector.detect([red], [wanted])
    assert seen[0].shape == (4, 6, 3)
    assert seen[0].flags.c_contiguous
    assert seen[0][0, 0].tolist() == ([255, 0, 0] if swap_rb else [0, 0, 255])
    np.testing.assert_allclose(found.confidence, [0.9])
    assert found.mask is not None
    (everything,) = detector.detect([red], [Wanted(None)])
    assert len(everything) == 3
    assert everything.mask is None
    assert detector.fingerprint()["swap_rb"] is swap_rb


def test_half_filled_models_are_refused(checkpoint_2x: Path, state_2x: dict[str, torch.Tensor]) -> None:
    """mmdet loads loosely: 2.x weights in a 3.x model leave the transformer random, without an error."""
    check_filled(state_2x, checkpoint_2x)
    with pytest.raises(WeightsError, match=r"1 missing, first '.*self_attn.*2\.x needs mmdet 2\.x"):
        check_filled({"panoptic_head.transformer_decoder.layers.0.self_attn.attn.in_proj_bias": 0}, checkpoint_2x)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="2 or 3"):
        MMDetDetector(answer2, 1)
    with pytest.raises(ValueError, match="'auto' or 'fp32'"):
        MMDetDetector.from_pretrained(precision="fp16")


@pytest.mark.skipif(importlib.util.find_spec("mmdet") is not None, reason="mmdet is installed")
def test_without_mmdet() -> None:
    with pytest.raises(ImportError, match="backend='paper'"):
        MMDetDetector.from_pretrained()


@pytest.mark.slow
def test_real_mmdet_agrees() -> None:
    pytest.importorskip("mmdet", reason="mmdet is not installed: no second opinion")
    from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
    from geneval_reward.vision.images import as_image
    from geneval_reward.vision.parity import compare
    from geneval_reward.vision.photos import PHOTOS, photo

    try:
        ours = Mask2FormerDetector.from_pretrained(device="cpu", precision="fp32", allow_download=False)
        theirs = MMDetDetector.from_pretrained(device="cpu", allow_download=False)
    except WeightsError as error:
        pytest.skip(f"the published weights are not here: {error}")
    wanted = Wanted(None, frozenset(range(80)), 0.3)
    for name in PHOTOS:
        image = as_image(photo(name))
        difference = compare(ours.detect([image], [wanted])[0], theirs.detect([image], [wanted])[0])
        assert difference.same
        assert difference.confidence < 1e-3
