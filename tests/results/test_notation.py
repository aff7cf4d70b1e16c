"""Scores, differences and judges in words."""

import math

from geneval_reward.results import RunIdentity
from geneval_reward.results.notation import (
    bare_p,
    detectable_text,
    difference_text,
    estimate_cells,
    judge_text,
    kappa_text,
    percent_text,
    points_text,
    rounded,
    rules_text,
    score_text,
    share_text,
)
from geneval_reward.stats import Difference, Estimate, Interval

KNOWN = Estimate(0.375, Interval(0.125, 0.984, 0.95, "wilson"), 0.1, 8, 4)
UNKNOWN = Estimate(0.375, Interval(math.nan, math.nan, 0.95, "none: a task has a single prompt"), 0.1, 8, 4)


def test_one_bracket_for_every_interval():
    assert score_text(KNOWN) == "0.375 [0.125, 0.984]"
    assert kappa_text(0.4, 0.1, 0.7) == "0.40 [0.10, 0.70]"
    assert percent_text(0.95) == "95 %"
    assert percent_text(0.999) == "99.9 %"


def test_an_unknown_interval_is_left_out_and_not_printed_as_nan():
    assert score_text(UNKNOWN) == "0.375"
    assert score_text(None) == share_text(None) == share_text(math.nan) == kappa_text(math.nan) == "–"
    assert points_text(math.nan) == "–"
    assert kappa_text(0.4) == "0.40"
    assert UNKNOWN.to_dict() == {"value": 0.375, "low": None, "high": None, "images": 8, "prompts": 4}
    assert estimate_cells(UNKNOWN) == [0.375, None, None, 8, 4]
    assert (rounded(2 / 3), rounded(math.inf), rounded(None)) == (0.666667, None, None)


def test_differences():
    one = Difference(0.3, 0.5, 0.2, Interval(-0.004, 0.404, 0.95, "t"), 0.1, 0.0004, 0.0312, 0.28, 8, 4)
    assert (difference_text(one), detectable_text(one)) == ("+20.0 [-0.4, +40.4]", "28.0")
    assert (bare_p(one.p_value), bare_p(one.p_holm)) == ("< 0.001", "0.031")
    assert (points_text(0.0), points_text(-0.0004), points_text(-0.01)) == ("+0.0", "+0.0", "-1.0")


def test_judges_and_their_rules():
    rules = {"position": 0.1, "confidence": 0.3, "crop": True}
    assert rules_text(rules) == "confidence=0.3, position=0.1, crop=true"
    assert rules_text(None) == "not recorded"
    first = RunIdentity(rules='{"confidence":0.3}', backend="lite", fingerprint="ab12")
    second = RunIdentity(rules='{"confidence":0.5}', backend="lite", fingerprint="ab12")
    assert judge_text([first]) == "lite ab12, rules confidence=0.3"
    assert judge_text([first, second]) == "lite ab12, rules confidence=0.3; confidence=0.5"
