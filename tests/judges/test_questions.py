import pytest

from geneval_reward.errors import SpecError, UsageError
from geneval_reward.judges import grade_answer, qa_for, questions_of
from geneval_reward.judges.questions import NUMBERS
from geneval_reward.prompts import CLASS_NAMES, PromptSpec, official_suite, resolve, training_prompts
from geneval_reward.prompts.english import phrase, several


def texts(record):
    return [(q.text, q.answer, q.kind, q.index) for q in questions_of(PromptSpec.parse(record))]


def test_every_class_is_written_in_correct_english():
    odd = {
        "bench": "three benches",
        "bus": "three buses",
        "sheep": "three sheep",
        "person": "three people",
        "knife": "three knives",
        "couch": "three couches",
        "sandwich": "three sandwiches",
        "wine glass": "three wine glasses",
        "toothbrush": "three toothbrushes",
        "computer mouse": "three computer mice",
        "scissors": "three pairs of scissors",
        "skis": "three pairs of skis",
        "broccoli": "three heads of broccoli",
    }
    for name in CLASS_NAMES:
        assert phrase(name, 3) == odd.get(name, f"three {name}s")
    assert [phrase(name) for name in ("orange", "umbrella", "hair drier", "scissors", "broccoli")] == [
        "an orange",
        "an umbrella",
        "a hair drier",
        "a pair of scissors",
        "a head of broccoli",
    ]
    assert phrase("oven", 1, "red") == "a red oven"
    assert several("hot dog") == "hot dogs"


def test_each_task_is_asked_check_by_check():
    assert texts({"tag": "single_object", "include": [{"class": "skis", "count": 1}]}) == [
        ("Is there a pair of skis in the image?", "yes", "count", 0)
    ]
    assert texts(resolve("a photo of four knifes")) == [("How many knives are there in the image?", "four", "count", 0)]
    assert texts(resolve("a photo of a purple wine glass and a black apple")) == [
        ("Is there a wine glass in the image?", "yes", "count", 0),
        ("Is there a purple wine glass in the image?", "yes", "color", 0),
        ("Is there an apple in the image?", "yes", "count", 1),
        ("Is there a black apple in the image?", "yes", "color", 1),
    ]
    assert texts(resolve("a photo of a couch left of a toaster"))[-1] == (
        "Is the couch to the left of the toaster?",
        "yes",
        "position",
        1,
    )


def test_several_relations_and_counts_and_excludes():
    record = {
        "tag": "position",
        "include": [
            {"class": "cup", "count": 1},
            {"class": "cow", "count": 2, "color": "red", "position": ["above", 0]},
            {"class": "cup", "count": 1, "position": [["left of", 0], ["below", 1]]},
        ],
        "exclude": [{"class": "dog", "count": 1}, {"class": "cat", "count": 3}, {"class": "cow", "count": 3}],
    }
    assert texts(record) == [
        ("Is there a cup in the image?", "yes", "count", 0),
        ("How many cows are there in the image?", "two", "count", 1),
        ("How many red cows are there in the image?", "two", "color", 1),
        ("Are the red cows above the cup?", "yes", "position", 1),
        ("Is there a cup in the image?", "yes", "count", 2),
        ("Is one cup to the left of the other cup?", "yes", "position", 2),
        ("Is the cup below the red cows?", "yes", "position", 2),
        ("Is there a dog in the image?", "no", "exclude", 0),
        ("Are there three or more cats in the image?", "no", "exclude", 1),
    ]


def test_a_bounded_single_object_is_counted():
    record = {"tag": "counting", "include": [{"class": "cow", "count": 1}], "exclude": [{"class": "cow", "count": 2}]}
    assert texts(record) == [("How many cows are there in the image?", "one", "count", 0)]
    qa = qa_for(PromptSpec.parse(record))
    assert [part.kind for part in qa.parts] == ["presence", "count"]
    assert grade_answer(qa, qa.answer).mean == 1.0
    assert grade_answer(qa, "two cows").credits == (1.0, 0.0)


def test_choices_reach_the_answer():
    [question] = questions_of(PromptSpec.parse({"tag": "counting", "include": [{"class": "cow", "count": 13}]}))
    assert question.number == 13
    assert question.choices == NUMBERS[:14]
    with pytest.raises(SpecError, match=r"count: expected at most 16 .* got 17"):
        questions_of(PromptSpec.parse({"tag": "counting", "include": [{"class": "cow", "count": 17}]}))


def test_unirl_wording_is_that_of_its_file():
    cases = {
        "a photo of a bench": ("What is the main item in this image?", "bench", 1),
        "a photo of a toaster and an oven": (
            "What are two items in this image?",
            "There is a toaster and a oven",
            2,
        ),
        "a photo of three benchs": ("How many items in this image?", "three benchs", 2),
        "a photo of a blue fire hydrant": ("What is the color of the object?", "blue", 1),
        "a photo of a couch left of a toaster": (
            "What are two objects and What is position relationship between two main items? Use one sentence.",
            "The couch is left of the toaster",
            3,
        ),
        "a photo of a green skis and a brown airplane": (
            "What are two objects and the colors of two objects in the image? Use one sentence",
            "The skis is green and the airplane is brown",
            4,
        ),
    }
    for prompt, (question, answer, parts) in cases.items():
        found = qa_for(resolve(prompt), "unirl")
        assert (found.question, found.answer, len(found.parts)) == (question, answer, parts)


def test_unirl_wording_refuses_what_it_never_had():
    record = {"tag": "two_object", "include": [{"class": name, "count": 1} for name in ("cup", "cow", "dog")]}
    with pytest.raises(SpecError, match="take 'plain'"):
        qa_for(PromptSpec.parse(record), "unirl")
    with pytest.raises(UsageError, match="wording: expected 'plain' or 'unirl', got 'mine'"):
        qa_for(official_suite()[0], "mine")


def test_questions_never_hold_the_class_or_color():
    for spec in official_suite():
        question = qa_for(spec).question
        assert not any(item.class_name in question or (item.color or "?!") in question for item in spec.include)


def test_every_record_has_questions_and_parts():
    for spec in (*official_suite(), *training_prompts(200, 1)):
        assert questions_of(spec)
        assert qa_for(spec).parts
