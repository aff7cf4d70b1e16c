"""Questions about pocket scenes, one per task as in UniRL, and whether an answer is true of a scene.

UniRL (arXiv 2505.23380) asks one free-form question per image and never repeats the prompt in it. The wording here is
the package's own.
"""

from __future__ import annotations

import re
from typing import Any, Final

from geneval_reward.errors import UsageError
from geneval_reward.judges.answers import grade_answer
from geneval_reward.judges.questions import QA, qa_for
from geneval_reward.pocket.scene import POCKET_CLASSES, Scene, fulfils
from geneval_reward.prompts import COLORS, RELATIONS, PromptSpec
from geneval_reward.prompts.wording import plural

NUMBERS: Final = ("no", "one", "two", "three", "four")

_ASK: Final = {
    "single_object": "what is the main item",
    "two_object": "what are the two items",
    "counting": "how many {many} are there",
    "colors": "what color is the {name}",
    "position": "which two objects are there and how do they stand",
    "color_attr": "which two objects are there and what are their colors",
}


def question_of(spec: PromptSpec) -> tuple[str, str]:
    """Return the question of a record's task and the answer that the record expects.

    Args:
        spec: A record of one of the six tasks in the pocket world.

    Raises:
        UsageError: If the record has another form, such as three objects or a count above four.

    Examples:
        >>> from geneval_reward.pocket import pocket_suite
        >>> question_of(pocket_suite()[0])
        ('what is the main item', 'bicycle')
    """
    names = [clause.class_name for clause in spec.include]
    expected = 1 if spec.tag in ("single_object", "counting", "colors") else 2
    if spec.tag not in _ASK or len(names) != expected or spec.include[0].count >= len(NUMBERS):
        raise UsageError(f"spec: expected a record of one of the tasks {', '.join(_ASK)}, got {spec.to_json()}")
    first, last, many = spec.include[0], spec.include[-1], plural(names[0])
    question = _ASK[spec.tag].format(name=names[0], many=many)
    match spec.tag:
        case "single_object":
            return question, names[0]
        case "two_object":
            return question, f"a {names[0]} and a {names[1]}"
        case "counting":
            return question, _counted(first.count, names[0])
        case "colors":
            return question, str(first.color)
        case "position":
            (place,) = last.positions
            return question, f"the {names[1]} is {place.relation} the {names[0]}"
        case _:
            return question, f"the {names[0]} is {first.color} and the {names[1]} is {last.color}"


def qa_of(spec: PromptSpec) -> QA:
    """Return the question of a record's task with the parts of its answer that can be graded.

    Args:
        spec: See `question_of`.

    Returns:
        The question, the answer that the record expects, and the parts of the record that this answer states: the colour
        alone if only the colour is asked for.

    Raises:
        UsageError: As `question_of`.

    Examples:
        >>> from geneval_reward.prompts import PromptSpec
        >>> found = qa_of(PromptSpec.parse({"tag": "counting", "include": [{"class": "clock", "count": 3}]}))
        >>> found.answer, [part.kind for part in found.parts]
        ('three clocks', ['presence', 'count'])
    """
    question, answer = question_of(spec)
    every = QA(question, answer, qa_for(spec).parts)
    stated = grade_answer(every, answer).credits
    return QA(question, answer, tuple(part for part, credit in zip(every.parts, stated, strict=True) if credit))


def _counted(count: int, name: str) -> str:
    return f"{NUMBERS[count]} {name if count == 1 else plural(name)}"


_NAMES: Final = {form: name for name in POCKET_CLASSES for form in (name, plural(name))}
_NAME: Final = f"({'|'.join(sorted(_NAMES, key=len, reverse=True))})"
_FORMS: Final = {
    "single_object": _NAME,
    "two_object": f"an? {_NAME} and an? {_NAME}",
    "counting": f"({'|'.join(NUMBERS)}) {_NAME}",
    "colors": f"({'|'.join(COLORS)})",
    "position": f"the {_NAME} is ({'|'.join(RELATIONS)}) the {_NAME}",
    "color_attr": f"the {_NAME} is ({'|'.join(COLORS)}) and the {_NAME} is ({'|'.join(COLORS)})",
}


def is_true(question: str, answer: str, scene: Scene) -> bool:
    """Check whether an answer to a question is true of a scene.

    Every true answer counts: `the vase is left of the clock` as well as `the clock is right of the vase`. An answer that
    does not have the question's form, or that names one class twice, is wrong.

    Args:
        question: A question from `question_of`.
        answer: Any text.
        scene: What the picture shows.

    Raises:
        UsageError: If the question is not one of the six.

    Examples:
        >>> from geneval_reward.pocket.scene import Item, Scene
        >>> scene = Scene((Item("clock", "red", 0.3, 0.3, 0.4),))
        >>> is_true("what color is the clock", "red", scene)
        True
    """
    matches = {tag: re.fullmatch(asked.format(name=_NAME, many=_NAME), question) for tag, asked in _ASK.items()}
    tag, found = next(((tag, match) for tag, match in matches.items() if match), ("", None))
    if found is None:
        raise UsageError(f"question: expected one that question_of gives, got {question!r}")
    said = re.fullmatch(_FORMS[tag], answer)
    if said is None:
        return False
    words = [_NAMES.get(word, word) for word in said.groups()]
    about = [_NAMES[word] for word in found.groups()]
    include: list[dict[str, Any]]
    exclude: list[dict[str, Any]] = []
    match tag:
        case "single_object":
            include = [{"class": words[0], "count": 1}]
        case "two_object":
            include = [{"class": word, "count": 1} for word in words]
        case "counting":
            count = NUMBERS.index(words[0])
            include = [{"class": words[1], "count": count}] if count else []
            exclude = [{"class": words[1], "count": count + 1}]
            if words[1] != about[0]:
                return False
        case "colors":
            include = [{"class": about[0], "count": 1, "color": words[0]}]
        case "position":
            include = [
                {"class": words[2], "count": 1},
                {"class": words[0], "count": 1, "position": [words[1], 0]},
            ]
        case _:
            include = [{"class": words[0], "count": 1, "color": words[1]}]
            include.append({"class": words[2], "count": 1, "color": words[3]})
    if len({clause["class"] for clause in include}) < len(include):
        return False
    if not include:
        return all(item.class_name != exclude[0]["class"] for item in scene.items)
    return fulfils(scene, PromptSpec.parse({"tag": tag, "include": include, "exclude": exclude, "prompt": answer}))


def question_words() -> list[str]:
    """List the words of the questions and their answers, without classes, colours and relations."""
    text = " ".join(_ASK.values()) + " a an the is and " + " ".join(NUMBERS)
    return list(dict.fromkeys(re.sub(r"\{\w+\}", "", text).split()))
