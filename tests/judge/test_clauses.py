"""The credits on small scenes. `flow_grpo`, official and strict figures were measured by running the public Flow-GRPO
reward function on the same synthetic detections."""

from typing import Any

import numpy as np
import pytest

from geneval_reward.judge import CREDITS, Detections, Verdict, judge
from geneval_reward.prompts import COLORS, PromptSpec, class_id

Scene = list[tuple[str, tuple[float, float, float, float], float, str | None]]


def see(record: dict[str, Any], scene: Scene, rules: Any = None) -> Verdict:
    color = np.zeros((len(scene), 10), np.float32)
    for row, (_, _, _, name) in enumerate(scene):
        color[row] = np.nan if name is None else [float(name == known) for known in COLORS]
    detections = Detections(
        np.array([box for _, box, _, _ in scene], np.float32).reshape(-1, 4),
        np.array([confidence for _, _, confidence, _ in scene], np.float32),
        np.array([class_id(name) for name, _, _, _ in scene], np.int64),
        (256, 256),
        color=color,
    )
    return judge(PromptSpec.parse(record), detections, rules)


def some(name: str, count: int, color: str | None = None) -> Scene:
    """`count` separate objects, the first most confident."""
    return [(name, (8.0 * i, 0, 8.0 * i + 6, 6), 0.99 - 0.002 * i, color) for i in range(count)]


def at(name: str, x: float, y: float, confidence: float = 0.95) -> Scene:
    return [(name, (x, y, x + 10, y + 10), confidence, None)]


SINGLE = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
TWO = {"tag": "two_object", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]}
THREE = {
    "tag": "counting",
    "include": [{"class": "dog", "count": 3}],
    "exclude": [{"class": "dog", "count": 4}],
}
RED_CUP = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}]}
TWO_COLORS = {
    "tag": "color_attr",
    "include": [{"class": "cup", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "color": "blue"}],
}
LEFT = {
    "tag": "position",
    "include": [{"class": "cup", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}],
}
CUP, CAT, CAT_RIGHT = at("cup", 100, 50), at("cat", 10, 50), at("cat", 200, 50)


@pytest.mark.parametrize(
    ("record", "scene", "official", "strict", "flow_grpo", "partial"),
    [
        (SINGLE, some("dog", 0), 0, 0, 0, 0),
        (SINGLE, some("dog", 1), 1, 1, 1, 1),
        (SINGLE, some("dog", 2), 1, 0, 0, 0),
        (SINGLE, some("dog", 3), 1, 0, -1, 0),
        (SINGLE, some("dog", 12), 1, 0, -10, 0),
        (SINGLE, some("dog", 16), 1, 0, -14, 0),
        (SINGLE, some("dog", 20), 1, 0, -14, 0),
        (TWO, some("dog", 1), 0, 0, 0.5, 0.5),
        (TWO, some("dog", 1) + some("cat", 2), 1, 0, 0.5, 0.5),
        (TWO, some("dog", 1) + some("cat", 1), 1, 1, 1, 1),
        (THREE, some("dog", 0), 0, 0, 0, 0),
        (THREE, some("dog", 2), 0, 0, 2 / 3, 2 / 3),
        (THREE, some("dog", 3), 1, 1, 1, 1),
        (THREE, some("dog", 4), 0, 0, 2 / 3, 2 / 3),
        (THREE, some("dog", 7), 0, 0, -1 / 3, 0),
        (RED_CUP, some("cup", 1, "red"), 1, 1, 1, 1),
        (RED_CUP, some("cup", 1, "blue"), 0, 0, 0.5, 0.5),
        (RED_CUP, some("cup", 0), 0, 0, 0, 0),
        (RED_CUP, some("cup", 2, "red"), 1, 0, 0, 0),
        (TWO_COLORS, some("cup", 1, "red") + some("dog", 1, "blue"), 1, 1, 1, 1),
        (TWO_COLORS, some("cup", 1, "blue") + some("dog", 1, "red"), 0, 0, 0.5, 0.5),
        (TWO_COLORS, some("cup", 1, "red"), 0, 0, 0.5, 0.5),
        (LEFT, CUP + CAT, 1, 1, 1, 1),
        (LEFT, CUP + CAT_RIGHT, 0, 0, 0.75, 2 / 3),
        (LEFT, CAT, 0, 0, 1 / 3, 1 / 3),
        (LEFT, CUP, 0, 0, 1 / 3, 1 / 3),
        (LEFT, CUP + CAT + at("cat", 10, 80, 0.5), 1, 0, 1 / 3, 1 / 3),
    ],
)
def test_measured_cases(
    record: dict[str, Any], scene: Scene, official: int, strict: int, flow_grpo: float, partial: float
) -> None:
    credits = see(record, scene).credits()
    assert tuple(credits) == CREDITS
    assert (credits["official"], credits["strict"]) == (official, strict)
    assert credits["flow_grpo"] == pytest.approx(flow_grpo, abs=1e-9)
    assert credits["partial"] == pytest.approx(partial, abs=1e-9)


@pytest.mark.parametrize(
    ("record", "scene", "reason"),
    [
        (SINGLE, [], "expected dog>=1, found 0"),
        (THREE, some("dog", 2), "expected dog>=3, found 2"),
        (THREE, some("dog", 5), "expected dog<4, found 5"),
        (RED_CUP, some("cup", 1, "blue"), "expected red cup>=1, found 0 red; and 1 blue"),
        (LEFT, CAT, "expected cup>=1, found 0\nno target for cat to be left of"),
        (LEFT, CUP + CAT_RIGHT, "expected cat left of target, found right of target"),
        (LEFT, CUP + at("cat", 100, 50), "expected cat left of target, found  target"),
        (LEFT, CUP + at("cat", 150, 0), "expected cat left of target, found right of and above target"),
    ],
)
def test_wording_of_reasons(record: dict[str, Any], scene: Scene, reason: str) -> None:
    assert see(record, scene).reason == reason


def test_colours_are_listed_in_the_benchmarks_order() -> None:
    record = {"tag": "colors", "include": [{"class": "cup", "count": 4, "color": "red"}]}
    scene = [
        ("cup", (8.0 * i, 0, 8.0 * i + 6, 6), 0.99 - 0.01 * i, color)
        for i, color in enumerate(["white", "blue", "red", "blue"])
    ]
    assert see(record, scene).reason == "expected red cup>=4, found 1 red; and 1 red, 2 blue, 1 white"


def test_only_the_most_confident_are_looked_at() -> None:
    cups = [("cup", (0, 0, 9, 9), 0.9, "blue"), ("cup", (20, 0, 29, 9), 0.8, "red")]
    assert not see(RED_CUP, cups).correct
    assert see(RED_CUP, [("cup", (0, 0, 9, 9), 0.7, "blue"), cups[1]]).correct


def test_the_tag_decides_the_threshold() -> None:
    scene = [("dog", (0, 0, 9, 9), 0.5, None)]
    assert see(SINGLE, scene).correct
    assert see(SINGLE | {"tag": "counting"}, scene).reason == "expected dog>=1, found 0"
    assert see(SINGLE | {"tag": "counting"}, scene, "counting_confidence=0.4").correct


def test_thresholds_are_strict() -> None:
    edge = np.float32(0.3)
    assert not see(SINGLE, [("dog", (0, 0, 9, 9), float(edge), None)]).correct
    assert see(SINGLE, [("dog", (0, 0, 9, 9), float(np.nextafter(edge, np.float32(1))), None)]).correct


def test_at_most_sixteen_objects_count() -> None:
    record = {"tag": "counting", "include": [{"class": "dog", "count": 16}], "exclude": [{"class": "dog", "count": 17}]}
    assert see(record, some("dog", 20)).correct
    assert see(record, some("dog", 20), "max_objects=20").reason == "expected dog<17, found 20"


def test_a_second_position_is_not_looked_at_once_the_first_failed() -> None:
    record = {
        "tag": "position",
        "include": [
            {"class": "cup", "count": 1},
            {"class": "dog", "count": 1},
            {"class": "cat", "count": 1, "position": [["left of", 0], ["above", 1]]},
        ],
    }
    dog_below, dog_above = at("dog", 10, 200), at("dog", 10, 0)
    assert see(record, CUP + CAT + dog_below).credits() == dict.fromkeys(CREDITS, 1.0)
    wrong = see(record, CUP + CAT_RIGHT + dog_below)
    assert [finding.passed for finding in wrong.findings] == [True, True, True, False, None]
    assert wrong.partial == pytest.approx(3 / 5)
    half = see(record, CUP + CAT + dog_above)
    assert (half.correct, half.partial) == (False, pytest.approx(4 / 5))


def test_a_group_is_compared_with_every_target() -> None:
    record = {
        "tag": "position",
        "include": [{"class": "cup", "count": 2}, {"class": "cat", "count": 2, "position": ["left of", 0]}],
    }
    cups = at("cup", 100, 50, 0.9) + at("cup", 150, 50, 0.8)
    assert see(record, cups + at("cat", 10, 50, 0.9) + at("cat", 40, 50, 0.8)).correct
    assert not see(record, cups + at("cat", 10, 50, 0.9) + at("cat", 125, 50, 0.8)).correct


def test_a_wrong_target_colour_leaves_no_target() -> None:
    record = {
        "tag": "position",
        "include": [
            {"class": "cup", "count": 1, "color": "red"},
            {"class": "cat", "count": 1, "position": ["left of", 0]},
        ],
    }
    cup = [("cup", (100.0, 50.0, 110.0, 60.0), 0.95, "green")]
    assert see(record, cup + CAT).reason.endswith("no target for cat to be left of")
    # Measured on the public function: the colour earns 0 and the missing target one 0.
    assert see(record, cup + CAT).flow_grpo == pytest.approx((1 + 0 + 1 + 0) / 4)


def test_exclusion_of_another_class_counts_in_strict_and_partial() -> None:
    record = {**SINGLE, "exclude": [{"class": "cat", "count": 1}]}
    assert see(record, some("dog", 1)).partial == 1
    both = see(record, some("dog", 1) + some("cat", 1))
    assert (both.correct, both.strict, both.partial) == (False, False, 0.5)
    assert both.reason == both.strict_reason == "expected cat<1, found 1"


def test_an_exact_count_settles_only_larger_exclusions() -> None:
    contradiction = {
        "tag": "counting",
        "include": [{"class": "dog", "count": 3}],
        "exclude": [{"class": "dog", "count": 3}],
    }
    three = see(contradiction, some("dog", 3))
    assert (three.correct, three.strict, three.partial) == (False, False, 0.5)


def test_dense_by_hand() -> None:
    # Threshold 0.3, so full presence from 0.65 on.
    def dog(confidence: float) -> Scene:
        return [("dog", (0, 0, 9, 9), confidence, None)]

    assert see(SINGLE, dog(0.65)).dense == pytest.approx(1, abs=1e-6)
    assert see(SINGLE, dog(0.325)).dense == pytest.approx(0.5, abs=1e-6)
    assert see(SINGLE, dog(0.13)).dense == pytest.approx(0.2, abs=1e-6)
    assert see(THREE, some("dog", 2)).dense == pytest.approx((2 / 3 + 1) / 2)
    # The fourth dog, at 0.675, is halfway between half the counting threshold and the threshold.
    four = [*some("dog", 3), ("dog", (90, 0, 99, 9), 0.675, None)]
    assert see(THREE, four).dense == pytest.approx((1 + 0.5) / 2, abs=1e-6)
    assert see(RED_CUP, some("cup", 1, "blue")).dense == pytest.approx(0.5)


def test_dense_position_by_hand() -> None:
    # Boxes of 10 x 10, so 2 pixels of an offset are dead; full share from a component of 0.75 on.
    wrong, slanted = at("cat", 200, 50), at("cat", 40, 130)
    assert see(LEFT, CUP + CAT).dense == 1
    assert see(LEFT, CUP + wrong).dense == pytest.approx((1 + 1 + (1 - 0.98) / 1.75) / 3, abs=1e-6)
    assert see(LEFT, CUP + slanted).dense == pytest.approx((1 + 1 + (1 + 0.58) / 1.75) / 3, abs=1e-6)
    assert see(LEFT, CUP + slanted).correct
    # Both objects must be sure: at half of full presence each halves the relation.
    doubtful_cup, doubtful_cat = at("cup", 100, 50, 0.325), at("cat", 10, 50, 0.325)
    assert see(LEFT, doubtful_cup + CAT).dense == pytest.approx((0.5 + 1 + 0.5) / 3, abs=1e-6)
    assert see(LEFT, CUP + doubtful_cat).dense == pytest.approx((1 + 0.5 + 0.5) / 3, abs=1e-6)
    assert see(LEFT, doubtful_cup + doubtful_cat).dense == pytest.approx((0.5 + 0.5 + 0.25) / 3, abs=1e-6)


def test_dense_follows_the_colour_probability() -> None:
    def cup(probability: float) -> Verdict:
        color = np.full((1, 10), (1 - probability) / 9, np.float32)
        color[0, 0] = probability
        found = Detections(
            np.array([[0, 0, 9, 9]]), np.array([0.9]), np.array([class_id("cup")]), (32, 32), color=color
        )
        return judge(PromptSpec.parse(RED_CUP), found)

    assert cup(0.45).dense == pytest.approx((1 + 0.5) / 2, abs=1e-6)
    assert cup(0.95).dense == 1
    assert (cup(0.45).correct, cup(0.05).correct) == (True, False)


def test_a_verifier_may_abstain() -> None:
    def cup(row: list[float]) -> Verdict:
        found = Detections(
            np.array([[0, 0, 9, 9]]), np.array([0.9]), np.array([class_id("cup")]), (32, 32), color=np.array([row])
        )
        return judge(PromptSpec.parse(RED_CUP), found)

    assert cup([0.5] + [0.0] * 9).correct
    assert cup([0.4, 0.1] + [0.0] * 8).reason == "expected red cup>=1, found 0 red; and 1 of no named colour"
    assert cup([0.0] * 10).reason.endswith("and 1 of no named colour")
    # Ties go to the first colour of the benchmark's order.
    assert cup([0.5, 0.5] + [0.0] * 8).correct
    assert not cup([0.0, 0.5, 0.5] + [0.0] * 7).correct


def test_a_colour_that_nobody_asked_for_is_not_made_up() -> None:
    scene = [("cup", (0.0, 0.0, 9.0, 9.0), 0.9, None)]
    with pytest.raises(
        ValueError, match=r"color: expected colour probabilities for detection 0 \(cup\), got none; .*score"
    ):
        see(RED_CUP, scene)
    found = Detections(np.array([[0, 0, 9, 9]]), np.array([0.9]), np.array([class_id("cup")]), (32, 32))
    with pytest.raises(ValueError, match="expected colour probabilities for detection 0"):
        judge(PromptSpec.parse(RED_CUP), found)
    # Rows that no rule looks at may be unasked.
    assert see(RED_CUP, [("cup", (0, 0, 9, 9), 0.9, "red"), ("cup", (9, 9, 18, 18), 0.8, None)]).correct


def test_overlapping_boxes_are_dropped_where_the_rules_say_so() -> None:
    # Inclusive widths: 10 x 10 pixels each, 50 shared, IoU = 50 / 150.
    scene: Scene = [
        ("dog", (0, 0, 9, 9), 0.9, None),
        ("dog", (0, 5, 9, 14), 0.8, None),
        ("dog", (50, 50, 59, 59), 0.7, None),
    ]
    assert see(SINGLE, scene).kept == {"dog": 3}
    assert see(SINGLE, scene, {"max_overlap": 0.34}).kept == {"dog": 3}
    assert see(SINGLE, scene, {"max_overlap": 0.33}).kept == {"dog": 2}
    assert see(SINGLE, scene, {"max_overlap": 0.33}).objects()["dog"][1][:4] == [50, 50, 59, 59]


def test_overlap_is_judged_within_a_class_and_after_the_limit() -> None:
    same = (0.0, 0.0, 9.0, 9.0)
    scene: Scene = [("dog", same, 0.9, None), ("cat", same, 0.8, None)]
    assert see(TWO, scene, {"max_overlap": 0.1}).kept == {"cat": 1, "dog": 1}
    # The benchmark cuts at max_objects first: the third dog is not promoted.
    three: Scene = [("dog", same, 0.9, None), ("dog", same, 0.8, None), ("dog", (50, 50, 59, 59), 0.7, None)]
    assert see(SINGLE, three, {"max_overlap": 0.5, "max_objects": 2}).kept == {"dog": 1}


def test_unknown_credit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"credit: expected one of official, .*, got 'best'"):
        see(SINGLE, []).credit("best")
