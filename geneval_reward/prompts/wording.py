"""English as the benchmark writes it, with its odd plurals.

Source: djghosh13/geneval `prompts/create_prompts.py`: "an" before a, e, i, o, u; plural is the name + "es" where
it ends in "s", else name + "s" ("benchs", "sheeps", "persons" are part of the benchmark).
"""

from __future__ import annotations

from typing import Final

NUMBERS: Final = tuple(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
)
"""Numbers that are written as words."""


def article(noun: str) -> str:
    """Choose `an` before a vowel letter, else `a`."""
    return "an" if noun[:1] in "aeiou" else "a"


def plural(noun: str) -> str:
    """Form the benchmark's plural: `es` is added after s, else `s`."""
    return noun + ("es" if noun.endswith("s") else "s")


def number_word(count: int) -> str:
    """Write a number as a word up to sixteen, and in digits above."""
    return NUMBERS[count] if count < len(NUMBERS) else str(count)
