"""Which pixels of a box are the object."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.vision.colors.foreground import ForegroundOptions, Patch, cut_patch, foreground_weights


def scene(size=96, ground=(200, 190, 180), paint=(30, 90, 210), shape="disc", box=(24, 24, 72, 72)):
    """An image with one object that touches the sides of its box, its box and its mask."""
    y, x = np.mgrid[:size, :size] + 0.5
    cx, cy, rx, ry = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    u, v = (x - cx) / rx, (y - cy) / ry
    mask = {
        "disc": u**2 + v**2 <= 1,
        "stroke": (np.abs(u - v) < 0.2) & (np.abs(u) <= 1) & (np.abs(v) <= 1),
        "ring": (u**2 + v**2 <= 1) & (u**2 + v**2 > 0.4),
    }[shape]
    pixels = np.where(mask[..., None], paint, ground).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), np.array(box, np.float32), mask


def purity(weight, mask_of_patch):
    """The part of the weight that lies on the object."""
    return (weight * mask_of_patch).sum() / weight.sum()


@pytest.mark.parametrize("shape", ["disc", "stroke", "ring"])
@pytest.mark.parametrize("jitter", [(0, 0, 0, 0), (-4, -4, 4, 4), (4, 3, -3, -4), (4, 4, 4, 4)])
def test_finds_the_object_on_a_plain_ground(shape, jitter):
    image, box, mask = scene(shape=shape)
    box = box + np.array(jitter, np.float32)
    truth = cut_patch(image, box, mask).mask
    patch = cut_patch(image, box)
    weight = foreground_weights(patch)
    assert purity(weight, truth) > 0.7  # a stroke is a ninth of its box
    inside = (np.abs(patch.y[:, None]) <= 0.9) & (np.abs(patch.x[None]) <= 0.9)
    assert weight[inside & (truth == 1)].mean() > 5 * weight[inside & (truth == 0)].mean()


def test_finds_the_object_on_two_grounds_at_once():
    image, box, mask = scene(shape="ring", paint=(210, 30, 40))
    pixels = image.permute(1, 2, 0).numpy().copy()
    left = np.arange(96)[None] < 48
    pixels[~mask & left] = (40, 160, 60)
    patch = cut_patch(torch.from_numpy(pixels).permute(2, 0, 1), box)
    assert purity(foreground_weights(patch), cut_patch(image, box, mask).mask) > 0.85


def test_an_object_like_its_ground_is_looked_for_in_the_middle():
    image, box, _ = scene(paint=(200, 190, 180))
    patch = cut_patch(image, box)
    weight = foreground_weights(patch)
    middle, corner = weight[len(patch.y) // 2, len(patch.x) // 2], weight[np.abs(patch.y) < 0.98][0]
    assert middle > 2 * corner[np.abs(patch.x) <= 1][0] > 0


def test_a_speck_does_not_outweigh_an_object_like_its_ground():
    image, box, _ = scene(paint=(200, 190, 180))
    image[:, 47:49, 47:49] = torch.tensor([220, 0, 0], dtype=torch.uint8)[:, None, None]
    patch = cut_patch(image, box)
    weight = foreground_weights(patch)
    speck = patch.rgb[..., 1] < 90
    assert weight[speck].sum() < 0.2 * weight.sum()


def test_a_box_that_fills_the_image_has_weights():
    image, _, _ = scene()
    weight = foreground_weights(cut_patch(image, np.array([0, 0, 96, 96], np.float32)))
    assert weight.sum() > 0


def test_a_mask_is_the_answer():
    image, box, mask = scene()
    patch = cut_patch(image, box, mask)
    weight = foreground_weights(patch)
    inside = (np.abs(patch.y[:, None]) <= 1) & (np.abs(patch.x[None]) <= 1)
    np.testing.assert_array_equal(weight, patch.mask * inside)


def test_an_empty_mask_counts_as_none():
    image, box, mask = scene()
    np.testing.assert_array_equal(
        foreground_weights(cut_patch(image, box, np.zeros_like(mask))), foreground_weights(cut_patch(image, box))
    )


@pytest.mark.parametrize(
    "box",
    [(10, 10, 10, 40), (10, 10, 40, 10), (40, 40, 10, 10), (-30, -30, -1, -1), (96, 0, 120, 40), (0, 200, 10, 300)],
)
def test_a_box_without_area_in_the_image_gives_nothing(box):
    image, _, _ = scene()
    assert cut_patch(image, np.array(box, np.float32)) is None


def test_a_patch_is_the_reduced_image():
    image, _, _ = scene()
    patch = cut_patch(image, np.array([0, 0, 96, 96], np.float32), side=24)
    assert patch.rgb.shape == (24, 24, 3)
    want = image.float().reshape(3, 24, 4, 24, 4).mean((2, 4)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(patch.rgb, want, atol=1e-3)
    np.testing.assert_allclose(patch.x, (np.arange(24) + 0.5) / 12 - 1, atol=1e-6)


def test_surroundings_reach_a_quarter_of_the_box_or_to_the_edge():
    image, _, _ = scene()
    patch = cut_patch(image, np.array([0, 40, 40, 80], np.float32), side=200, margin=0.25)
    assert patch.rgb.shape == (60 - 0, 50, 3)
    assert patch.x.min() > -1
    assert patch.x.max() == pytest.approx(1.475)


def test_a_huge_box_is_thinned():
    image = torch.zeros((3, 3000, 2000), dtype=torch.uint8)
    image[0] = 210
    patch = cut_patch(image, np.array([0, 0, 2000, 3000], np.float32))
    assert patch.rgb.shape == (48, 48, 3)
    np.testing.assert_allclose(patch.rgb[..., 0], 210)


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.tuples(*[st.floats(-20, 60, width=32)] * 4),
    st.integers(0, 2**31),
)
def test_weights_are_shares_of_the_box(height, width, box, seed):
    image = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))
    patch = cut_patch(image, np.array(box, np.float32))
    if patch is None:
        assert min(box[2], width) <= max(box[0], 0) or min(box[3], height) <= max(box[1], 0)
        return
    weight = foreground_weights(patch)
    assert weight.shape == patch.rgb.shape[:2]
    assert weight.dtype == np.float32
    assert 0 <= weight.min() <= weight.max() <= 1
    assert weight.sum() > 0


def test_one_round_is_the_ground_alone():
    image, box, _ = scene()
    weight = foreground_weights(cut_patch(image, box), ForegroundOptions(rounds=1))
    assert weight.max() > 0.5


def test_a_patch_without_surroundings_works():
    patch = Patch(np.full((1, 1, 3), 90, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32))
    assert foreground_weights(patch)[0, 0] > 0
