import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.pocket.codec import CHANNELS, decode_scenes, encode_scenes
from geneval_reward.pocket.scene import POCKET_CLASSES, POCKET_COLORS, SIZES, Item, Scene

unit = st.floats(0, 1)
items = st.builds(Item, st.sampled_from(POCKET_CLASSES), st.sampled_from(POCKET_COLORS), unit, unit, st.floats(*SIZES))
ground = st.floats(-1, 1)
scenes = st.builds(
    lambda found, tone, light: Scene(tuple(found), (tone, light)), st.lists(items, max_size=4), ground, ground
)


@settings(max_examples=80, deadline=None)
@given(st.lists(scenes, min_size=1, max_size=3))
def test_round_trip(written) -> None:
    latents = encode_scenes(written)
    assert latents.shape == (len(written), CHANNELS, 2, 2)
    assert latents.abs().max() <= 2
    for before, after in zip(written, decode_scenes(latents), strict=True):
        assert [(i.class_name, i.color) for i in before.items] == [(i.class_name, i.color) for i in after.items]
        places = [[(i.x, i.y, i.size) for i in scene.items] for scene in (before, after)]
        assert np.allclose(*places, atol=1e-5)
        assert np.allclose(before.ground, after.ground, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 50.0]))
def test_any_numbers_decode_to_a_scene_within_bounds(seed, scale) -> None:
    latents = scale * torch.randn(3, CHANNELS, 2, 2, generator=torch.Generator().manual_seed(seed))
    for scene in decode_scenes(latents.to(torch.bfloat16)):
        assert len(scene.items) <= 4
        assert max(map(abs, scene.ground)) <= 1
        for item in scene.items:
            assert 0 <= item.x <= 1
            assert 0 <= item.y <= 1
            assert SIZES[0] <= item.size <= SIZES[1]


def test_small_errors_change_no_word_of_a_scene() -> None:
    scene = Scene((Item("clock", "red", 0.3, 0.6, 0.4), Item("vase", None, 0.7, 0.5, 0.42)), (0.2, -0.5))
    latents = encode_scenes([scene])
    noisy = latents + 0.4 * (2 * torch.rand(latents.shape, generator=torch.Generator().manual_seed(0)) - 1)
    [after] = decode_scenes(noisy)
    assert [(i.class_name, i.color) for i in after.items] == [("clock", "red"), ("vase", None)]


def test_bad_latents() -> None:
    with pytest.raises(ValueError, match=rf"expected shape \(n, {CHANNELS}, 2, 2\), got \(1, 4, 8, 8\)"):
        decode_scenes(torch.zeros(1, 4, 8, 8))
    broken = torch.zeros(3, CHANNELS, 2, 2)
    broken[2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"latents\[2\]: expected finite numbers"):
        decode_scenes(broken)
    assert decode_scenes(torch.zeros(0, CHANNELS, 2, 2)) == []
