"""Check that a part of the user's own can be called as it will be, before anything is loaded or sampled."""

from __future__ import annotations

import inspect
from typing import Any

from geneval_reward.errors import UsageError


def check_part(argument: str, part: Any, *members: str) -> None:
    """Refuse a part that lacks a member, or whose methods do not take the arguments that they will get.

    Args:
        argument: What error messages call the part.
        part: An object, or a function.
        members: The signature of each method, such as `"detect(images, wanted)"`; `"(verdict)"` for the part itself if it is a
            function; a name alone for an attribute. Arguments are handed over by position, those written `name=` by name.

    Raises:
        UsageError: If the part does not fit; the message has the expected signature.

    Examples:
        >>> check_part("credit", lambda verdict: 1.0, "(verdict)")
        >>> check_part("credit", lambda: 1.0, "(verdict)")
        Traceback (most recent call last):
        geneval_reward.errors.UsageError: credit: expected <lambda>(verdict), got <lambda>()
    """
    own = getattr(part, "__name__", type(part).__name__)
    for member in members:
        name, call, rest = member.partition("(")
        whole = f"{own}.{member}" if name else f"{own}{member}"
        # Looked up without evaluating properties, which may ask a server.
        there = inspect.getattr_static(part, name, None) if name else part
        if there is None:
            raise UsageError(f"{argument}: expected {whole}, got {own} without {name}")
        if not call or isinstance(there, property):
            continue
        method = getattr(part, name) if name else part
        if not callable(method):
            raise UsageError(f"{argument}: expected {whole}, got {type(method).__name__}")
        try:
            found = inspect.signature(method)
        except (TypeError, ValueError):  # some functions of C extensions have none
            continue
        try:
            words = [word.strip() for word in rest.rstrip(")").split(",") if word.strip()]
            names = [word.removesuffix("=") for word in words if word.endswith("=")]
            found.bind(*(word for word in words if not word.endswith("=")), **dict.fromkeys(names))
        except TypeError as error:
            got = f"{own}.{name}{found}" if name else f"{own}{found}"
            raise UsageError(f"{argument}: expected {whole}, got {got}") from error


def takes_nothing(function: Any) -> bool:
    """Tell whether a function, or a class, can be called without arguments and makes no use of others.

    Examples:
        >>> takes_nothing(lambda: 1), takes_nothing(lambda **columns: 1)
        (True, False)
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(one.default is not one.empty for one in parameters)
