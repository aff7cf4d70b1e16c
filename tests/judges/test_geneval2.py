"""A file of GenEval 2's form, made here."""

import math

import pytest
import torch

from geneval_reward.errors import FileError, GenEvalError
from geneval_reward.judges.geneval2 import read_geneval2, score_geneval2

RECORDS = [
    {
        "prompt": "two blue cups",
        "atom_count": 3,
        "vqa_list": [["How many cups?", "two"], ["Are the cups blue?", "Yes"], ["Are there cups?", "Yes"]],
        "skills": ["count", "attribute", "object"],
    },
    {
        "prompt": "a dog that runs",
        "atom_count": 4,
        "vqa_list": [["Is the dog running?", "Yes"], ["Are there dogs?", "Yes"]],
        "skills": ["verb", "object"],
    },
]
IMAGE = torch.zeros(3, 8, 8, dtype=torch.uint8)


def test_scores_skills_and_atomicity(oracle, write_json):
    prompts = read_geneval2(write_json("g.jsonl", RECORDS))
    assert [one.atoms for one in prompts] == [3, 4]
    # Everything is right with .8 but the blue, for which yes has .2.
    says = lambda _, text: "two" if "How many" in text else "no" if "blue" in text else "yes"  # noqa: E731
    found = score_geneval2(oracle(says), prompts, {one.prompt: IMAGE for one in prompts})
    assert found.arithmetic == pytest.approx(100 * (1.8 / 3 + 0.8) / 2)
    first = math.exp((2 * math.log(0.8) + math.log(0.2)) / 3)
    assert found.geometric == pytest.approx(100 * (first + 0.8) / 2)
    assert found.hard == pytest.approx(80)
    assert found.skills == pytest.approx({"attribute": 20, "count": 80, "object": 80, "verb": 80})
    assert found.atomicity == pytest.approx({3: 100 * first, 4: 80})
    assert (found.prompts, found.failed) == (2, {})


def test_what_cannot_be_scored_is_named_and_no_zero(oracle, write_json, tmp_path):
    prompts = read_geneval2(write_json("g.jsonl", RECORDS))
    found = score_geneval2(oracle(lambda *_: "yes"), prompts, {prompts[1].prompt: IMAGE})
    assert (found.prompts, found.failed) == (1, {"two blue cups": "no image"})
    with pytest.raises(GenEvalError, match="expected an image that can be scored, got none"):
        score_geneval2(oracle(lambda *_: ""), prompts, {prompts[1].prompt: tmp_path / "none.png"})


@pytest.mark.parametrize(
    "record", [{"prompt": "a"}, RECORDS[0] | {"skills": ["count"]}, RECORDS[0] | {"vqa_list": [["How?", "blue"]] * 3}]
)
def test_other_files_are_refused(record, write_json):
    with pytest.raises(FileError, match=r"g\.jsonl line 1: expected"):
        read_geneval2(write_json("g.jsonl", [record]))
