import numpy as np
import pytest

from geneval_reward.errors import UsageError
from geneval_reward.pocket import pocket_suite
from geneval_reward.pocket.codes import decode, encode
from geneval_reward.pocket.questions import is_true, question_of
from geneval_reward.pocket.scene import Item, Scene
from geneval_reward.pocket.token_words import MAX_WORDS, vocabulary
from geneval_reward.pocket.world import sample_scene
from geneval_reward.prompts import PromptSpec

PAIR = Scene((Item("clock", "red", 0.25, 0.5, 0.4), Item("teddy bear", None, 0.75, 0.5, 0.4)))
STAND = "which two objects are there and how do they stand"
COLORS = "which two objects are there and what are their colors"


def test_expected_answers_are_true_of_clean_scenes() -> None:
    rng = np.random.default_rng(0)
    words = set(vocabulary())
    for spec in pocket_suite():
        question, answer = question_of(spec)
        (scene,) = decode(encode([sample_scene(spec, rng)]))
        assert is_true(question, answer, scene), (spec.prompt, answer)
        assert spec.prompt not in question
        assert {*question.split(), *answer.split()} <= words
        assert len(question.split()) <= MAX_WORDS
        assert len(answer.split()) < MAX_WORDS


@pytest.mark.parametrize(
    ("question", "answer", "true"),
    [
        ("what is the main item", "clock", True),
        ("what is the main item", "vase", False),
        ("what is the main item", "a clock", False),
        ("what are the two items", "a teddy bear and a clock", True),
        ("what are the two items", "a clock and a clock", False),
        ("how many clocks are there", "one clock", True),
        ("how many clocks are there", "two clocks", False),
        ("how many clocks are there", "one teddy bear", False),
        ("how many vases are there", "no vases", True),
        ("how many clocks are there", "no clocks", False),
        ("what color is the clock", "red", True),
        ("what color is the clock", "blue", False),
        ("what color is the teddy bear", "brown", False),
        (STAND, "the clock is left of the teddy bear", True),
        (STAND, "the teddy bear is right of the clock", True),
        (STAND, "the teddy bear is left of the clock", False),
        (STAND, "the clock is left of the vase", False),
        (STAND, "the clock is left of the clock", False),
        (COLORS, "the clock is red and the teddy bear is blue", False),
        (COLORS, "", False),
    ],
)
def test_truth_of_answers(question, answer, true) -> None:
    assert is_true(question, answer, PAIR) is true


def test_other_questions_and_records_are_refused() -> None:
    with pytest.raises(UsageError, match="question: expected one that question_of gives, got 'is there a clock'"):
        is_true("is there a clock", "yes", PAIR)
    spec = PromptSpec.parse({"tag": "counting", "include": [{"class": "clock", "count": 5}]})
    with pytest.raises(UsageError, match="spec: expected a record of one of the tasks"):
        question_of(spec)
