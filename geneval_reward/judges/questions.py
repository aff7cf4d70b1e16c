"""Questions about a record: one per check for judges that answer in one word, and one open question with its answer.

These are pure functions of the record and need no model or image. The wording is our own. `wording="unirl"` gives the
question and answer that UniRL used, for parity (showlab/UniRL@66ee484 `validation_prompts/evaluation_metadata_qa.jsonl`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.prompts.english import noun, phrase
from geneval_reward.prompts.spec import Include, PromptSpec
from geneval_reward.prompts.wording import number_word

Kind = Literal["count", "color", "position", "exclude"]
Wording = Literal["plain", "unirl"]

NUMBERS: Final = tuple(number_word(n) for n in range(17))
"""The number words that answers may use, by number."""

PLACES: Final = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answer is one word.

    Attributes:
        text: The question.
        answer: `yes`, `no` or a number word.
        kind: The kind of check that it covers, as `geneval_reward.judge.Finding` names it.
        index: Index of the clause in `include`, or in `exclude` for the kind `exclude`.
    """

    text: str
    answer: str
    kind: Kind
    index: int

    @property
    def number(self) -> int | None:
        """The answer as a number; None for a yes-or-no question."""
        return NUMBERS.index(self.answer) if self.answer in NUMBERS else None

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers that a judge chooses from: yes and no, or the numbers from zero to ten, or higher if needed."""
        return ("yes", "no") if self.number is None else NUMBERS[: max(11, self.number + 1)]


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that an open answer must say.

    Attributes:
        kind: `presence`, `count`, `color` or `position`.
        class_name: The class that it is about.
        value: Nothing, the number, the colour or the relation.
        target: The class that the relation refers to; empty for other kinds.
    """

    kind: Literal["presence", "count", "color", "position"]
    class_name: str
    value: int | str | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class QA:
    """An open question about an image.

    Attributes:
        question: The question; it does not give away the prompt.
        answer: The true answer if the image is correct.
        parts: The parts of the answer that `geneval_reward.judges.grade_answer` grades.
    """

    question: str
    answer: str
    parts: tuple[Part, ...]


def questions_of(spec: PromptSpec) -> tuple[Question, ...]:
    """Make a question for every check of a record: presence or number, colour, relations, and what must be absent.

    A number is asked for where a clause wants more than one object, or `exclude` bounds its class. An exclude clause that the
    number already covers gets no question.

    Args:
        spec: Any record.

    Returns:
        One question per check, in the order of the record's checks.

    Raises:
        SpecError: If a number is larger than 16, the largest number word.

    Examples:
        >>> record = {"tag": "position", "include": [{"class": "cup", "count": 1},
        ...     {"class": "umbrella", "count": 1, "position": ["left of", 0]}]}
        >>> for question in questions_of(PromptSpec.parse(record)):
        ...     print(question.text, question.answer)
        Is there a cup in the image? yes
        Is there an umbrella in the image? yes
        Is the umbrella to the left of the cup? yes
    """
    asked: list[Question] = []
    bounded = {item.class_name for item in spec.exclude}
    counted: dict[str, int] = {}
    for index, item in enumerate(spec.include):
        if item.count > 1 or item.class_name in bounded:
            text = f"How many {noun(item.class_name, 2)} are there in the image?"
            asked.append(Question(text, _number(item.count), "count", index))
            counted[item.class_name] = min(item.count, counted.get(item.class_name, item.count))
        else:
            asked.append(_there(item.class_name, "count", index))
        if item.color is not None and item.count == 1:
            asked.append(_there(item.class_name, "color", index, item.color))
        elif item.color is not None:
            text = f"How many {noun(item.class_name, 2, item.color)} are there in the image?"
            asked.append(Question(text, _number(item.count), "color", index))
        for place in item.positions:
            text = _place_question(item, place.relation, spec.include[place.target])
            asked.append(Question(text, "yes", "position", index))
    for index, unwanted in enumerate(spec.exclude):
        if counted.get(unwanted.class_name, unwanted.count) < unwanted.count:
            continue
        if unwanted.count == 1:
            text = f"Is there {phrase(unwanted.class_name)} in the image?"
        else:
            text = f"Are there {number_word(unwanted.count)} or more {noun(unwanted.class_name, 2)} in the image?"
        asked.append(Question(text, "no", "exclude", index))
    return tuple(asked)


def qa_for(spec: PromptSpec, wording: Wording = "plain") -> QA:
    """Make one open question about a record's image, with its answer in parts.

    Args:
        spec: Any record.
        wording: `plain` for correct English and any record; `unirl` for UniRL's question and answer of the six tasks, with
            its article ("a oven") and the benchmark's plurals.

    Raises:
        SpecError: If the wording is `unirl` and the record does not have one of the benchmark's six forms.
        UsageError: For another wording.

    Examples:
        >>> found = qa_for(PromptSpec.parse({"tag": "counting", "include": [{"class": "knife", "count": 4}]}))
        >>> found.question, found.answer, len(found.parts)
        ('What is in the image, and how many are there?', 'There are four knives.', 2)
    """
    if wording not in ("plain", "unirl"):
        raise UsageError(f"wording: expected 'plain' or 'unirl', got {wording!r}")
    parts: list[Part] = []
    bounded = {item.class_name for item in spec.exclude}
    for item in spec.include:
        # UniRL's answer to a question about a colour is the colour alone.
        if wording == "plain" or spec.tag != "colors":
            parts.append(Part("presence", item.class_name))
        if item.count > 1 or item.class_name in bounded:
            parts.append(Part("count", item.class_name, item.count))
        if item.color is not None:
            parts.append(Part("color", item.class_name, item.color))
        targets = [(place.relation, spec.include[place.target].class_name) for place in item.positions]
        parts += [Part("position", item.class_name, relation, target) for relation, target in targets]
    if wording == "unirl":
        return QA(*_unirl(spec), tuple(parts))
    kinds = {part.kind for part in parts}
    asked = ["What is in the image"]
    asked += ["how many are there"] if "count" in kinds else []
    asked += ["which colors do the objects have"] if "color" in kinds else []
    asked += ["where do the objects stand to one another"] if "position" in kinds else []
    question = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
    return QA(f"{question}?", _plain_answer(spec), tuple(parts))


def _there(name: str, kind: Kind, index: int, color: str | None = None) -> Question:
    return Question(f"Is there {phrase(name, 1, color)} in the image?", "yes", kind, index)


def _number(count: int) -> str:
    if count >= len(NUMBERS):
        raise SpecError(f"count: expected at most {len(NUMBERS) - 1} to ask for in a word, got {count}")
    return NUMBERS[count]


def _place_question(item: Include, relation: str, target: Include) -> str:
    subject, other = noun(item.class_name, item.count, item.color), noun(target.class_name, target.count, target.color)
    be = "Is" if item.count == 1 else "Are"
    if subject == other and item.count == 1:
        return f"Is one {subject} {PLACES[relation]} the other {other}?"
    return f"{be} the {subject} {PLACES[relation]} the {other}?"


def _plain_answer(spec: PromptSpec) -> str:
    placed = [item for item in spec.include if item.positions]
    pointed_at = {place.target for item in placed for place in item.positions}
    told = [item for n, item in enumerate(spec.include) if not item.positions and n not in pointed_at]
    sentences = []
    if told:
        named = [phrase(item.class_name, item.count, item.color) for item in told]
        listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        sentences.append(f"There {'is' if told[0].count == 1 else 'are'} {listed}.")
    for item in placed:
        places = []
        for place in item.positions:
            target = spec.include[place.target]
            places.append(f"{PLACES[place.relation]} {phrase(target.class_name, target.count, target.color)}")
        subject = phrase(item.class_name, item.count, item.color)
        sentences.append(
            f"{subject[0].upper()}{subject[1:]} {'is' if item.count == 1 else 'are'} {' and '.join(places)}."
        )
    return " ".join(sentences)


def _unirl(spec: PromptSpec) -> tuple[str, str]:
    names = [item.class_name for item in spec.include]
    colors = [item.color for item in spec.include]
    counts = [item.count for item in spec.include]
    places = [item.positions for item in spec.include]
    form = (spec.tag, len(names), [color is not None for color in colors], [len(place) for place in places])
    if form == ("single_object", 1, [False], [0]) and counts == [1]:
        return "What is the main item in this image?", names[0]
    if form == ("two_object", 2, [False, False], [0, 0]) and counts == [1, 1]:
        return "What are two items in this image?", f"There is a {names[0]} and a {names[1]}"
    if form == ("counting", 1, [False], [0]):
        words = spec.prompt.removeprefix("a photo of ")
        return "How many items in this image?", words
    if form == ("colors", 1, [True], [0]) and counts == [1]:
        return "What is the color of the object?", str(colors[0])
    if form == ("position", 2, [False, False], [0, 1]) and counts == [1, 1]:
        question = "What are two objects and What is position relationship between two main items? Use one sentence."
        return question, f"The {names[1]} is {places[1][0].relation} the {names[0]}"
    if form == ("color_attr", 2, [True, True], [0, 0]) and counts == [1, 1]:
        question = "What are two objects and the colors of two objects in the image? Use one sentence"
        return question, f"The {names[0]} is {colors[0]} and the {names[1]} is {colors[1]}"
    raise SpecError(
        f"wording: expected a record of the benchmark's form for 'unirl', got {spec.prompt!r}; take 'plain'"
    )
