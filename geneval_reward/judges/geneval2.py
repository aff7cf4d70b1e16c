"""GenEval 2 from its own data file: Soft-TIFA of a folder of images, by skill and by number of atoms.

The file is CC BY-NC 4.0 and not part of this package; you give the path to your copy.

Source: GenEval 2, arXiv 2512.16853; format of `geneval2_data.jsonl` and the means: facebookresearch/GenEval2@a6e82d2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geneval_reward.errors import FileError, GenEvalError, UsageError
from geneval_reward.judges.questions import NUMBERS, Question
from geneval_reward.judges.verdict import Answered, geometric_mean
from geneval_reward.judges.vqa import ImageTextModel, ask
from geneval_reward.support.files import parse_json, read_lines
from geneval_reward.vision.images import load_image


@dataclass(frozen=True)
class AtomicPrompt:
    """A prompt of GenEval 2.

    Attributes:
        prompt: The text.
        atoms: Its number of atoms, 3 to 10.
        questions: Its questions.
        skills: The skill that each question tests: `object`, `count`, `attribute`, `position` or `verb`.
    """

    prompt: str
    atoms: int
    questions: tuple[Question, ...]
    skills: tuple[str, ...]


@dataclass(frozen=True)
class GenEval2Scores:
    """Soft-TIFA of a set of images, times 100 as published.

    Attributes:
        arithmetic: Mean over prompts of the arithmetic mean over questions.
        geometric: The same with the geometric mean; the benchmark's number.
        hard: Share of questions whose most likely answer is correct.
        skills: Arithmetic mean over all questions of each skill.
        atomicity: Geometric score by number of atoms.
        prompts: Number of prompts that were scored.
        failed: Reasons why the others were not, by prompt.
    """

    arithmetic: float
    geometric: float
    hard: float
    skills: dict[str, float]
    atomicity: dict[int, float]
    prompts: int
    failed: dict[str, str]


def read_geneval2(path: str | Path) -> list[AtomicPrompt]:
    """Read `geneval2_data.jsonl`.

    Raises:
        FileError: If a line is malformed; the message names it.
    """
    found = []
    for number, line in read_lines(path):
        where = f"{path} line {number}"
        record: Any = parse_json(line)
        try:
            pairs, skills = record["vqa_list"], tuple(map(str, record["skills"]))
            questions = tuple(_question(str(text), str(answer)) for text, answer in pairs)
            found.append(AtomicPrompt(str(record["prompt"]), int(record["atom_count"]), questions, skills))
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"{where}: expected prompt, atom_count, vqa_list of [question, answer] and skills, got {line[:80]!r} ({error})"
            ) from error
        if not questions or len(questions) != len(skills):
            raise FileError(f"{where}: expected one skill per question, got {len(skills)} for {len(questions)}")
    if not found:
        raise FileError(f"{path}: expected prompts of GenEval 2, got none")
    return found


def score_geneval2(
    model: ImageTextModel, prompts: Sequence[AtomicPrompt], images: Mapping[str, str | Path | torch.Tensor]
) -> GenEval2Scores:
    """Ask a model the questions of GenEval 2.

    Scores match the benchmark's own script only with `LocalModel(..., forms="released")` and its model.

    Args:
        model: The model that answers.
        prompts: Prompts from `read_geneval2`.
        images: An image for each prompt: a file, or `(3, h, w)` uint8.

    Raises:
        GenEvalError: If no prompt could be scored.
    """
    answers: dict[int, list[Answered]] = {}
    failed: dict[str, str] = {}
    for number, one in enumerate(prompts):
        image = images.get(one.prompt)
        if image is None:
            failed[one.prompt] = "no image"
            continue
        try:
            shown = image if isinstance(image, torch.Tensor) else load_image(image)
            answers[number] = ask(model, shown, one.questions)
        except GenEvalError as error:
            failed[one.prompt] = str(error)
    if not answers:
        raise GenEvalError(
            f"images: expected an image that can be scored, got none; the first: {next(iter(failed.values()))}"
        )
    raw = {number: [answer.raw for answer in row] for number, row in answers.items()}
    skills: dict[str, list[float]] = {}
    atoms: dict[int, list[float]] = {}
    for number, values in raw.items():
        atoms.setdefault(prompts[number].atoms, []).append(geometric_mean(values))
        for skill, value in zip(prompts[number].skills, values, strict=True):
            skills.setdefault(skill, []).append(value)
    return GenEval2Scores(
        _percent([sum(values) / len(values) for values in raw.values()]),
        _percent([geometric_mean(values) for values in raw.values()]),
        _percent([float(answer.right) for row in answers.values() for answer in row]),
        {skill: _percent(values) for skill, values in sorted(skills.items())},
        {count: _percent(values) for count, values in sorted(atoms.items())},
        len(answers),
        failed,
    )


def _question(text: str, answer: str) -> Question:
    word = answer.lower()
    if word not in ("yes", "no", *NUMBERS):
        raise UsageError(f"an answer {answer!r}")
    return Question(text, word, "count", 0)


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)
