from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.judge import Rules


def test_defaults_are_the_benchmarks() -> None:
    expected = {
        "confidence": 0.3,
        "counting_confidence": 0.9,
        "max_objects": 16,
        "max_overlap": 1.0,
        "position": 0.1,
        "background": "#999",
        "crop": True,
    }
    assert Rules().to_dict() == expected
    assert Rules.parse(None) == Rules.parse("") == Rules.parse({}) == Rules.parse("geneval") == Rules()


def test_forms() -> None:
    rules = Rules(confidence=0.5, max_objects=4, crop=False, background="original")
    assert Rules.parse(rules) is rules
    assert Rules.parse(rules.to_dict()) == rules
    assert Rules.parse("confidence=0.5, max_objects=4,crop=false,background=original") == rules
    assert Rules.parse("geneval, confidence = 0.5 ,max_objects=4,crop=0,background=original") == rules
    assert Rules.parse("lite,confidence=0.4") == Rules.parse(Rules.parse("lite").to_dict() | {"confidence": 0.4})
    official = {"threshold": 0.5, "counting_threshold": 0.6, "position_threshold": 0.2, "bgcolor": "#000"}
    assert Rules.parse(official) == Rules(confidence=0.5, counting_confidence=0.6, position=0.2, background="#000")
    assert Rules.parse("threshold=0.5,position_threshold=0") == Rules(confidence=0.5, position=0)


def test_pairs_change_only_what_they_name() -> None:
    lite = Rules.parse("lite")
    assert Rules.parse("confidence=0.3", base=lite) == Rules.parse({"threshold": 0.3}, base=lite)
    assert Rules.parse("confidence=0.3", base=lite) == Rules.parse("lite,confidence=0.3")
    assert Rules.parse(None, base=lite) == Rules.parse("", base=lite) == lite
    assert Rules.parse("geneval,confidence=0.4", base=lite) == Rules(confidence=0.4)
    assert Rules.parse(Rules(), base=lite) == Rules()


def test_the_lite_profile_is_what_its_benchmark_recommends() -> None:
    """The row of benchmarks/lite_thresholds.py that docs/lite_detector.md sets in bold."""
    assert Rules.parse("lite") == Rules(confidence=0.25, counting_confidence=0.25, max_overlap=0.4)


def test_the_tag_decides_the_threshold() -> None:
    assert (Rules().threshold("counting"), Rules().threshold("colors")) == (0.9, 0.3)


@given(
    st.builds(
        Rules,
        confidence=st.floats(0, 1),
        counting_confidence=st.floats(0, 1),
        max_objects=st.integers(1, 999),
        max_overlap=st.floats(0, 1),
        position=st.floats(0, 9),
        background=st.from_regex(r"\A(#[0-9a-f]{3}|#[0-9A-F]{6}|original)\Z"),
        crop=st.booleans(),
    )
)
def test_text_and_mapping_give_the_same_rules(rules: Rules) -> None:
    assert Rules.parse(",".join(f"{key}={value}" for key, value in rules.to_dict().items())) == rules
    assert Rules.parse(rules.to_dict()) == rules


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("papr", r"rules: expected a profile \(geneval, lite, nanodet\) first, .*got 'papr'"),
        ("confidence=0.5,lite", r"rules: expected a profile .* first, then field=value pairs, got 'lite'"),
        ("confidence=high", r"rules: expected a value for confidence, got 'high'"),
        ("max_objects=3.5", r"rules: expected a value for max_objects, got '3.5'"),
        ("crop=maybe", r"rules: expected a value for crop, got 'maybe'"),
        ("confidences=0.5", r"rules: expected fields of .*, got 'confidences'"),
        ({"model": "x", "threshold": 0.3}, r"rules: expected fields of .*, got 'model'"),
        (0.3, r"rules: expected a profile, .*got float"),
        (["lite"], r"rules: expected a profile, .*got list"),
        ({"confidence": 1.5}, r"confidence: expected a number in \[0, 1\], got 1.5"),
        ({"confidence": float("nan")}, r"confidence: expected a number in \[0, 1\], got nan"),
        ({"threshold": "0.3"}, r"confidence: expected a number in \[0, 1\], got '0.3'"),
        ({"counting_confidence": -0.1}, r"counting_confidence: expected"),
        ({"max_overlap": True}, r"max_overlap: expected a number in \[0, 1\], got True"),
        ({"max_objects": 0}, r"max_objects: expected an integer >= 1, got 0"),
        ({"max_objects": 16.0}, r"max_objects: expected an integer >= 1, got 16.0"),
        ({"position": -0.1}, r"position: expected a number >= 0, got -0.1"),
        ({"position": float("inf")}, r"position: expected a number >= 0, got inf"),
        ({"position": True}, r"position: expected a number >= 0, got True"),
        ({"background": "grey"}, r"background: expected '#rgb', '#rrggbb' or 'original', got 'grey'"),
        ({"background": "#9999"}, r"background: expected"),
        ({"background": None}, r"background: expected .*, got None"),
        ({"crop": "1"}, r"crop: expected True or False, got '1'"),
    ],
)
def test_bad_rules_name_the_field(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rules.parse(value)
