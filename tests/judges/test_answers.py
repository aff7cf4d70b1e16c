import pytest

from geneval_reward.judges import grade_answer, qa_for
from geneval_reward.prompts import PromptSpec, official_suite, resolve, training_prompts


def credits(prompt, answer, wording="plain"):
    spec = PromptSpec.parse(prompt) if isinstance(prompt, dict) else resolve(prompt)
    return grade_answer(qa_for(spec, wording), answer).credits


@pytest.mark.parametrize("wording", ["plain", "unirl"])
def test_the_true_answer_earns_everything(wording):
    for spec in official_suite():
        qa = qa_for(spec, wording)
        grade = grade_answer(qa, qa.answer)
        assert grade.mean == 1.0, (qa, grade)
        assert grade.parsed


def test_the_true_answer_of_training_prompts_earns_everything():
    for spec in training_prompts(300, 3):
        qa = qa_for(spec)
        assert grade_answer(qa, qa.answer).mean == 1.0, qa


def test_the_answer_to_another_prompt_never_earns_everything():
    suite = official_suite()
    for one, other in zip(suite, suite[7:], strict=False):
        if one.tag == other.tag and one.tag != "colors":
            assert grade_answer(qa_for(one), qa_for(other).answer).mean < 1.0


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("a photo of a couch left of a toaster", "The toaster is to the right of the couch.", (1, 1, 1)),
        ("a photo of a couch left of a toaster", "The couch is right of the toaster", (1, 0, 1)),
        ("a photo of a couch left of a toaster", "The toaster is left of the couch", (1, 0, 1)),
        ("a photo of a couch left of a toaster", "a couch and a toaster", (1, 0, 1)),
        ("a photo of a blue fire hydrant", "blue", (0, 1)),
        ("a photo of a blue fire hydrant", "The fire hydrant is not blue.", (1, 0)),
        ("a photo of a blue fire hydrant", "a blue hydrant", (0, 1)),
        ("a photo of four benchs", "4 benches", (1, 1)),
        ("a photo of four benchs", "four", (0, 1)),
        ("a photo of four benchs", "There are no benches.", (0, 0)),
        ("a photo of a bench", "", (0,)),
        ("a photo of a bench", "a picture", (0,)),
        (
            "a photo of a purple wine glass and a black apple",
            "The apple is purple and the wine glass is black",
            (1, 0, 1, 0),
        ),
        ("a photo of a purple wine glass and a black apple", "a black apple and a purple wine glass", (1, 1, 1, 1)),
    ],
)
def test_parts_are_graded_one_by_one(prompt, answer, expected):
    found = credits(prompt, answer)
    spec = resolve(prompt)
    if spec.tag == "position":  # the record names the target first
        parts = [(part.kind, part.class_name) for part in qa_for(spec).parts]
        assert parts == [("presence", "toaster"), ("presence", "couch"), ("position", "couch")]
        expected = (expected[0], expected[2], expected[1])
    assert found == tuple(map(float, expected))


def test_orange_is_a_fruit_and_a_color():
    fruit = {"tag": "colors", "include": [{"class": "orange", "count": 1, "color": "orange"}]}
    assert credits(fruit, "an orange orange") == (1.0, 1.0)
    assert credits(fruit, "The orange is orange") == (1.0, 1.0)
    assert credits(fruit, "an orange") == (1.0, 0.0)
    assert credits({"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "orange"}]}, "orange") == (0, 1)


def test_several_relations_of_one_object():
    record = {
        "tag": "position",
        "include": [
            {"class": "cup", "count": 1},
            {"class": "dog", "count": 1},
            {"class": "hot dog", "count": 2, "position": [["left of", 0], ["above", 1]]},
        ],
    }
    answer = "Two hot dogs are to the left of a cup and above a dog."
    assert qa_for(PromptSpec.parse(record)).answer == answer
    assert credits(record, answer) == (1.0,) * 6
    assert credits(record, "Two hot dogs are left of a cup. A dog is above two hot dogs.") == (1, 1, 1, 1, 1, 0)


def test_what_cannot_be_read_is_wrong_and_named():
    grade = grade_answer(qa_for(resolve("a photo of a bench")), "I cannot see anything")
    assert not grade.parsed
    assert grade.mean == 0.0
    assert grade_answer(qa_for(resolve("a photo of a bench")), "a cow").parsed
