"""One line of a results file: what goes in comes out, and what is not a row is refused by name."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.errors import FileError, ResultsError
from geneval_reward.judge import Detections, Rules, judge
from geneval_reward.prompts import PromptSpec
from geneval_reward.results import FailedImage, GeneratorNotes, ResultRow, RunIdentity
from geneval_reward.results.record import OFFICIAL_KEYS, index_of

SPEC = PromptSpec.parse({"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]})


def a_row(**options):
    color = np.full((2, 10), np.nan)
    color[0] = np.linspace(0, 0.18, 10)[::-1]
    detections = Detections([[1.1, 2.2, 33.3, 44.4], [5, 6, 7, 8]], [0.9, 0.1], [16, 16], (64, 48), color=color)
    row = ResultRow.from_verdict(
        judge(SPEC, detections.with_color(np.nan_to_num(color))), "00007/samples/0003.png", **options
    )
    return row


OFFICIAL = {
    "filename": "out/00000/samples/00002.png",
    "tag": "colors",
    "prompt": SPEC.prompt,
    "correct": False,
    "reason": "expected dog>=1, found 0",
    "metadata": SPEC.to_json(),
    "details": "{}",
}


def test_the_line_begins_with_the_official_keys():
    record = json.loads(a_row().to_json())
    assert tuple(record)[:7] == OFFICIAL_KEYS
    assert json.loads(record["metadata"])["prompt"] == SPEC.prompt
    boxes = json.loads(record["details"])["dog"]
    assert [len(box) for box in boxes] == [5]  # the unsure one is not kept


def test_notes_of_the_generator_stand_only_where_there_are_any():
    assert "generator" not in json.loads(a_row().to_json())
    notes = GeneratorNotes("Draw {prompt}", "blurry", trained_on_template=True)
    line = a_row(generator=notes).to_json()
    assert ResultRow.from_json(line).generator == notes
    assert ResultRow.from_json(line).to_json() == line
    with pytest.raises(FileError, match="template: expected a str or null, got 3"):
        ResultRow.from_json(line.replace('"Draw {prompt}"', "3"))


def test_round_trip_to_the_same_line_and_verdict():
    row = a_row(seed=2**63, backend="lite", fingerprint="abc", rewritten="a crimson hound", best_of=8)
    line = row.to_json()
    back = ResultRow.from_json(line)
    assert back.to_json() == line
    assert (back.index, back.seed, back.best_of) == (3, 2**63, 8)
    assert back.spec == SPEC
    assert back.verdict().credits() == pytest.approx(row.credits)
    assert back.identity == RunIdentity.of(Rules(), "lite", "abc")


@given(st.lists(st.floats(0, 2000, width=32), min_size=4, max_size=4), st.floats(0, 1, width=32))
def test_boxes_come_back_as_the_same_float32(box, confidence):
    detections = Detections([box], [confidence], [16], (64, 64), color=np.full((1, 10), 0.07))
    back = ResultRow.from_json(ResultRow.from_verdict(judge(SPEC, detections), "0.png").to_json()).detections
    assert np.array_equal(back.xyxy, detections.xyxy)
    assert np.array_equal(back.confidence, detections.confidence)
    assert np.array_equal(back.color, detections.color)


def test_colours_that_were_not_asked_stay_unknown():
    spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "cup", "count": 1}]})
    color = np.full((2, 10), np.nan)
    color[1, 3] = 0.5
    color[1, np.isnan(color[1])] = 0.01
    detections = Detections([[0, 0, 9, 9]] * 2, [0.9, 0.8], [41, 41], (64, 64), color=color)
    back = ResultRow.from_json(ResultRow.from_verdict(judge(spec, detections), "0.png").to_json()).detections
    assert np.isnan(back.color[0]).all()
    assert np.array_equal(back.color[1], detections.color[1])


def test_no_objects_at_all():
    back = ResultRow.from_json(ResultRow.from_verdict(judge(SPEC, Detections.empty((9, 9))), "a.png").to_json())
    assert len(back.detections) == 0
    assert back.index is None


def test_other_rules_judge_the_stored_detections():
    row = ResultRow.from_json(a_row().to_json())
    assert row.verdict().correct
    assert not row.verdict("confidence=0.95").correct


def test_an_official_line_is_read_as_it_is():
    # pandas writes slashes escaped.
    row = ResultRow.from_json(json.dumps(OFFICIAL).replace("/", "\\/"))
    assert (row.filename, row.index, row.correct, row.schema) == (OFFICIAL["filename"], 2, False, None)
    assert row.identity == RunIdentity()
    assert json.loads(row.to_json()) == OFFICIAL
    with pytest.raises(ResultsError, match="expected stored detections, got none"):
        row.verdict()


def changed(record, **changes):
    return json.dumps({key: value for key, value in {**record, **changes}.items() if value != "<gone>"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected a JSON object"),
        ("[1]", "got a JSON list"),
        ('{"filename": NaN}', "NaN is not JSON"),
        (changed(OFFICIAL, correct=1), "correct: expected true or false, got 1"),
        (changed(OFFICIAL, tag="colours"), "tag: expected one of single_object"),
        (changed(OFFICIAL, metadata={"tag": "colors"}), "metadata: expected a string"),
        (changed(OFFICIAL, prompt="<gone>"), "expected the key 'prompt'"),
        (changed(json.loads(a_row().to_json()), schema=2), "schema: expected 1 or older, got 2; update"),
        (changed(json.loads(a_row().to_json()), extra=1), "got also extra"),
        (changed(json.loads(a_row().to_json()), seed="<gone>"), "expected the key 'seed'"),
        (changed(json.loads(a_row().to_json()), seed=1.5), "seed: expected an integer or null"),
        (changed(json.loads(a_row().to_json()), credits={"official": "1"}), "credits: official: expected a number"),
        (changed(json.loads(a_row().to_json()), detections={"xyxy": []}), "detections: expected parallel lists"),
        (changed(json.loads(a_row().to_json()), image_size=None), "detections: expected parallel lists"),
    ],
)
def test_what_is_not_a_row_is_refused(line, message):
    with pytest.raises(ResultsError, match=message) as error:
        ResultRow.from_json(line, "results.jsonl line 7")
    assert str(error.value).startswith("results.jsonl line 7: ")


def test_numbers_that_are_not_finite_are_not_written():
    row = ResultRow(**{**OFFICIAL, "credits": {"official": float("nan")}})
    with pytest.raises(ResultsError, match=r"00002\.png: expected finite numbers"):
        row.to_json()


def test_a_failed_image_has_no_verdict():
    record = json.loads(FailedImage("a.png", "truncated").to_json())
    assert record == {"filename": "a.png", "error": "truncated", "schema": 1}


def test_identities_name_what_differs():
    one = RunIdentity.of(Rules(), "lite", "abc")
    other = RunIdentity.of(Rules(confidence=0.5), "paper", "abc")
    assert one.differences(other) == ["rules confidence 0.3 / 0.5", "backend lite / paper"]
    assert one.differences(one) == []
    assert "known in one of them only" in one.differences(RunIdentity())[0]


@pytest.mark.parametrize(
    ("name", "index"), [("a/0004.png", 4), ("7.jpg", 7), ("b\\0010.png", 10), ("cat.png", None), ("1_2.png", None)]
)
def test_index_of_a_name(name, index):
    assert index_of(name) == index
