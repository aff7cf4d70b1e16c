"""Parts of error messages about prompts: a value as it is shown, and what the user may have meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

LONGEST_WORD: Final = 64
"""Characters of a class, colour, task or key. The search for a similar word costs 44 times the memory of the word."""


def hint(word: object, known: Sequence[str], aliases: Mapping[str, str] | None = None, *, cutoff: float = 0.6) -> str:
    """Say what the user may have meant, as the end of an error message; empty if nothing is similar.

    Args:
        word: What came.
        known: What would have been right.
        aliases: Other names of what is known.
        cutoff: How similar a word must be, as `difflib.get_close_matches` takes it.

    Examples:
        >>> hint("dgo", ["dog", "cat"])
        "; did you mean 'dog'?"
    """
    if isinstance(word, str) and len(word) <= LONGEST_WORD:
        if aliases and word.lower() in aliases:
            return f"; GenEval calls it {aliases[word.lower()]!r}"
        near = get_close_matches(word.lower(), known, n=1, cutoff=cutoff)
        if near:
            return f"; did you mean {near[0]!r}?"
    return ""


def shown(value: object) -> str:
    """Write a value for a message; never long, whatever came."""
    if isinstance(value, str | bytes):
        return repr(value if len(value) <= 60 else value[:60]) + ("..." if len(value) > 60 else "")
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        # Python refuses to print integers of more than 4,300 digits.
        return repr(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
    text = repr(value) if _is_short(value) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_short(value: object) -> bool:
    """Whether printing the value costs next to nothing."""
    return isinstance(value, list | tuple) and len(value) <= 8 and all(_is_plain(item) for item in value)


def _is_plain(item: object) -> bool:
    return (isinstance(item, str) and len(item) <= 60) or (isinstance(item, int) and item.bit_length() <= 128)
