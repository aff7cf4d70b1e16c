"""How everything that people read writes scores, intervals, differences, p-values, tasks and judges.

The rules, which `docs/notation.md` explains and `tests/cli/test_notation.py` holds in the output of every command:

- A score, or another share, is a number from 0 to 1 with three decimals. Published scores keep the decimals that were printed.
- A difference of scores is in points, hundredths of a share, with its sign and one decimal.
- An interval stands in square brackets behind its number: `0.375 [0.125, 0.984]`, `+1.8 [-0.4, +3.9]`. One that is not known
  is left out; a number that is not known is a dash.
- A task is written as in the prompt's record: `single_object`.
- CSV and JSON hold shares as plain numbers. An estimate has the columns `ESTIMATE_COLUMNS`; where a row holds several, each
  has `NAME`, `NAME_low` and `NAME_high`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from geneval_reward.judge.rules import Rules
from geneval_reward.results.row import RunIdentity
from geneval_reward.stats import Difference, Estimate

DASH: Final = "–"
"""What stands for a number that is not known."""

ESTIMATE_COLUMNS: Final = ("value", "low", "high", "images", "prompts")
"""The columns of an estimate in CSV, and its keys in JSON; a column `task` stands before them."""

ROW_NAMES: Final = {"images_correct": "correct images", "prompts_correct": "correct prompts"}
"""How tables for people call the rows that are no task; CSV and JSON have the keys. A prompt is correct if any image is."""


def share_text(share: float | None) -> str:
    """Write a share.

    Examples:
        >>> share_text(0.37512), share_text(None), share_text(float("nan"))
        ('0.375', '–', '–')
    """
    return DASH if share is None or math.isnan(share) else f"{share:.3f}"


def share_interval(low: float, high: float) -> str:
    """Write the interval of a share; empty if an end is not known.

    Examples:
        >>> share_interval(0.125, 0.984), share_interval(float("nan"), 1.0)
        ('[0.125, 0.984]', '')
    """
    return _interval(low, high, ".3f")


def share_with_interval(share: float | None, low: float, high: float) -> str:
    """Write a share with its interval.

    Examples:
        >>> share_with_interval(0.375, 0.125, 0.984)
        '0.375 [0.125, 0.984]'
    """
    return f"{share_text(share)} {share_interval(low, high)}".rstrip()


def score_text(estimate: Estimate | None) -> str:
    """Write a score with its interval: `0.375 [0.125, 0.984]`; a dash for None."""
    if estimate is None:
        return DASH
    return share_with_interval(estimate.value, estimate.interval.low, estimate.interval.high)


def points_text(difference: float) -> str:
    """Write a difference of two shares in points, with its sign.

    Examples:
        >>> points_text(0.018), points_text(-0.0001)
        ('+1.8', '+0.0')
    """
    # A rounded zero has no direction.
    return DASH if math.isnan(difference) else f"{round(100 * difference, 1) + 0.0:+.1f}"


def points_interval(low: float, high: float) -> str:
    """Write the interval of a difference of two shares, in points: `[-0.4, +3.9]`; empty if an end is not known."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{points_text(low)}, {points_text(high)}]"


def points_with_interval(difference: float, low: float, high: float) -> str:
    """Write a difference of two shares in points, with its interval.

    Examples:
        >>> points_with_interval(0.018, -0.004, 0.039)
        '+1.8 [-0.4, +3.9]'
    """
    return f"{points_text(difference)} {points_interval(low, high)}".rstrip()


def difference_text(difference: Difference) -> str:
    """Write a difference in points, with its interval: `+1.8 [-0.4, +3.9]`."""
    return points_with_interval(difference.value, difference.interval.low, difference.interval.high)


def detectable_text(difference: Difference) -> str:
    """Write the smallest difference that would have been visible, in points; a dash if there are too few prompts for any."""
    return f"{100 * difference.detectable:.1f}" if math.isfinite(difference.detectable) else DASH


def kappa_text(kappa: float, low: float = math.nan, high: float = math.nan) -> str:
    """Write Cohen's kappa with its interval, with two decimals: `0.42 [0.13, 0.87]`."""
    return DASH if math.isnan(kappa) else f"{kappa:.2f} {_interval(low, high, '.2f')}".rstrip()


def percent_text(level: float) -> str:
    """Write the level of an interval.

    Examples:
        >>> percent_text(0.95)
        '95 %'
    """
    return f"{100 * level:.4g} %"


def p_text(p: float) -> str:
    """Write a p-value.

    Examples:
        >>> p_text(0.031), p_text(0.5), p_text(0.0001)
        ('p = 0.031', 'p = 0.50', 'p < 0.001')
    """
    if math.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def bare_p(p: float) -> str:
    """Write a p-value for a column that is headed `p`: `0.031`, `< 0.001`."""
    return p_text(p).removeprefix("p ").removeprefix("= ")


def rules_text(rules: Mapping[str, Any] | None) -> str:
    """Write rules as `--rules` takes them.

    Examples:
        >>> rules_text({"confidence": 0.3, "crop": True})
        'confidence=0.3, crop=true'
    """
    if rules is None:
        return "not recorded"
    order = [field.name for field in fields(Rules) if field.name in rules]
    return ", ".join(f"{name}={_value(rules[name])}" for name in dict.fromkeys([*order, *rules]))


def judge_text(identities: Sequence[RunIdentity]) -> str:
    """Write what judged a file: backend and fingerprint, then the rules; all of them where a file has several judges."""
    judges = [f"{one.backend or 'an unknown backend'} {one.fingerprint or ''}".strip() for one in identities]
    rules = [rules_text(None if one.rules is None else json.loads(one.rules)) for one in identities]
    return f"{'; '.join(dict.fromkeys(judges))}, rules {'; '.join(dict.fromkeys(rules))}"


def estimate_cells(estimate: Estimate) -> list[float | int | None]:
    """Return the numbers under `ESTIMATE_COLUMNS`, rounded as in JSON."""
    return [estimate.to_dict()[name] for name in ESTIMATE_COLUMNS]


def rounded(value: float | None) -> float | None:
    """Round a number to the six decimals of CSV and JSON; None if it is not known.

    Examples:
        >>> rounded(1 / 3), rounded(float("nan"))
        (0.333333, None)
    """
    return None if value is None or not math.isfinite(value) else round(value, 6)


def _interval(low: float, high: float, form: str) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f"[{low:{form}}, {high:{form}}]"


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
