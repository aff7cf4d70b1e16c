"""Parse open answers into objects with numbers, colours and positions, and grade them part by part, without a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from geneval_reward.judges.questions import NUMBERS, QA, Part
from geneval_reward.prompts.english import CLASS_FORMS
from geneval_reward.prompts.vocabulary import COLORS

_LONGEST: Final = max(map(len, CLASS_FORMS))
_RELATIONS: Final = {
    "left of": "left of",
    "right of": "right of",
    "above": "above",
    "over": "above",
    "on top of": "above",
    "below": "below",
    "under": "below",
    "underneath": "below",
    "beneath": "below",
}
_INVERSE: Final = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_BE: Final = frozenset(("is", "are", "was", "were", "looks", "look"))
_NO: Final = frozenset(("no", "not", "without", "isn't", "aren't"))
_SKIPPED: Final = frozenset(("the", "a", "an", "pair", "pairs", "head", "heads", "of", "to", "on", "both", "all"))


@dataclass(eq=False)
class _Mention:
    """An object that an answer mentions."""

    class_name: str
    number: int | None
    color: str | None
    denied: bool
    places: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of an answer.

    Attributes:
        credits: 1.0 or 0.0 for each part of the question, in order.
        parsed: Whether anything in the answer could be read: an object, a colour or a number. An unreadable answer counts
            as wrong, and callers count how often that happens.
    """

    credits: tuple[float, ...]
    parsed: bool

    @property
    def mean(self) -> float:
        """The share of correct parts; exactly 1.0 for a correct answer, 0.0 for a question without parts."""
        return sum(self.credits) / len(self.credits) if self.credits else 0.0


def grade_answer(qa: QA, answer: str) -> Grade:
    """Grade an open answer: one credit per part of the question.

    Objects are read with the words around them: number and colour before the class, a colour after "is" or "are", relations
    to the next class, and "no" or "not" before it. A bare colour or number counts for a question about one class. A relation
    may be stated from either side.

    Args:
        qa: A question from `geneval_reward.judges.qa_for`.
        answer: A model's answer.

    Examples:
        >>> from geneval_reward.prompts import PromptSpec
        >>> from geneval_reward.judges.questions import qa_for
        >>> bowls = qa_for(PromptSpec.parse({"tag": "counting", "include": [{"class": "bowl", "count": 4}]}))
        >>> [grade_answer(bowls, text).credits for text in ("four bowls", "three bowls", "four cups")]
        [(1.0, 1.0), (1.0, 0.0), (0.0, 0.0)]
    """
    mentions, bare = _read(answer, color_asked=any(part.kind == "color" for part in qa.parts))
    classes = {part.class_name for part in qa.parts}
    if len(classes) == 1 and not mentions and bare:
        # An answer such as "blue" or "four" is about the one object that was asked about.
        number = next((value for value in bare if isinstance(value, int)), None)
        color = next((value for value in bare if isinstance(value, str)), None)
        mentions = [_Mention(next(iter(classes)), number, color, denied=False)]
        credits = [0.0 if part.kind == "presence" else _credit(part, mentions) for part in qa.parts]
    else:
        credits = [_credit(part, mentions) for part in qa.parts]
    return Grade(tuple(credits), bool(mentions or bare))


def _credit(part: Part, mentions: Sequence[_Mention]) -> float:
    mine = [one for one in mentions if one.class_name == part.class_name and not one.denied]
    if part.kind == "presence":
        return float(bool(mine))
    if part.kind == "count":
        numbers = [one.number for one in mine if one.number is not None]
        return float(bool(numbers) and numbers[0] == part.value)
    if part.kind == "color":
        return float(any(one.color == part.value for one in mine))
    relation = str(part.value)
    told = any((relation, part.target) in one.places for one in mine)
    inverse = (_INVERSE[relation], part.class_name)
    return float(told or any(inverse in one.places for one in mentions if one.class_name == part.target))


def _read(answer: str, *, color_asked: bool) -> tuple[list[_Mention], list[int | str]]:
    """Read the objects of an answer, and the numbers and colours that belong to no object."""
    text = answer.lower().replace("grey", "gray")
    words = re.findall(r"[a-z']+|[0-9]+|[.;!?]", text)
    mentions: list[_Mention] = []
    subject: _Mention | None = None
    relation, number, color, denied = "", None, None, False
    bare: list[int | str] = []
    after_be = False
    at = 0
    while at < len(words):
        name, length = _class_at(words, at)
        word = words[at]
        held = _relation_at(words, at)
        if name is not None and not _is_color_use(words, at, color_asked):
            mention = _Mention(name, number, color, denied)
            mentions.append(mention)
            if relation and subject is not None:
                if not denied:
                    subject.places.append((relation, name))
            else:
                subject = mention
            relation, number, color, denied, after_be = "", None, None, False, False
            at += length
            continue
        if held is not None:
            relation, at = held[0], at + held[1]
            after_be = False
            continue
        if word in _BE:
            after_be = bool(mentions) and not relation
        elif word in _NO:
            denied = True
        elif word in NUMBERS or word.isdecimal():
            number = NUMBERS.index(word) if word in NUMBERS else int(word[:6])
            denied = denied or number == 0
            bare.append(number)
        elif word in COLORS:
            bare.append(word)
            if after_be and mentions and not denied:
                mentions[-1].color = mentions[-1].color or word
            else:
                color = word
        elif word in ("a", "an"):
            number = 1
        elif word in (".", ";", "!", "?"):
            subject, relation, number, color, denied, after_be = None, "", None, None, False, False
        elif word not in _SKIPPED:
            after_be = False
        at += 1
    return mentions, bare


def _class_at(words: Sequence[str], at: int) -> tuple[str | None, int]:
    for length in range(min(_LONGEST, len(words) - at), 0, -1):
        name = CLASS_FORMS.get(tuple(words[at : at + length]))
        if name is not None:
            return name, length
    return None, 0


def _is_color_use(words: Sequence[str], at: int, color_asked: bool) -> bool:
    """Whether "orange" is a colour here: before a class, after "is" or "are", or alone if a colour was asked for."""
    if words[at] != "orange":
        return False
    if len(words) == 1:
        return color_asked
    return _class_at(words, at + 1)[0] is not None or (at > 0 and words[at - 1] in _BE)


def _relation_at(words: Sequence[str], at: int) -> tuple[str, int] | None:
    for text, relation in _RELATIONS.items():
        parts = text.split()
        if list(words[at : at + len(parts)]) == parts:
            return relation, len(parts)
    return None
