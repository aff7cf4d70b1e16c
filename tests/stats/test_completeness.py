import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.judge import Detections, judge
from geneval_reward.prompts import TAGS, PromptSpec, official_suite
from geneval_reward.stats.completeness import Tally, completeness

SUITE = official_suite()


def tally(*rows: tuple[str, str, float]) -> Tally:
    made = Tally()
    for tag, prompt, value in rows:
        made.add(tag, prompt, value)
    return made


EXAMPLE = tally(
    ("colors", "red dog", 1),
    ("colors", "red dog", 0),
    ("colors", "blue cat", 0),
    ("colors", "blue cat", 0),
    ("counting", "two cats", 1),
    ("single_object", "cup", 1),
    ("single_object", "bed", 0),
    ("single_object", "cup", 1),
)


def test_by_hand() -> None:
    assert EXAMPLE.per_tag() == {"single_object": pytest.approx(2 / 3), "counting": 1.0, "colors": 0.25}
    assert list(EXAMPLE.per_tag()) == ["single_object", "counting", "colors"]
    assert EXAMPLE.images_per_tag() == {"single_object": 3, "counting": 1, "colors": 4}
    assert EXAMPLE.overall == pytest.approx((2 / 3 + 1 + 0.25) / 3)
    assert EXAMPLE.micro == pytest.approx(4 / 8)
    # Red dog, two cats and the cup are solved; blue cat and bed are not.
    assert EXAMPLE.prompts_solved() == pytest.approx(3 / 5)
    assert EXAMPLE.missing_tags() == ("two_object", "position", "color_attr")
    assert len(EXAMPLE) == 8


def test_nothing_is_not_zero() -> None:
    empty = Tally()
    assert math.isnan(empty.overall)
    assert math.isnan(empty.micro)
    assert math.isnan(empty.prompts_solved())
    assert empty.per_tag() == empty.images_per_tag() == {}
    assert empty.missing_tags() == TAGS
    assert len(empty) == 0


def test_graded_credits_solve_a_prompt_only_when_full() -> None:
    graded = tally(("colors", "a", 0.99), ("colors", "b", 0.2), ("colors", "b", 1.0), ("colors", "c", -3.0))
    assert graded.prompts_solved() == pytest.approx(1 / 3)
    assert graded.overall == pytest.approx((0.99 + 0.2 + 1 - 3) / 4)


@given(st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from("abc"), st.integers(0, 1)), min_size=1))
def test_laws(rows: list[tuple[str, str, int]]) -> None:
    made = tally(*rows)
    counts, means = made.images_per_tag(), made.per_tag()
    assert sum(counts.values()) == len(made)
    assert set(counts) | set(made.missing_tags()) == set(TAGS)
    assert made.micro == pytest.approx(sum(means[tag] * counts[tag] for tag in counts) / len(made))
    assert min(means.values()) - 1e-12 <= made.overall <= max(means.values()) + 1e-12
    # Any of several images solves a prompt, so more prompts are solved than images are right on the prompts' average.
    assert made.prompts_solved() >= 0
    assert (made.prompts_solved() == 0) == (made.micro == 0)
    assert tally(*reversed(rows)).overall == pytest.approx(made.overall)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("colour", "x", 1.0), r"tag: expected one of single_object, .*, got 'colour'"),
        (
            ("colors", "x", math.nan),
            r"value: expected a finite credit, got nan; leave out images that could not be scored",
        ),
        (("colors", "x", math.inf), r"value: expected a finite credit, got inf"),
    ],
)
def test_bad_rows_are_refused_and_not_counted(row: tuple[str, str, float], message: str) -> None:
    made = Tally()
    with pytest.raises(ValueError, match=message):
        made.add(*row)
    assert len(made) == len(made.tags) == len(made.prompts) == 0


def test_of_verdicts() -> None:
    def seen(spec: PromptSpec, dogs: int) -> Detections:
        return Detections([[9 * i, 0, 9 * i + 8, 8] for i in range(dogs)], [0.95] * dogs, [16] * dogs, (99, 9))

    dog = PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}]})
    two = PromptSpec.parse({"tag": "counting", "include": [{"class": "dog", "count": 2}]})
    # Equal texts of different records are different prompts, as in the benchmark, which groups by metadata.
    other = PromptSpec.parse({"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": dog.prompt})
    verdicts = [judge(spec, seen(spec, n)) for spec, n in ((dog, 1), (dog, 2), (two, 2), (two, 3), (other, 1))]
    official, strict = Tally.of(verdicts), Tally.of(verdicts, "strict")
    assert official.per_tag() == {"single_object": pytest.approx(2 / 3), "counting": 1.0}
    assert strict.per_tag() == {"single_object": pytest.approx(1 / 3), "counting": 0.5}
    assert official.prompts_solved() == strict.prompts_solved() == pytest.approx(2 / 3)
    assert Tally.of(verdicts, "flow_grpo").micro == pytest.approx((1 + 0 + 1 + 0.5 + 0) / 5)
    with pytest.raises(ValueError, match=r"credit: expected one of"):
        Tally.of(verdicts, "best")


# --- completeness -------------------------------------------------------------------------------------------------------


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
    assert found.problems() == [
        f"9 of 553 prompts are missing: {', '.join(spec.prompt for spec in SUITE[:5])} and 4 more",
        "1 prompts are not in the official suite: a photo of seven dogs",
        f"1 prompts have fewer than 4 images: '{SUITE[100].prompt}' (3)",
        f"1 prompts have more than 4 images: '{SUITE[200].prompt}' (6)",
    ]


def test_a_missing_tag_is_said_first() -> None:
    found = completeness([spec for spec in SUITE if spec.tag != "counting"])
    assert found.missing_tags == ("counting",)
    assert found.problems()[0] == "no images for counting: the overall is over the other tags only"
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
