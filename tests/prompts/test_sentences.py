import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.errors import GenEvalError, SpecError
from geneval_reward.judge import judge
from geneval_reward.prompts import (
    CLASS_NAMES,
    COLORS,
    RELATIONS,
    Include,
    Position,
    PromptSpec,
    Vocabulary,
    meaning,
    official_suite,
    read_prompts,
    resolve,
    training_prompts,
)
from geneval_reward.prompts import suite as forms

OWN = Vocabulary(("teapot", "glass of water", "knife", "berry"), ("striped", "sky blue"))


@st.composite
def includes(draw, vocabulary):
    names, colors = st.sampled_from(vocabulary.classes), st.none() | st.sampled_from(vocabulary.colors)
    made = []
    for index in range(draw(st.integers(1, 5))):
        pair = st.builds(Position, st.sampled_from(RELATIONS), st.integers(0, max(0, index - 1)))
        places = draw(st.lists(pair, max_size=2)) if index else []
        made.append(Include(draw(names), draw(st.integers(1, 20)), draw(colors), tuple(places)))
    return tuple(made)


def words(item):
    return item.class_name, item.count, item.color


@pytest.mark.parametrize("specs", [official_suite(), training_prompts(500, seed=3)], ids=["suite", "training"])
def test_every_sentence_of_the_six_forms_comes_back_as_its_record(specs):
    assert [PromptSpec.from_text(spec.prompt) for spec in specs] == list(specs)


@given(st.data())
def test_the_six_forms_with_any_words(data):
    index = st.integers(0, 79)
    a, b = data.draw(index), data.draw(index)
    color, other = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    made = [forms.counting(a, data.draw(st.integers(2, 10_000))), forms.colors(a, color)]
    if a != b:
        made += [forms.two_object(a, b), forms.color_attr(a, b, color, other), forms.position(a, b, color % 4)]
    for spec in made:
        assert PromptSpec.from_text(spec.prompt) == spec


@given(st.one_of(st.tuples(st.just(vocabulary), includes(vocabulary)) for vocabulary in (Vocabulary(), OWN)))
def test_any_sentence_that_can_be_rendered_is_read_as_what_it_says(drawn):
    vocabulary, include = drawn
    spec = PromptSpec("custom", include)
    text = spec.render()
    pointed = {place.target for item in include for place in item.positions}
    alone = [words(item) for row, item in enumerate(include) if not item.positions and row not in pointed]
    if len(set(alone)) < len(alone):
        with pytest.raises(SpecError, match="expected every object once"):  # "a dog and a dog"
            PromptSpec.from_text(text, vocabulary)
        return
    read = PromptSpec.from_text(text, vocabulary)
    assert (read.render(), read.prompt) == (text, text)
    assert PromptSpec.from_text(read.render(), vocabulary) == read
    totals = {}
    for item in read.include:
        totals[item.class_name] = totals.get(item.class_name, 0) + item.count
    several = {item.class_name for item in include if item.count > 1}
    assert {item.class_name: item.count for item in read.exclude} == {name: totals[name] + 1 for name in several}
    if len({words(item) for item in include}) == len(include):
        assert meaning(PromptSpec("custom", read.include)) == meaning(spec)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("seven cups", "a photo of seven cups"),
        ("A picture of 7 cups.", "a photo of seven cups"),
        ("an image of exactly seven cups", "a photo of seven cups"),
        ("three benches", "a photo of three benchs"),
        ("two people", "a photo of two persons"),
        ("4 sheep!", "a photo of four sheeps"),
        ("three knives", "a photo of three knifes"),
        ("a pair of scissors", "a photo of a scissors"),
        ("photograph of a cow to the left of a cup", "a photo of a cow left of a cup"),
        ("a cow is under a bench", "a photo of a cow below a bench"),
        ("a cow, a bench", "a photo of a cow and a bench"),
        ("an orange orange", "a photo of an orange orange"),
    ],
)
def test_the_same_in_other_words(text, same):
    read, plain = PromptSpec.from_text(text), PromptSpec.from_text(same)
    assert (read.tag, read.include, read.exclude) == (plain.tag, plain.include, plain.exclude)
    assert read.prompt == text


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("a cat, a dog, and a cup", "custom"),
        ("two red cups", "custom"),
        ("a red cup and a dog", "custom"),
        ("two cups and a dog", "custom"),
        ("a red cow left of a cup", "custom"),
        ("a cow left of a cup and above a bed", "custom"),
        ("exactly one cup", "counting"),
    ],
)
def test_the_task_of_a_sentence(text, tag):
    assert PromptSpec.from_text(text).tag == tag


REFUSED = [
    ("", "text: expected a sentence, got ''"),
    (
        "seven sups",
        "text: understood 'seven', then expected a colour or the name of a class, got 'sups'; did you mean 'cups'?",
    ),
    (
        "a cup next to a dog",
        "text: understood 'a cup', then expected 'and' or a relation such as 'left of', got 'next to a dog'",
    ),
    ("a cow left a cup", "text: understood 'a cow', then expected .*; did you mean 'left of'?"),
    ("a photo of cups", "text: understood 'a photo of', then expected 'a', 'an' or a number, got 'cups'"),
    ("a photo of", "text: understood 'a photo of', then expected 'a', 'an' or a number, got the end"),
    ("a mouse", "text: understood 'a', .* GenEval calls it 'computer mouse'"),
    ("a grey cup", "text: understood 'a', then expected a colour or the name of a class, got 'grey cup'"),
    ("a red", "text: understood 'a red', then expected the name of a class, got the end"),
    ("zero cups", "text: understood '', then expected a number in 1..10,000, got 'zero cups'"),
    (
        "a dog and a dog",
        "text: understood 'a dog and a dog', then expected every object once, or .* 'two dogs', got the end",
    ),
    ("a cup and the dog", "text: understood 'a cup and', then expected 'a', 'an' or a number, got 'the dog'"),
    ("a cup " * 3000, "text: expected at most 8,192 characters"),
    (", ".join(f"{n} cups" for n in range(1, 66)), "text: expected at most 64 objects, got 65; shorten it"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_refusal_says_what_was_understood(text, message):
    with pytest.raises(SpecError) as caught:
        PromptSpec.from_text(text)
    assert all(part in str(caught.value) for part in message.split(".*"))
    assert "\n" not in str(caught.value)


def test_words_of_a_scorer_of_ones_own():
    spec = PromptSpec.from_text("two striped teapots left of a glass of water", OWN)
    assert spec.include == (Include("glass of water"), Include("teapot", 2, "striped", (Position("left of", 0),)))
    both = Vocabulary(("wine", "red wine"), ("red",))
    with pytest.raises(SpecError, match="expected words with one meaning, got 'red wine'"):
        PromptSpec.from_text("a red wine", both)


@given(
    st.text()
    | st.lists(st.sampled_from([*CLASS_NAMES, *COLORS, *RELATIONS, "a", "two", "and", ",", "of"])).map(" ".join)
)
def test_any_text_is_read_or_refused(text):
    try:
        spec = PromptSpec.from_text(text)
    except GenEvalError:
        return
    assert PromptSpec.parse(spec.to_json()) == spec
    Vocabulary().check(spec)


def test_a_long_text_is_refused_quickly():
    start = time.process_time()
    for text in ("a photo of " + "x" * 8000, "a cup and " * 800, "a " * 4000):
        with pytest.raises(SpecError):
            PromptSpec.from_text(text)
    assert time.process_time() - start < 2


def test_sentences_are_taken_wherever_prompts_are():
    assert resolve("a photo of seven cups").exclude[0].count == 8
    assert resolve("a photo of a bench") in official_suite()
    assert [spec.tag for spec in read_prompts(["seven cups", "a red cup"])] == ["counting", "colors"]
    with pytest.raises(SpecError, match=r"prompts\[1\]: prompt: expected .* \(text: understood 'a', then expected"):
        read_prompts(["seven cups", "a dragon"])


def test_a_named_thing_twice_judges_like_one():
    """Why "a dog left of a cup and a cat above a cup" may point to one cup: the verdict is the same."""
    import numpy as np

    from geneval_reward.judge import Detections

    found = Detections(
        np.array([[0, 40, 20, 60], [60, 40, 80, 60], [60, 0, 80, 20]]),
        np.full(3, 0.9),
        np.array([16, 41, 15]),
        (100, 100),
    )
    one = PromptSpec.from_text("a dog left of a cup and a cat above a cup")
    two = (*one.include[:2], Include("cup"), Include("cat", 1, None, (Position("above", 2),)))
    assert judge(one, found).correct
    assert judge(PromptSpec("custom", two), found).correct
