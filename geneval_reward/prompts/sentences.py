"""Read a sentence about objects into a record: what `PromptSpec.render` writes, and the same in other words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

from geneval_reward.errors import SpecError
from geneval_reward.prompts.english import several, single
from geneval_reward.prompts.messages import hint, shown
from geneval_reward.prompts.spec import MAX_CLAUSES, MAX_COUNT, MAX_PROMPT, Exclude, Include, Position, PromptSpec
from geneval_reward.prompts.vocabulary import COCO_ALIASES, Vocabulary
from geneval_reward.prompts.wording import NUMBERS, plural

CUSTOM: Final = "custom"
"""The tag of a sentence that has none of the six forms."""

_OPENING: Final = re.compile(r"(?:an?|the|one)? ?(?:photo|photograph|picture|image) of")
_RELATIONS: Final = {
    "left of": "left of", "to the left of": "left of", "on the left of": "left of",
    "right of": "right of", "to the right of": "right of", "on the right of": "right of",
    "above": "above", "below": "below", "under": "below", "underneath": "below", "beneath": "below",
}  # fmt: skip

Forms = dict[tuple[str, ...], str]


class _Words(NamedTuple):
    """How classes, colours and relations may be written, each as a tuple of words."""

    classes: Forms
    colors: Forms
    relations: Forms


@lru_cache(maxsize=8)
def _words(vocabulary: Vocabulary) -> _Words:
    classes: Forms = {}
    for name in vocabulary.classes:
        for text in (several(name), plural(name), single(name), name):
            classes[tuple(text.lower().split())] = name
    if "person" in vocabulary.classes:
        classes[("persons",)] = classes[("people",)] = "person"
    colors = {tuple(name.lower().split()): name for name in vocabulary.colors}
    return _Words(classes, colors, {tuple(text.split()): name for text, name in _RELATIONS.items()})


def read_sentence(text: str, vocabulary: Vocabulary) -> PromptSpec:
    """Read a sentence; see `PromptSpec.from_text`.

    Raises:
        SpecError: If the sentence says something else; the message has what was understood of it.
    """
    if not isinstance(text, str) or not text.strip():
        raise SpecError(f"text: expected a sentence, got {shown(text)}")
    if len(text) > MAX_PROMPT:
        raise SpecError(f"text: expected at most {MAX_PROMPT:,} characters, got {len(text):,}; shorten it")
    return _Reader(text, vocabulary).read()


class _Reader:
    """Reads the words of one sentence from left to right."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        self.text, self.vocabulary, self.forms = text, vocabulary, _words(vocabulary)
        self.words = re.findall(r"[^\s,]+|,", text.strip().rstrip(".!").lower())
        opening = _OPENING.match(" ".join(self.words))
        self.at = 0 if opening is None else len(opening[0].split())
        self.include: list[Include] = []
        self.exact: set[str] = set()
        self.alone: list[int] = []

    def read(self) -> PromptSpec:
        self._item()
        while self.at < len(self.words):
            if not (self._take(",", "and") or self._take("and") or self._take(",")):
                raise self._refusal("'and' or a relation such as 'left of'", list(self.forms.relations))
            self._item()
        if len(self.include) > MAX_CLAUSES:
            raise SpecError(f"text: expected at most {MAX_CLAUSES} objects, got {len(self.include)}; shorten it")
        include, counts = tuple(self.include), Counter[str]()
        for item in include:
            counts[item.class_name] += item.count
        exact = [name for name in counts if name in self.exact]
        exclude = tuple(Exclude(name, counts[name] + 1) for name in exact)
        return PromptSpec(_tag(include, bool(exclude)), include, exclude, self.text)

    def _item(self) -> None:
        """An object, and where it is."""
        subject = self._phrase()
        positions: list[Position] = []
        while True:
            start = self.at
            if positions and not (self._take("and") or self._take(",", "and")):
                break
            if not positions and (self._take("is") or self._take("are")):
                pass
            relation = self._longest(self.forms.relations)
            if relation is None:
                self.at = start
                break
            positions.append(Position(relation, self._target(self._phrase())))
        if not positions:
            if any(self.include[index] == subject for index in self.alone):
                raise self._refusal(f"every object once, or a number such as 'two {plural(subject.class_name)}'")
            self.alone.append(len(self.include))
        self.include.append(replace(subject, positions=tuple(positions)))

    def _target(self, item: Include) -> int:
        """The index of the clause that a relation points to: an earlier one in the same words, or a new one."""
        for index, known in enumerate(self.include):
            if index not in self.alone and replace(known, positions=()) == item:
                return index
        self.include.append(item)
        return len(self.include) - 1

    def _phrase(self) -> Include:
        """An article or number, a colour if there is one, and a class."""
        exact = self._take("exactly")
        count = self._count()
        start = self.at
        plain = self._longest(self.forms.classes)
        after, self.at = self.at, start
        color = self._longest(self.forms.colors)
        colored = None if color is None else self._longest(self.forms.classes)
        if colored is not None and plain is not None and after >= self.at:
            words = " ".join(self.words[start:after])
            raise SpecError(
                f"text: expected words with one meaning, got {words!r}, a class and also a colour with a class"
            )
        if colored is None:
            color, self.at = None, after if plain is not None else start
        name = colored or plain
        if name is None:
            if self._longest(self.forms.colors) is None:
                raise self._refusal("a colour or the name of a class", self._names())
            raise self._refusal("the name of a class", self._names())
        if count > 1 or exact:
            self.exact.add(name)
        return Include(name, count, color)

    def _count(self) -> int:
        word = self.words[self.at] if self.at < len(self.words) else ""
        if word in ("a", "an"):
            count = 1
        elif word in NUMBERS:
            count = NUMBERS.index(word)
        elif re.fullmatch(r"[0-9]{1,18}", word):
            count = int(word)
        else:
            raise self._refusal("'a', 'an' or a number")
        if not 1 <= count <= MAX_COUNT:
            raise self._refusal(f"a number in 1..{MAX_COUNT:,}")
        self.at += 1
        return count

    def _names(self) -> list[str]:
        return [" ".join(form) for form in self.forms.classes]

    def _take(self, *words: str) -> bool:
        if tuple(self.words[self.at : self.at + len(words)]) != words:
            return False
        self.at += len(words)
        return True

    def _longest(self, forms: Forms) -> str | None:
        """Take the longest of the forms that stands here."""
        for end in range(min(len(self.words), self.at + 8), self.at, -1):
            name = forms.get(tuple(self.words[self.at : end]))
            if name is not None:
                self.at = end
                return name
        return None

    def _refusal(self, expected: str, known: Sequence[str] | Sequence[tuple[str, ...]] = ()) -> SpecError:
        understood = " ".join(self.words[: self.at])
        rest = self.words[self.at :]
        got = "the end" if not rest else shown(" ".join(rest))
        names = [name if isinstance(name, str) else " ".join(name) for name in known]
        aliases = COCO_ALIASES if self.vocabulary == Vocabulary() else None
        near = next(
            (
                found
                for size in (3, 2, 1)
                if rest and (found := hint(" ".join(rest[:size]), names, aliases, cutoff=0.7))
            ),
            "",
        )
        return SpecError(f"text: understood {shown(understood)}, then expected {expected}, got {got}{near}")


def _tag(include: Sequence[Include], exact: bool) -> str:
    """The task whose form the clauses have, or `CUSTOM`."""
    colored = sum(item.color is not None for item in include)
    placed = sum(len(item.positions) for item in include)
    ones = all(item.count == 1 for item in include)
    match len(include), placed, colored, ones and not exact:
        case 1, 0, 0, True:
            return "single_object"
        case 1, 0, 0, False:
            return "counting"
        case 1, 0, 1, True:
            return "colors"
        case 2, 0, 0, True:
            return "two_object"
        case 2, 0, 2, True:
            return "color_attr"
        case 2, 1, 0, True:
            return "position"
    return CUSTOM
