"""The lists and examples of docs/prompts.md are those of the package."""

import json
import re

import pytest
from pages import ROOT, snippets

from geneval_reward.errors import SpecError
from geneval_reward.prompts import CLASS_NAMES, COLORS, RELATIONS, TAGS, PromptSpec, Vocabulary
from geneval_reward.prompts.spec import MAX_CLAUSES, MAX_COUNT, MAX_POSITIONS, MAX_PROMPT
from geneval_reward.results.entries import read_entry

PAGE = ROOT / "docs" / "prompts.md"
TEXT = PAGE.read_text()
BLOCKS = snippets(PAGE)


def row(key):
    return re.search(rf"^\| `{re.escape(key)}` \| (.*) \|$", TEXT, re.MULTILINE)[1]


def test_all_words_are_listed():
    lists = [" ".join(one.code.split()).split(", ") for one in BLOCKS if one.kind == "text"]
    assert lists == [list(CLASS_NAMES), list(COLORS)]
    names = re.findall(r"`([^`]+)`", row("include[].position"))
    assert names == ["[relation, index]", *RELATIONS]
    assert re.findall(r"`([^`]+)`", row("tag"))[: len(TAGS)] == list(TAGS)


def test_the_bounds_are_those_of_the_package():
    assert f"1 to {MAX_CLAUSES} clauses" in row("include")
    assert f"1 to {MAX_COUNT:,}" in row("include[].count")
    assert f"up to {MAX_PROMPT:,} characters" in row("prompt")
    assert MAX_POSITIONS == 8 and "up to eight" in row("include[].position")  # noqa: PT018


def test_every_record_and_metadata_line_can_be_judged():
    lines = [line for one in BLOCKS if one.kind == "json" for line in one.code.splitlines()]
    specs = [read_entry(json.loads(line)).spec for line in lines]
    assert len(specs) == 10
    for spec in specs:
        Vocabulary().check(spec)
    assert [spec.render() for spec in specs[2:6]] == [
        "a photo of three cups",
        "a photo of a cat left of a cup and above a bed",
        "a photo of a cow left of a cup and a dog right of a cup",
        "a photo of three red apples",
    ]
    assert (specs[6].tag, specs[6].extra) == ("fruit_bowls", {"id": 17})


def test_every_sentence_has_the_task_that_is_said():
    table = re.findall(
        r"^\| (`[^|]*) \| `(\w+)` \|$", TEXT.partition("| sentence | task |")[2].partition("\n\n")[0], re.MULTILINE
    )
    assert len(table) == 7
    for sentences, tag in table:
        for sentence in re.findall(r"`([^`]+)`", sentences):
            assert PromptSpec.from_text(sentence).tag == tag, sentence
    assert json.loads(BLOCKS[1].code) == PromptSpec.from_text("a photo of seven cups").to_record()


def test_the_messages_are_those_of_the_package():
    with pytest.raises(SpecError) as caught:
        PromptSpec.from_text("a photo of a cup next to a dog")
    assert f"`{caught.value}`" in TEXT
    record = {"tag": "single_object", "include": [{"class": "dgo", "count": 1}]}
    assert f"`{Vocabulary().problem(PromptSpec.parse(record))}`" in TEXT
