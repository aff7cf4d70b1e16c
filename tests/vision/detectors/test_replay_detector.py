"""What mmdet 2.28.2 answered for the golden images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from geneval_reward.errors import ImageError, WeightsError
from geneval_reward.testing import replay_detector

FAST = ["3_96x96", "4_1500x400"]
SLOW = ["0_512x512", "1_333x500", "2_640x384"]


def check(answer: dict[str, Any], golden: Any) -> None:
    np.testing.assert_array_equal(answer["input_shape"], golden["input_shape"])
    np.testing.assert_array_equal(answer["input_corner"], golden["input_corner"])
    assert answer["input_checksum"] == golden["input_checksum"]
    scale = np.abs(golden["class_logits"]).max()
    np.testing.assert_allclose(answer["class_logits"], golden["class_logits"], atol=1e-5 * scale)
    assert answer["mask_logits"].shape[1:] == tuple(golden["mask_logits_shape"])
    scale = np.abs(golden["mask_logits_stride8"]).max()
    np.testing.assert_allclose(answer["mask_logits"][:, ::8, ::8], golden["mask_logits_stride8"], atol=1e-5 * scale)
    assert answer["boxes"].shape == (100, 5)
    np.testing.assert_allclose(answer["boxes"][:, 4], golden["boxes"][:, 4], atol=1e-5)
    np.testing.assert_array_equal(answer["labels"], golden["labels"])
    np.testing.assert_array_equal(answer["boxes"][:, :4], golden["boxes"][:, :4])
    expected = np.unpackbits(golden["top_masks"], axis=-1, count=int(golden["top_mask_shape"][1])).astype(bool)
    for row, mask in enumerate(expected):
        wrong = answer["masks"][row] != mask
        # Only pixels whose logit is at the edge of rounding may differ.
        assert wrong.sum() <= 3, f"detection {row}: {wrong.sum()} pixels differ"


@pytest.mark.parametrize("name", FAST)
def test_golden(golden_dir: Path, checkpoint_2x: Path, name: str) -> None:
    check(replay_detector(checkpoint_2x, golden_dir / f"{name}.png"), np.load(golden_dir / f"{name}.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_golden_more(golden_dir: Path, checkpoint_2x: Path, name: str) -> None:
    check(replay_detector(checkpoint_2x, golden_dir / f"{name}.png"), np.load(golden_dir / f"{name}.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST + SLOW)
def test_golden_3x(golden_dir: Path, checkpoint_3x: Path, name: str) -> None:
    check(replay_detector(checkpoint_3x, golden_dir / f"{name}.png"), np.load(golden_dir / f"{name}.npz"))


def test_differing_mask_pixels_are_at_zero(golden_dir: Path, checkpoint_2x: Path) -> None:
    """The few pixels that differ from mmdet's masks have a logit of nearly zero."""
    name = "4_1500x400"
    answer = replay_detector(checkpoint_2x, golden_dir / f"{name}.png")
    golden = np.load(golden_dir / f"{name}.npz")
    width = int(golden["top_mask_shape"][1])
    expected = np.unpackbits(golden["top_masks"], axis=-1, count=width).astype(bool)
    logits = torch.from_numpy(answer["mask_logits"])[None]
    full = functional.interpolate(logits, size=tuple(answer["input_shape"]), mode="bilinear")[..., :355, :1333]
    full = functional.interpolate(full, size=expected.shape[1:], mode="bilinear")[0].numpy()
    for row, mask in enumerate(expected):
        wrong = answer["masks"][row] != mask
        # A row's query is the one whose mask it is.
        nearest = min(range(len(full)), key=lambda q, row=row: int(((full[q] > 0) != answer["masks"][row]).sum()))
        assert (np.abs(full[nearest][wrong]) < 1e-4).all()


def test_bad_paths(golden_dir: Path, checkpoint_2x: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a file"):
        replay_detector(tmp_path / "none.pth", golden_dir / "3_96x96.png")
    with pytest.raises(ImageError, match=r"none\.png"):
        replay_detector(checkpoint_2x, tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ImageError, match="decode"):
        replay_detector(checkpoint_2x, tmp_path / "text.png")
