import numpy as np
import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.codes import BOOK, LENGTH, LEVELS, MASK, decode, draw, encode, running_sum
from geneval_reward.pocket.render import render
from geneval_reward.pocket.scene import Item, Scene, fulfils
from geneval_reward.pocket.world import Noise, sample_captioned, sample_scene


@pytest.fixture(scope="module")
def clean():
    rng = np.random.default_rng(0)
    specs = pocket_suite()
    return specs, [sample_scene(spec, rng) for spec in specs]


def test_clean_scenes_survive(clean) -> None:
    """The ceiling: codes keep what prompts ask for, and lose at most a 96th of the picture of a place."""
    specs, scenes = clean
    codes = encode(scenes)
    assert codes.shape == (len(scenes), LENGTH)
    assert 0 <= codes.min() <= codes.max() < BOOK
    shown = decode(codes)
    assert np.mean([fulfils(scene, spec) for scene, spec in zip(shown, specs, strict=True)]) >= 0.99
    for before, after in zip(scenes, shown, strict=True):
        for item in before.items:
            nearest = min(after.items, key=lambda other: abs(other.x - item.x) + abs(other.y - item.y))
            assert (nearest.class_name, nearest.color) == (item.class_name, item.color)
            assert abs(nearest.x - item.x) < 0.011
            assert abs(nearest.y - item.y) < 0.011
            assert abs(nearest.size - item.size) < 0.02


def test_coding_what_was_decoded_changes_nothing(clean) -> None:
    codes = encode(clean[1])
    assert torch.equal(encode(decode(codes)), codes)


def test_levels_go_from_coarse_to_fine(clean) -> None:
    specs, scenes = clean
    codes = encode(scenes)
    right = [np.mean([fulfils(s, p) for s, p in zip(decode(codes, k), specs, strict=True)]) for k in range(LEVELS + 1)]
    assert right[0] == 0
    assert right == sorted(right)
    assert right[1] < 0.1 < right[3] < 0.8
    assert right[4] >= 0.95


def test_the_sum_runs(clean) -> None:
    """What a level adds depends on no later code, and masked codes add nothing."""
    codes = encode(clean[1][:40])
    unknown = torch.full_like(codes, MASK)
    for levels, stop in enumerate((0, 1, 2, 6, 10, 14, 18)):
        partial = torch.cat([codes[:, :stop], unknown[:, stop:]], 1)
        assert torch.equal(running_sum(partial), running_sum(codes, levels))
    assert all(not scene.items for scene in decode(unknown))


def test_no_single_code_names_class_or_color(clean) -> None:
    """The code book is entangled: a group holds several classes and colours, and a member's number says neither."""
    rng = np.random.default_rng(1)
    scenes = [sample_captioned(spec, rng, Noise(rename=0.9, recolor=0.9)) for spec in pocket_suite() for _ in range(8)]
    codes = encode(scenes)
    for first in (2, 6):
        classes, colors = {}, {}
        for row, scene in zip(codes, decode(codes), strict=True):
            for item in scene.items:
                code = int(row[first + int(item.x >= 0.5) + 2 * int(item.y >= 0.5)])
                classes.setdefault(code, set()).add(item.class_name)
                colors.setdefault(code, set()).add(item.color)
        assert np.mean([len(names) for names in classes.values()]) > 1.7
        assert np.mean([len(names) for names in colors.values()]) > 1.7


def test_any_codes_are_a_picture() -> None:
    codes = torch.randint(BOOK + 1, (50, LENGTH), generator=torch.Generator().manual_seed(0))
    pictures = draw(codes)
    assert pictures.shape == (50, 256, 256, 3)
    assert np.array_equal(pictures[3], render(decode(codes[3:4])[0]))
    assert draw(codes[:0]).shape == (0, 256, 256, 3)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (
            torch.zeros(2, 17, dtype=torch.int64),
            r"codes: expected integers of shape \(n, 18\), got torch.int64 \(2, 17\)",
        ),
        (torch.zeros(2, LENGTH), "expected integers of shape"),
        (torch.full((1, LENGTH), MASK + 1), r"expected codes in \[0, 128\) or 128 for unknown ones, got 129 to 129"),
    ],
)
def test_wrong_codes_are_refused(codes, message) -> None:
    with pytest.raises(UsageError, match=message):
        decode(codes)


def test_scenes_that_codes_cannot_hold_are_refused() -> None:
    crowded = Scene((Item("clock", None, 0.2, 0.2, 0.4), Item("vase", None, 0.3, 0.3, 0.4)))
    with pytest.raises(UsageError, match=r"scenes\[1\]: expected at most one object per quarter"):
        encode([Scene(()), crowded])
    with pytest.raises(UsageError, match="expected at most 4 objects, got 5"):
        encode([Scene(tuple(Item("clock", None, 0.2, 0.2, 0.4) for _ in range(5)))])
