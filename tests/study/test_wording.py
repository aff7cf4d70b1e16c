"""Scores, differences and judges in words."""

import math

from geneval_reward.results import RunIdentity
from geneval_reward.stats import Difference, Estimate, Interval
from geneval_reward.study.wording import (
    bare_p,
    detectable_text,
    difference_interval,
    difference_text,
    interval_text,
    judge_text,
    points_text,
    rules_text,
    share_text,
)

KNOWN = Estimate(0.375, Interval(0.125, 0.984, 0.95, "wilson"), 0.1, 8, 4)
UNKNOWN = Estimate(0.375, Interval(math.nan, math.nan, 0.95, "none: a tag has a single prompt"), 0.1, 8, 4)


def test_one_bracket_for_every_interval():
    assert share_text(KNOWN) == "0.375 (0.125 to 0.984)"
    assert points_text(KNOWN) == "37.5 (12.5 to 98.4)"
    assert interval_text(KNOWN) == "0.125 to 0.984"


def test_an_unknown_interval_is_left_out_and_not_printed_as_nan():
    assert (share_text(UNKNOWN), points_text(UNKNOWN), interval_text(UNKNOWN)) == ("0.375", "37.5", "")
    assert share_text(None) == points_text(None) == "–"
    assert UNKNOWN.to_dict() == {"value": 0.375, "low": None, "high": None, "images": 8, "prompts": 4}


def test_differences():
    one = Difference(0.3, 0.5, 0.2, Interval(-0.004, 0.404, 0.95, "t"), 0.1, 0.0004, 0.0312, 0.28, 8, 4)
    assert (difference_text(one), difference_interval(one), detectable_text(one)) == ("+20.0", "-0.4 to +40.4", "28.0")
    assert (bare_p(one.p_value), bare_p(one.p_holm)) == ("< 0.001", "0.031")


def test_judges_and_their_rules():
    rules = {"position": 0.1, "confidence": 0.3, "crop": True}
    assert rules_text(rules) == "confidence=0.3, position=0.1, crop=true"
    assert rules_text(None) == "not recorded"
    first = RunIdentity(rules='{"confidence":0.3}', backend="lite", fingerprint="ab12")
    second = RunIdentity(rules='{"confidence":0.5}', backend="lite", fingerprint="ab12")
    assert judge_text([first]) == "lite ab12, rules confidence=0.3"
    assert judge_text([first, second]) == "lite ab12, rules confidence=0.3; confidence=0.5"
