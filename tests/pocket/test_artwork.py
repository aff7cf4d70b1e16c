import hashlib
import json
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from geneval_reward.demo.scenes import demo_scenes
from geneval_reward.errors import SpecError
from geneval_reward.pocket import artwork
from geneval_reward.pocket.artwork import PALETTE, SPRITE_CLASSES, aspect, background, compose, fitted, recolor, sprite
from geneval_reward.prompts import CLASS_NAMES, COLORS, TAGS

FOLDER = files("geneval_reward") / "data" / "artwork"


def middle_color(image: Image.Image) -> np.ndarray:
    rgba = np.asarray(image)
    return np.median(rgba[rgba[..., 3] > 200][:, :3].astype(int), axis=0)


def test_every_drawing_is_the_file_that_the_provenance_names() -> None:
    index = json.loads((FOLDER / "artwork.json").read_text(encoding="utf-8"))
    assert tuple(index["sprites"]) == SPRITE_CLASSES
    for name, entry in index["sprites"].items():
        assert name in CLASS_NAMES
        assert hashlib.sha256((FOLDER / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], name
        image = sprite(name, max(entry["size"]))
        assert list(image.size) == entry["size"]
        assert aspect(name) == pytest.approx(entry["size"][0] / entry["size"][1])
    assert "SIL OPEN FONT LICENSE Version 1.1" in (FOLDER / "OFL.txt").read_text(encoding="utf-8")


def test_order_is_the_benchmarks() -> None:
    assert list(SPRITE_CLASSES) == sorted(SPRITE_CLASSES, key=CLASS_NAMES.index)
    assert tuple(PALETTE) == COLORS


@pytest.mark.parametrize("name", ["car", "clock", "teddy bear", "umbrella", "vase", "airplane"])
def test_the_median_of_a_recoloured_drawing_is_nearest_to_its_palette_colour(name: str) -> None:
    palette = np.array(list(PALETTE.values()))
    for index, color in enumerate(COLORS):
        distance = np.linalg.norm(palette - middle_color(sprite(name, 96, color)), axis=1)
        assert distance.argmin() == index, f"{color} {name} looks like {COLORS[distance.argmin()]}"


def test_recolouring_keeps_alpha_and_dark_lines() -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = 150, 255
    rgba[0], rgba[1, :, 3] = (0, 0, 0, 255), 77
    for color in COLORS:
        painted = recolor(rgba, color)
        assert np.array_equal(painted[..., 3], rgba[..., 3])
        assert painted[0, :, :3].max() < 120, color
    assert recolor(rgba, "blue")[0, :, :3].max() < 40


def test_own_colours_are_left_alone() -> None:
    with Image.open(FOLDER / "bus.png") as image:
        assert np.array_equal(np.asarray(sprite("bus", 125)), np.asarray(image))


def test_fitted_keeps_aspect_and_stays_inside() -> None:
    left, top, right, bottom = fitted("bed", (10, 20, 110, 140))
    assert (right - left) / (bottom - top) == pytest.approx(aspect("bed"), rel=0.03)
    assert (left, right) == (10, 110)
    assert 20 <= top < bottom <= 140
    assert abs((top + bottom) / 2 - 80) <= 1


def test_compose_draws_where_it_says_and_leaves_the_ground_alone() -> None:
    ground = background(200, 3)
    before = np.asarray(ground).copy()
    box = (40.0, 60.0, 120.0, 140.0)
    scene = np.asarray(compose(ground, [("stop sign", "red", box)], shadow=False)).astype(int)
    assert np.array_equal(np.asarray(ground), before)
    changed = np.abs(scene - before).sum(2) > 30
    ys, xs = np.where(changed)
    left, top, right, bottom = fitted("stop sign", box)
    assert abs(xs.min() - left) <= 1
    assert abs(xs.max() + 1 - right) <= 1
    assert abs(ys.min() - top) <= 1
    assert abs(ys.max() + 1 - bottom) <= 1
    assert np.linalg.norm(scene[100, 80] - np.array(PALETTE["red"])) < 60


def test_objects_may_reach_over_the_edge() -> None:
    scene = compose(background(64), [("car", None, (-30.0, 10.0, 20.0, 50.0))])
    assert scene.size == (64, 64)


def test_backgrounds_are_pale_repeatable_and_varied() -> None:
    pictures = [np.asarray(background(64, seed)) for seed in range(12)]
    assert np.array_equal(pictures[0], np.asarray(background(64, 0)))
    assert len({picture.tobytes() for picture in pictures}) == 12
    assert all(190 < picture.min() and picture.max() < 250 for picture in pictures)
    assert background((80, 40)).size == (80, 40)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sprite("toaster", 40), "expected a class with a drawing, got 'toaster'"),
        (lambda: sprite("car", 40, "teal"), "expected one of red, orange.*got 'teal'"),
        (lambda: sprite("car", 0), "expected at least 1 pixel, got 0"),
        (lambda: fitted("car", (5, 5, 5, 9)), "expected .*at least a pixel wide"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises((SpecError, ValueError), match=message):
        call()


def test_provenance_is_that_of_the_export_tool() -> None:
    index = json.loads((FOLDER / "artwork.json").read_text(encoding="utf-8"))
    assert index["source"]["sha256"] == "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"
    assert sum(path.stat().st_size for path in artwork._FOLDER.iterdir()) < 1_500_000


def test_demo_scenes_cover_all_tags_with_passes_and_failures() -> None:
    scenes = demo_scenes(1)
    assert {scene.spec.tag for scene in scenes} == set(TAGS)
    assert 4 <= sum(not scene.should_pass for scene in scenes) <= 8
    for scene in scenes:
        assert scene.image.size == (512, 512)
        assert len(scene.boxes) == len(scene.colors) == len(scene.class_names)
        for x1, y1, x2, y2 in scene.boxes:
            assert 0 <= x1 < x2 <= 512
            assert 0 <= y1 < y2 <= 512


def test_demo_scenes_are_repeatable_and_move_with_the_seed() -> None:
    first, again, other = (demo_scenes(seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(np.asarray(first.image), np.asarray(again.image))
    assert not np.array_equal(np.asarray(first.image), np.asarray(other.image))
    assert first.spec == other.spec
