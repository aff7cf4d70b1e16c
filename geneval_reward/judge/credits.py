"""Credits: the numbers that are read from a verdict, by name, by import path, or as a function of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from geneval_reward.errors import UsageError
from geneval_reward.support.imports import import_object, is_import_path
from geneval_reward.support.signatures import check_part

if TYPE_CHECKING:
    from geneval_reward.judge.verdict import Verdict

CREDITS: Final[tuple[str, ...]] = ("official", "strict", "partial", "dense", "flow_grpo")
"""Names of the package's own credits."""

Credit = str | Callable[["Verdict"], float]
"""The name of a credit, the import path of a function (`module:attribute` or `file.py:attribute`), or a function."""


def check_credit(credit: Credit) -> str:
    """Refuse what is no credit.

    Args:
        credit: A name, an import path, or a function that takes a `Verdict` and returns a finite number.

    Returns:
        A name for logs: that of the credit, or of the function.

    Raises:
        UsageError: If there is no credit of that name, or the function does not take a verdict.

    Examples:
        >>> check_credit("partial"), check_credit(lambda verdict: 1.0)
        ('partial', '<lambda>')
    """
    if isinstance(credit, str) and credit in CREDITS:
        return credit
    function = own_credit(credit)
    name: str = getattr(function, "__name__", type(function).__name__)
    return name


def own_credit(credit: Any) -> Callable[[Verdict], float]:
    """Return the function that a credit of one's own names; checked as `check_credit` says."""
    if not callable(credit) and not (isinstance(credit, str) and is_import_path(credit)):
        raise UsageError(
            f"credit: expected one of {', '.join(CREDITS)}, module:attribute or a function of a verdict, got {credit!r}"
        )
    function: Callable[[Verdict], float] = import_object(credit, "credit") if isinstance(credit, str) else credit
    check_part("credit", function, "(verdict)")
    return function


def value_of(function: Callable[[Verdict], float], verdict: Verdict) -> float:
    """Call a credit of one's own.

    Raises:
        UsageError: If it returns something else than a finite number.
    """
    value = function(verdict)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        name = getattr(function, "__name__", type(function).__name__)
        raise UsageError(
            f"credit: expected a finite number of {name}(verdict), got {value!r} for {verdict.spec.prompt!r}"
        )
    return number
