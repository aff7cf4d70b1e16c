"""The colour verifier of the lite backend."""

import json
import pickle
from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geneval_reward.errors import ImageError
from geneval_reward.pocket import artwork
from geneval_reward.prompts import COLORS
from geneval_reward.vision.colors.lite import CountingOptions, LiteVerifier, count_names
from geneval_reward.vision.colors.naming import NAMES, ColorNaming
from geneval_reward.vision.protocols import ColorQuery, Verifier


@pytest.fixture(scope="module")
def verifier():
    return LiteVerifier()


def tensor(image):
    return torch.from_numpy(np.array(image, np.uint8)).permute(2, 0, 1).contiguous()


def query(image, box, mask=None):
    return ColorQuery(image, np.array(box, np.float32), "cup", mask)


def called(verifier, *queries):
    rows = verifier.colors(queries)
    full = np.column_stack([rows, 1 - rows.sum(1)])
    return [NAMES[index] for index in full.argmax(1)]


def painted(paint, ground=(170, 180, 190), size=64):
    """A disc in a square image; its box."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    pixels = np.where((np.hypot(x, y) < size / 4)[..., None], paint, ground)
    return query(tensor(pixels), (size / 4, size / 4, 3 * size / 4, 3 * size / 4))


def test_it_is_a_verifier(verifier):
    assert isinstance(verifier, Verifier)
    assert verifier.to("cpu") is verifier


@pytest.mark.parametrize("ground", [(240, 240, 240), (20, 20, 24), (60, 140, 70), (210, 60, 60), (128, 128, 128)])
def test_discs_in_the_ten_colours(verifier, ground):
    discs = [painted(artwork.PALETTE[color], ground) for color in COLORS]
    assert called(verifier, *discs) == list(COLORS)


def test_grey_is_none_of_the_ten(verifier):
    row = verifier.colors([painted((128, 128, 128), (230, 220, 160))])[0]
    assert 1 - row.sum() > row.max()


@pytest.mark.parametrize("name", ["umbrella", "car", "chair", "suitcase", "couch", "cup"])
def test_drawings_in_the_ten_colours(verifier, name):
    queries = []
    for seed, color in enumerate(COLORS):
        place = artwork.fitted(name, (60, 50, 200, 190))
        scene = artwork.compose(artwork.background(256, seed), [(name, color, (60, 50, 200, 190))])
        queries.append(query(tensor(scene), place))
    right = [a == b for a, b in zip(called(verifier, *queries), COLORS, strict=True)]
    assert sum(right) >= 9, dict(zip(COLORS, right, strict=True))


def test_thin_objects_are_not_their_ground(verifier):
    pixels = np.full((80, 80, 3), (190, 200, 210))
    for offset in range(60):
        pixels[10 + offset, 8 + offset : 13 + offset] = (214, 32, 36)
    assert called(verifier, query(tensor(pixels), (8, 10, 72, 70))) == ["red"]


def test_a_mask_settles_what_the_box_leaves_open(verifier):
    pixels = np.full((60, 60, 3), (34, 152, 54))
    mask = np.zeros((60, 60), bool)
    pixels[10:50, 40:50] = (32, 88, 220)
    mask[10:50, 40:50] = True
    assert called(verifier, query(tensor(pixels), (10, 10, 50, 50), mask)) == ["blue"]
    assert called(verifier, query(tensor(pixels), (10, 10, 50, 50), ~mask)) == ["green"]


def test_a_small_badge_does_not_colour_a_white_or_black_thing(verifier):
    for name in ("white", "black"):
        thing = painted(artwork.PALETTE[name], (120, 150, 190))
        thing.image[:, 28:36, 28:36] = torch.tensor([214, 32, 36], dtype=torch.uint8)[:, None, None]
        assert called(verifier, thing) == [name]


def test_lines_and_windows_do_not_outvote_a_colour(verifier):
    thing = painted(artwork.PALETTE["orange"])
    thing.image[:, :, 24:40:4] = 15
    thing.image[:, 26:31, 26:38] = 245
    assert called(verifier, thing) == ["orange"]


def test_a_shaded_ball_keeps_the_colour_of_its_lit_side(verifier):
    y, x = np.mgrid[:96, :96] + 0.5 - 48
    inside = np.hypot(x, y) < 32
    light = np.clip(0.75 - (x + y) / 100, 0.25, 1)[..., None]
    pixels = np.where(inside[..., None], np.array(artwork.PALETTE["orange"]) * light, (200, 205, 210))
    assert called(verifier, query(tensor(pixels), (16, 16, 80, 80))) == ["orange"]


def test_shadows_on_white_are_not_grey(verifier):
    y, x = np.mgrid[:96, :96] + 0.5 - 48
    inside = np.hypot(x, y) < 32
    light = np.clip(0.9 - (x + y) / 250, 0.6, 1)[..., None]
    pixels = np.where(inside[..., None], 250 * light, (90, 140, 90))
    assert called(verifier, query(tensor(pixels), (16, 16, 80, 80))) == ["white"]


def test_photographs(verifier):
    folder = files("geneval_reward") / "data" / "photos"
    wanted = {
        "astronaut.jpg": ((20, 200, 370, 512), "orange"),
        "coffee.jpg": ((72, 12, 486, 392), "red"),
        "grace_hopper.jpg": ((15, 360, 512, 600), "black"),
    }
    for name, (box, color) in wanted.items():
        with (folder / name).open("rb") as file:
            image = tensor(Image.open(file).convert("RGB"))
        assert called(verifier, query(image, box)) == [color], name


def test_boxes_beyond_the_image_are_clipped(verifier):
    thing = painted(artwork.PALETTE["green"])
    cut = query(thing.image[:, :, 32:].contiguous(), (-16, 16, 16, 48))
    assert called(verifier, cut) == ["green"]


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 9, 5, 5), (-9, -9, 0, 0), (64, 0, 90, 20)])
def test_a_box_without_area_in_the_image_has_no_colour(verifier, box):
    image = painted(artwork.PALETTE["red"]).image
    np.testing.assert_array_equal(verifier.colors([query(image, box)]), np.zeros((1, 10), np.float32))


def test_a_single_pixel(verifier):
    image = torch.tensor([214, 32, 36], dtype=torch.uint8)[:, None, None]
    assert called(verifier, query(image, (0, 0, 1, 1)), query(image, (0.4, 0.4, 0.5, 0.5))) == ["red", "red"]


def test_no_queries(verifier):
    rows = verifier.colors([])
    assert rows.shape == (0, 10)
    assert rows.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.tuples(*[st.floats(-30, 80, width=32)] * 4),
    st.sampled_from(["noise", "flat", "black", "white"]),
    st.integers(0, 2**31),
)
def test_rows_are_sub_stochastic(height, width, box, kind, seed):
    rng = np.random.default_rng(seed)
    pixels = {
        "noise": lambda: rng.integers(0, 256, (3, height, width)),
        "flat": lambda: np.broadcast_to(rng.integers(0, 256, (3, 1, 1)), (3, height, width)),
        "black": lambda: np.zeros((3, height, width)),
        "white": lambda: np.full((3, height, width), 255),
    }[kind]()
    row = LiteVerifier().colors([query(torch.from_numpy(np.array(pixels, np.uint8)), box)])[0]
    assert np.isfinite(row).all()
    assert (row >= 0).all()
    assert row.sum() <= 1 + 1e-5


def test_an_answer_does_not_depend_on_the_batch(verifier):
    queries = [
        painted(artwork.PALETTE[color], size=size) for color, size in zip(COLORS, range(20, 220, 20), strict=True)
    ]
    together = verifier.colors(queries)
    alone = np.concatenate([verifier.colors([one]) for one in queries])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, LiteVerifier().colors(queries))


def test_the_image_is_left_as_it_was(verifier):
    thing = painted(artwork.PALETTE["pink"])
    before = thing.image.clone()
    verifier.colors([thing])
    assert torch.equal(thing.image, before)


def test_bad_queries_are_named(verifier):
    good = painted(artwork.PALETTE["red"])
    with pytest.raises(ImageError, match=r"queries\[1\].image: expected \(3, H, W\) uint8"):
        verifier.colors([good, query(good.image.float(), (0, 0, 9, 9))])
    with pytest.raises(ImageError, match="uint8"):
        verifier.colors([query(good.image[0], (0, 0, 9, 9))])
    with pytest.raises(ValueError, match=r"queries\[0\].xyxy: expected 4 finite"):
        verifier.colors([query(good.image, (0, 0, float("nan"), 9))])
    with pytest.raises(ValueError, match=r"queries\[0\].mask: expected \(64, 64\)"):
        verifier.colors([query(good.image, (0, 0, 9, 9), np.ones((4, 4), bool))])


def test_the_fingerprint_follows_the_options(verifier):
    other = LiteVerifier(counting=CountingOptions(achromatic=0.9))
    assert verifier.fingerprint() == LiteVerifier().fingerprint()
    assert verifier.fingerprint() != other.fingerprint()
    assert json.loads(json.dumps(verifier.fingerprint()))["name"] == "lite"


def test_pickles(verifier):
    thing = painted(artwork.PALETTE["blue"])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(verifier)).colors([thing]), verifier.colors([thing]))


def test_counting_takes_grey_for_the_shade_of_white_only_where_white_is():
    naming = ColorNaming()
    pixels = np.array([[250, 250, 250]] * 4 + [[170, 170, 170]] * 6, np.float32)
    weight = np.ones(10, np.float32)
    assert NAMES[count_names(pixels, weight, naming).argmax()] == "white"
    assert NAMES[count_names(pixels[4:], weight[4:], naming).argmax()] == "grey"
