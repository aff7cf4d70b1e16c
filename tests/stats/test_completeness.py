"""What is missing from a set of scored images."""

import pytest

from geneval_reward.prompts import TAGS, PromptSpec, official_suite
from geneval_reward.stats.completeness import completeness

SUITE = official_suite()


@pytest.mark.parametrize("n", [1, 4])
def test_the_whole_suite_is_complete(n: int) -> None:
    found = completeness(spec for spec in SUITE for _ in range(n))
    assert found.complete
    assert found.problems() == []
    assert (found.suite, found.prompts, found.expected, found.images_per_prompt) == ("official", 553, 553, n)


def test_records_read_back_are_the_suites() -> None:
    assert completeness(PromptSpec.parse(spec.to_json()) for spec in SUITE).complete


def test_what_is_missing_short_double_and_foreign_is_named() -> None:
    foreign = PromptSpec.parse({"tag": "colors", "include": [{"class": "dog", "count": 7}]})
    specs = [spec for spec in SUITE[9:] for _ in range(4)]
    specs.remove(SUITE[100])
    specs += [SUITE[200], SUITE[200], *[foreign] * 4]
    found = completeness(specs)
    assert not found.complete
    assert found.missing == tuple(spec.prompt for spec in SUITE[:9])
    assert found.short == {SUITE[100].prompt: 3}
    assert found.double == {SUITE[200].prompt: 6}
    assert found.foreign == ("a photo of seven dogs",)
    assert found.missing_tags == ()
    assert (found.prompts, found.expected, found.images_per_prompt) == (545, 553, 4)
    assert found.covered == 544, "the foreign prompt covers nothing of the suite"
    assert found.problems() == [
        f"9 of 553 prompts are missing: {', '.join(spec.prompt for spec in SUITE[:5])} and 4 more",
        "1 prompt is not in the official suite: a photo of seven dogs",
        f"1 prompt has fewer than 4 images: '{SUITE[100].prompt}' (3)",
        f"1 prompt has more than 4 images: '{SUITE[200].prompt}' (6)",
    ]


def test_a_missing_tag_is_said_first() -> None:
    found = completeness([spec for spec in SUITE if spec.tag != "counting"])
    assert found.missing_tags == ("counting",)
    assert found.problems()[0] == "no images for counting: the overall is over the other tasks only"
    assert found.problems()[1].startswith("80 of 553 prompts are missing: ")


def test_a_suite_of_ones_own() -> None:
    custom = [PromptSpec.parse({"tag": tag, "include": [{"class": "dog", "count": 9}]}) for tag in TAGS[:3]]
    given_one = completeness(custom[:2], custom)
    assert given_one.missing_tags == ("counting",)
    assert given_one.expected == 3
    assert completeness(custom, custom).complete
    # Without a suite there is nothing to be missing, but an overall of three tags is not the benchmark's.
    unknown = completeness([*custom, custom[0]])
    assert (unknown.suite, unknown.missing, unknown.foreign) == ("custom", (), ())
    assert unknown.double == {custom[0].prompt: 2}
    assert unknown.missing_tags == TAGS[3:]
    assert not unknown.complete


def test_nothing_is_not_complete() -> None:
    found = completeness([])
    assert not found.complete
    assert (found.prompts, found.images_per_prompt, found.missing_tags) == (0, 0, TAGS)
