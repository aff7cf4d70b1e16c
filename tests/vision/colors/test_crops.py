"""Crops against Pillow, which the benchmark uses: composite over the background, then crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geneval_reward.vision.colors.crops import object_crop
from geneval_reward.vision.protocols import ColorQuery

coordinate = st.floats(-6, 26, width=32)


def query(box: object, masked: bool = True, seed: int = 0) -> ColorQuery:
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (3, 15, 20), np.uint8))
    mask = rng.random((15, 20)) < 0.5 if masked else None
    return ColorQuery(image, np.array(box, np.float32), "cup", mask)


def by_pillow(asked: ColorQuery, background: str, crop: bool) -> Image.Image:
    picture = Image.fromarray(asked.image.permute(1, 2, 0).numpy())
    if asked.mask is not None and background != "original":
        ground = Image.new("RGB", picture.size, background)
        picture = Image.composite(picture, ground, Image.fromarray(asked.mask))
    return picture.crop(tuple(float(value) for value in asked.xyxy)) if crop else picture


@settings(max_examples=200, deadline=None)
@given(
    x0=coordinate,
    y0=coordinate,
    width=st.floats(1, 30, width=32),
    height=st.floats(1, 30, width=32),
    masked=st.booleans(),
    background=st.sampled_from(["#999", "#00ff80", "original"]),
    crop=st.booleans(),
)
def test_equals_pillow(
    x0: float, y0: float, width: float, height: float, masked: bool, background: str, crop: bool
) -> None:
    asked = query((x0, y0, x0 + width, y0 + height), masked)
    got = object_crop(asked, background, crop)
    expected = by_pillow(asked, background, crop)
    if got is None:
        # No pixel of the image: Pillow gives black or nothing.
        assert 0 in expected.size or not np.asarray(expected).any()
        return
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (5, 5, 5, 9), (4, 4, 2, 2), (30, 0, 40, 9), (0, -9, 4, -2)])
def test_boxes_without_a_pixel(box: tuple[int, ...]) -> None:
    assert object_crop(query(box)) is None


def test_outside_the_mask_is_grey_153() -> None:
    asked = query((0, 0, 20, 15))
    got = np.asarray(object_crop(asked))
    assert asked.mask is not None
    assert (got[~asked.mask] == 153).all()
    np.testing.assert_array_equal(got[asked.mask], asked.image.permute(1, 2, 0).numpy()[asked.mask])
