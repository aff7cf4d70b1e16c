"""Some of a folder's images are of all its tasks, and of as many prompts as can be."""

import itertools
from collections import Counter
from pathlib import Path

from geneval_reward.prompts import official_suite
from geneval_reward.results.layout import ImageItem
from geneval_reward.results.spread import spread

SPECS = [spec for tag in ("colors", "counting", "position") for spec in official_suite() if spec.tag == tag][:250]
ITEMS = [
    ImageItem(Path(f"{number}-{index}.png"), f"{number}-{index}.png", spec, index, None)
    for number, spec in enumerate(SPECS)
    for index in range(4)
]


def test_a_few_images_are_of_every_task_and_of_different_prompts():
    chosen = spread(ITEMS, 12)
    assert Counter(item.spec.tag for item in chosen) == {"colors": 4, "counting": 4, "position": 4}
    assert len({item.spec for item in chosen}) == 12
    assert [item.filename for item in chosen] == [item.filename for item in ITEMS if item in chosen], "in their order"


def test_second_images_follow_when_every_prompt_has_its_first():
    chosen = spread(ITEMS, len(SPECS) + 3)
    assert Counter(item.index for item in chosen) == {0: len(SPECS), 1: 3}
    assert len({item.spec.tag for item in chosen if item.index == 1}) == 3


def test_a_smaller_choice_is_part_of_a_larger_one():
    sizes = (1, 2, 7, 40, 333, len(ITEMS), len(ITEMS) + 5, None)
    chosen = [[item.filename for item in spread(ITEMS, size)] for size in sizes]
    assert [len(names) for names in chosen] == [1, 2, 7, 40, 333, 1000, 1000, 1000]
    assert all(set(less) <= set(more) for less, more in itertools.pairwise(chosen))
    assert spread([], 3) == []
