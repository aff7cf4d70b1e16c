"""The words of the pocket token model: its vocabulary, and texts as numbers."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Final

import torch
from torch import Tensor

from geneval_reward.pocket.questions import question_words
from geneval_reward.pocket.scene import POCKET_CLASSES
from geneval_reward.prompts import COLORS, RELATIONS
from geneval_reward.prompts.wording import plural

MAX_WORDS: Final = 11
"""Longest prompt, question and answer in words; further words are cut with a warning."""
TEXT_LENGTH: Final = MAX_WORDS + 1
"""Every text is padded to this many numbers: its words and the end."""
PAD, END, UNKNOWN = 0, 1, 2
"""Numbers of the special words: padding, the end of a text, and a word that is not known."""


@cache
def vocabulary() -> tuple[str, ...]:
    """Return all words that the model reads and writes, in the order of their numbers."""
    phrases = ["a an photo of and", *question_words(), *COLORS, *RELATIONS]
    phrases += [form for name in POCKET_CLASSES for form in (name, plural(name))]
    return ("<pad>", "</s>", "<unk>", *dict.fromkeys(" ".join(phrases).split()))


@cache
def _numbers() -> dict[str, int]:
    return {word: number for number, word in enumerate(vocabulary())}


def number_words(texts: Sequence[str], name: str) -> Tensor:
    """Convert texts to word numbers.

    Args:
        texts: Any texts. Case and punctuation do not matter; unknown words are read as "unknown", and words beyond the
            eleventh are cut, both with a warning.
        name: Name of the texts in messages.

    Returns:
        `(n, 12)` int64 on the CPU: the words, `</s>`, and padding.

    Raises:
        TypeError: If a text is not a string, or `texts` is a single string.
    """
    if isinstance(texts, str):
        raise TypeError(f"{name}: expected a list of strings, got one string; put it in a list")
    ids = torch.full((len(texts), TEXT_LENGTH), PAD)
    known = _numbers()
    unknown: dict[str, None] = {}
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{index}]: expected a string, got {type(text).__name__}")
        words = re.sub(r"[.,;:!?\"'()\[\]]+", " ", unicodedata.normalize("NFKC", text).lower()).split()
        unknown |= dict.fromkeys(word for word in words if word not in known)
        if len(words) > MAX_WORDS:
            warnings.warn(
                f"{name}[{index}]: expected at most {MAX_WORDS} words, got {len(words)}; the rest is cut: "
                f"{' '.join(words[MAX_WORDS:])!r}",
                stacklevel=3,
            )
        numbers = [known.get(word, UNKNOWN) for word in words[:MAX_WORDS]] + [END]
        ids[index, : len(numbers)] = torch.tensor(numbers)
    if unknown:
        warnings.warn(
            f"{name}: expected words of the pocket model's vocabulary, got {', '.join(map(repr, list(unknown)[:8]))}; "
            "they are read as unknown words, see docs/pocket_tokens.md",
            stacklevel=3,
        )
    return ids
