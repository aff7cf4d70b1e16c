"""How the reports and tables of this package write scores, differences, p-values and judges.

Scores stand in points (100 times the share of correct images) where runs are compared, and as shares where they stand beside
published scores, which are printed as shares. Intervals always read `(low to high)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from geneval_reward.judge.rules import Rules
from geneval_reward.results import RunIdentity
from geneval_reward.stats import Difference, Estimate


def share_text(estimate: Estimate | None) -> str:
    """Write a score as a share with its interval: `0.375 (0.125 to 0.984)`; a dash for None."""
    if estimate is None:
        return "–"
    return f"{estimate.value:.3f}" + interval_text(estimate, " ({:.3f} to {:.3f})")


def points_text(estimate: Estimate | None) -> str:
    """Write a score in points with its interval: `37.5 (12.5 to 98.4)`; a dash for None."""
    if estimate is None:
        return "–"
    return f"{100 * estimate.value:.1f}" + interval_text(estimate, " ({:.1f} to {:.1f})", 100)


def interval_text(estimate: Estimate, form: str = "{:.3f} to {:.3f}", scale: float = 1) -> str:
    """Write the interval of a score; empty if it is not known, as of a graded credit for a task with one prompt."""
    low, high = estimate.interval.low, estimate.interval.high
    return "" if math.isnan(low) or math.isnan(high) else form.format(scale * low, scale * high)


def difference_text(difference: Difference) -> str:
    """Write a difference in points, with its sign: `+1.8`."""
    return f"{100 * difference.value:+.1f}"


def difference_interval(difference: Difference) -> str:
    """Write the interval of a difference in points: `-0.4 to +3.9`."""
    return f"{100 * difference.interval.low:+.1f} to {100 * difference.interval.high:+.1f}"


def detectable_text(difference: Difference) -> str:
    """Write the smallest difference that would have been shown, in points; a dash if there are too few prompts for any."""
    return f"{100 * difference.detectable:.1f}" if math.isfinite(difference.detectable) else "–"


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


def task_header(tags: Sequence[str]) -> list[str]:
    """Write task names as column names: `single object`."""
    return [tag.replace("_", " ") for tag in tags]


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


def counted(number: int, noun: str) -> str:
    """Write a number with its noun.

    Examples:
        >>> counted(1, "image"), counted(4, "image")
        ('1 image', '4 images')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
