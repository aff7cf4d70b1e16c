"""Correct English for GenEval's class names, unlike the benchmark's own prompts ("three benchs", "a skis")."""

from __future__ import annotations

from typing import Final

from geneval_reward.prompts.vocabulary import CLASS_NAMES, COCO_ALIASES
from geneval_reward.prompts.wording import article, number_word, plural

_PLURALS: Final = {"person": "people", "knife": "knives", "sheep": "sheep", "computer mouse": "computer mice"}
# These are counted with a measure word: "a pair of scissors", "three heads of broccoli".
_MEASURES: Final = {"skis": "pair", "scissors": "pair", "broccoli": "head"}


def several(name: str) -> str:
    """Write the plural of a class.

    Examples:
        >>> several("bench"), several("knife"), several("scissors"), several("tv")
        ('benches', 'knives', 'pairs of scissors', 'tvs')
    """
    if name in _MEASURES:
        return f"{_MEASURES[name]}s of {name}"
    if name in _PLURALS:
        return _PLURALS[name]
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def single(name: str) -> str:
    """Write the singular of a class without an article.

    Examples:
        >>> single("dog"), single("skis")
        ('dog', 'pair of skis')
    """
    return f"{_MEASURES[name]} of {name}" if name in _MEASURES else name


def noun(name: str, count: int = 1, color: str | None = None) -> str:
    """Write a class with its colour, without article or number.

    Examples:
        >>> noun("dog", 2, "red"), noun("scissors", 1, "blue")
        ('red dogs', 'blue pair of scissors')
    """
    words = single(name) if count == 1 else several(name)
    return words if color is None else f"{color} {words}"


def phrase(name: str, count: int = 1, color: str | None = None) -> str:
    """Write a class with article or number.

    Examples:
        >>> phrase("umbrella"), phrase("knife", 3), phrase("orange", 1, "blue")
        ('an umbrella', 'three knives', 'a blue orange')
    """
    words = noun(name, count, color)
    return f"{article(words)} {words}" if count == 1 else f"{number_word(count)} {words}"


def _forms() -> dict[tuple[str, ...], str]:
    """Map every way to write a class, as a tuple of words, to its name."""
    other = {"people": "person", "persons": "person", "ski": "skis", "mice": "computer mouse"}
    for name in CLASS_NAMES:
        other |= dict.fromkeys((name, plural(name), several(name), single(name)), name)
    for short, name in COCO_ALIASES.items():
        other |= {short: name, f"{short}s": name}
    return {tuple(text.split()): name for text, name in other.items()}


CLASS_FORMS: Final = _forms()
"""Class names by the words by which an answer may call them, singular and plural, the benchmark's odd plurals included."""
