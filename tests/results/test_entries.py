import pytest

from geneval_reward.errors import SpecError
from geneval_reward.prompts import official_suite
from geneval_reward.results.entries import name_of, read_entry

SPEC = official_suite()[0]


def test_the_record_in_its_forms():
    for entry in (
        {"prompt": SPEC.prompt},
        SPEC.to_record(),
        {"metadata": SPEC.to_record()},
        {"metadata": SPEC.to_json()},
        SPEC.to_record() | {"note": "mine", "id": 3, "exclude": None, "text": "x", "file_name": "a.png"},
    ):
        assert read_entry(entry).spec == SPEC


def test_what_else_is_said():
    entry = read_entry({"prompt": SPEC.prompt, "seed": 7, "index": 2, "rewritten": "A bench in the sun."})
    assert (entry.seed, entry.index, entry.rewritten) == (7, 2, "A bench in the sun.")
    assert read_entry({"prompt": SPEC.prompt, "rewritten": SPEC.prompt}).rewritten is None
    assert name_of({"file_name": "a.png"}) == name_of({"filename": "a.png", "file_name": None}) == "a.png"
    assert name_of({}) is name_of(None) is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ([1], "got a JSON list"),
        ({}, "expected metadata, tag and include, or prompt, got nothing"),
        ({"id": 1}, "got id"),
        ({"prompt": 3}, "prompt: expected a string, got int"),
        (SPEC.to_record() | {"exlude": []}, "got 'exlude'; did you mean 'exclude'"),
        (
            {"prompt": SPEC.prompt, "seed": 10**400},
            r"seed: expected an integer in 0\.\.2\*\*64-1, got one out of range",
        ),
        ({"prompt": SPEC.prompt, "index": -1}, "index: expected an integer"),
        ({"prompt": SPEC.prompt, "seed": True}, "seed: expected an integer >= 0, got True"),
    ],
)
def test_refusals(entry, message):
    with pytest.raises(SpecError, match=message):
        read_entry(entry)
