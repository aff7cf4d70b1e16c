import hashlib
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.pocket import POCKET_CLASSES, iter_pocket_prompts, pocket_suite
from geneval_reward.pocket import prompts as prompts_module
from geneval_reward.pocket.prompts import training_specs
from geneval_reward.pocket.render import RESOLUTION, ground, render
from geneval_reward.pocket.scene import LOOKS, MAX_OBJECTS, SIZES, Item, Scene, fulfils, holds
from geneval_reward.pocket.world import Noise, sample_captioned, sample_scene
from geneval_reward.prompts import COLORS, TAGS, PromptSpec
from geneval_reward.prompts.training import meaning

SILENT = Noise(recolor=0, exchange=0, rename=0, drop=0, add=0, displace=0)


def test_suite_is_fixed_covers_all_tasks_and_is_distinct() -> None:
    suite = pocket_suite()
    text = "".join(spec.to_json() + "\n" for spec in suite)
    assert hashlib.sha256(text.encode()).hexdigest() == prompts_module.SUITE_SHA256
    assert len(suite) == len({spec.prompt for spec in suite}) == 200
    assert {spec.tag for spec in suite} == set(TAGS)
    assert {name for spec in suite for name in spec.class_names} == set(POCKET_CLASSES)


def test_a_changed_suite_is_noticed(monkeypatch) -> None:
    monkeypatch.setattr(prompts_module, "SUITE_SEED", 5)
    prompts_module.pocket_suite.cache_clear()
    try:
        with pytest.raises(ValueError, match="pocket suite: expected sha256"):
            pocket_suite()
    finally:
        monkeypatch.undo()
        prompts_module.pocket_suite.cache_clear()
    assert pocket_suite()


def test_training_never_means_what_the_suite_asks() -> None:
    held_out = {meaning(spec) for spec in pocket_suite() if spec.tag != "single_object"}
    pools = training_specs()
    assert all(pools[tag] for tag in TAGS)
    assert not held_out & {meaning(spec) for pool in pools.values() for spec in pool}
    drawn = list(islice(iter_pocket_prompts(3), 500))
    assert {spec.tag for spec in drawn} == set(TAGS)
    assert not held_out & {meaning(spec) for spec in drawn}


def test_counts_are_asked_in_colours_too_and_half_of_the_draws_are_plain() -> None:
    pool = training_specs()["counting"]
    plain = {spec.prompt for spec in pool if spec.include[0].color is None}
    colored = [spec for spec in pool if spec.include[0].color]
    assert (len(plain), len(colored), len(pool)) == (12, 120, 240)
    assert {spec.tag for spec in colored} == {"counting"}
    example = next(spec for spec in colored if spec.include[0].color == "red")
    words = example.prompt.split()
    assert " ".join(word for word in words if word != "red") in plain
    assert words[words.index("red") - 1] in ("two", "three", "four")
    assert fulfils(sample_scene(example, np.random.default_rng(0)), example)


def test_prompts_are_repeatable_and_follow_the_mix() -> None:
    first, again = (list(islice(iter_pocket_prompts(7, {"colors": 1, "position": 3}), 400)) for _ in range(2))
    assert first == again
    share = np.mean([spec.tag == "position" for spec in first])
    assert 0.65 < share < 0.85


@pytest.mark.parametrize("mix", [{"colours": 1}, {"colors": -1}, {"colors": 0.5}, {"colors": 0}, {}])
def test_bad_mix(mix) -> None:
    with pytest.raises(ValueError, match="mix: expected"):
        next(iter_pocket_prompts(0, mix))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 199), st.integers(0, 2**31))
def test_clean_scenes_do_what_the_prompt_asks_and_lie_apart(number, seed) -> None:
    spec = pocket_suite()[number]
    scene = sample_scene(spec, np.random.default_rng(seed))
    assert fulfils(scene, spec)
    assert len(scene.items) == sum(clause.count for clause in spec.include)
    for index, item in enumerate(scene.items):
        x1, y1, x2, y2 = item.box
        assert min(x1, y1) > -0.02
        assert max(x2, y2) < 1.02
        for other in scene.items[:index]:
            a1, b1, a2, b2 = other.box
            overlap = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
            assert overlap < 0.1 * (x2 - x1) * (y2 - y1)


def test_captions_without_noise_are_true_and_with_noise_often_not() -> None:
    rng = np.random.default_rng(0)
    for tag in TAGS:
        pool = training_specs()[tag]
        specs = [pool[int(rng.integers(len(pool)))] for _ in range(150)]
        assert all(fulfils(sample_captioned(spec, rng, SILENT), spec) for spec in specs)
        share = np.mean([fulfils(sample_captioned(spec, rng, Noise()), spec) for spec in specs])
        low, high = {"single_object": (0.85, 1)}.get(tag, (0.15, 0.9))
        assert low <= share <= high, tag


def test_same_seed_same_scene() -> None:
    spec = pocket_suite()[50]
    a, b, c = (sample_captioned(spec, np.random.default_rng(seed), Noise()) for seed in (1, 1, 2))
    assert a == b != c


def spec_of(*include, tag="two_object", exclude=()) -> PromptSpec:
    return PromptSpec.parse({"tag": tag, "include": list(include), "exclude": list(exclude)})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (spec_of({"class": "clock", "count": 5}), "expected at most 4 objects in all, got 5"),
        (spec_of({"class": "dog", "count": 1}), "expected classes of bicycle.*got 'dog'"),
    ],
)
def test_what_cannot_be_shown(spec, message) -> None:
    with pytest.raises(ValueError, match=message):
        sample_scene(spec, np.random.default_rng(0))


def test_too_many_objects_and_unknown_things() -> None:
    item = Item("clock", "red", 0.5, 0.5, 0.4)
    with pytest.raises(ValueError, match="expected at most 4 objects, got 5"):
        Scene((item,) * (MAX_OBJECTS + 1))
    with pytest.raises(ValueError, match=r"items\[1\]: expected a class of"):
        Scene((item, Item("dog", None, 0.5, 0.5, 0.4)))
    with pytest.raises(ValueError, match=r"items\[0\].*'teal'"):
        Scene((Item("clock", "teal", 0.5, 0.5, 0.4),))
    with pytest.raises(ValueError, match="drop: expected a chance"):
        Noise(drop=1.5)


def test_fulfils_by_hand() -> None:
    left, right = Item("clock", "red", 0.25, 0.5, 0.4), Item("vase", "blue", 0.75, 0.5, 0.4)
    scene = Scene((left, right))
    assert holds(left, "left of", right)
    assert not holds(left, "above", right)
    clock, vase = {"class": "clock", "count": 1}, {"class": "vase", "count": 1}
    assert fulfils(scene, spec_of(clock, vase))
    assert fulfils(scene, spec_of(vase, clock | {"position": ["left of", 0]}, tag="position"))
    assert not fulfils(scene, spec_of(vase, clock | {"position": ["right of", 0]}, tag="position"))
    assert not fulfils(scene, spec_of(clock | {"color": "blue"}, vase | {"color": "red"}, tag="color_attr"))
    assert not fulfils(scene, spec_of({"class": "clock", "count": 2}))
    one = spec_of(clock, tag="counting", exclude=[{"class": "clock", "count": 2}])
    assert fulfils(scene, one)
    assert not fulfils(Scene((left, left)), one)


def test_render_draws_each_object_where_its_box_is() -> None:
    for name, look in LOOKS.items():
        item = Item(name, "purple", 0.4, 0.55, look.sizes[0])
        picture = render(Scene((item,), (0.0, 1.0))).astype(int)
        changed = np.abs(picture - ground(0.0, 1.0)).sum(2) > 120
        ys, xs = np.where(changed)
        x1, y1, x2, y2 = (side * RESOLUTION for side in item.box)
        assert abs(xs.min() - x1) < 8, name
        assert abs(xs.max() - x2) < 8, name
        assert abs(ys.min() - y1) < 8, name
        assert abs(ys.max() - y2) < 8, name
        body = picture[changed]
        assert body[:, 2].mean() > body[:, 1].mean() + 15, "purple has little green"


def test_render_is_repeatable_and_cuts_at_the_edge() -> None:
    corner = Scene((Item("clock", "red", 0.0, 1.0, SIZES[1]),), (-1.0, 0.3))
    first, again = render(corner), render(corner)
    assert first.shape == (RESOLUTION, RESOLUTION, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert np.array_equal(first[:100], ground(-1.0, 0.3)[:100])
    assert first[-20:, :20].astype(int)[..., 0].mean() > first[-20:, :20].astype(int)[..., 1].mean() + 40
    outside = Scene((Item("clock", "red", 0.5, 0.5, 0.4),))
    assert not np.array_equal(render(outside), render(Scene(())))


def test_grounds_differ_and_all_colours_stand_out() -> None:
    grounds = {ground(tone, light).tobytes() for tone in (-1, -0.3, 0.4, 1) for light in (-1, 1)}
    assert len(grounds) == 8
    for color in COLORS:
        difference = render(Scene((Item("teddy bear", color, 0.5, 0.5, 0.45),))).astype(int) - ground(0, 0)
        assert np.abs(difference).sum(2).max() > 60, color
