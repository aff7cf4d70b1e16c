"""Captions, and the records that `geneval_*` is judged by."""

import json

import pytest
from annotation_data import BENCH, COW

from geneval_reward.annotate.captions import (
    MissingCaptionError,
    UnscorableError,
    find_caption,
    find_record,
    read_records,
)
from geneval_reward.errors import FileError, SpecError
from geneval_reward.prompts import PromptSpec
from geneval_reward.results.raw_samples import RawSample


def raw(**said):
    return RawSample("k", "k.png", "k", b"", **said)


@pytest.mark.parametrize(
    ("sample", "name", "caption"),
    [
        (raw(files={"txt": b" a bench \n", "json": json.dumps(BENCH).encode()}), None, "a bench"),
        (raw(files={"json": json.dumps({"caption": "c", "text": "t", "prompt": "p"}).encode()}), None, "c"),
        (raw(columns={"text": "t", "prompt": "p"}), None, "t"),
        (raw(columns={"metadata": BENCH}), None, "a photo of a bench"),
        (raw(columns={"metadata": json.dumps(BENCH)}), None, "a photo of a bench"),
        (raw(files={"txt": b"a", "synthetic.txt": b"long"}), "synthetic.txt", "long"),
        (raw(columns={"text": "t", "TEXT": "T"}), "TEXT", "T"),
    ],
)
def test_where_captions_are(sample, name, caption):
    assert find_caption(sample, name) == caption


@pytest.mark.parametrize(
    ("sample", "name", "message", "kind"),
    [
        (raw(), None, "expected one, got none", MissingCaptionError),
        (raw(columns={"text": "t"}), "TEXT", "expected one under TEXT, got none", MissingCaptionError),
        (raw(files={"txt": b"\xff"}), None, "txt: expected UTF-8 text", UnscorableError),
        (raw(files={"txt": b" "}), None, "txt: expected text, got an empty one", UnscorableError),
        (raw(files={"json": b"{"}), None, "expected JSON", UnscorableError),
        (raw(columns={"caption": 3}), None, "caption: expected text, got int", UnscorableError),
        (raw(columns={"metadata": {"a": 1}}), None, "metadata: prompt: expected text, got NoneType", UnscorableError),
    ],
)
def test_captions_that_are_none(sample, name, message, kind):
    with pytest.raises(kind, match=f"^caption: .*{message}"):
        find_caption(sample, name)


def find(sample, caption=None, records=None, parse=False):
    spec, origin = find_record(sample, caption, records, parse=parse, vocabulary=None)
    return spec.prompt, origin


def test_where_records_are():
    sample = raw(files={"json": json.dumps(BENCH).encode()})
    assert find(sample) == ("a photo of a bench", "sample")
    assert find(sample, records={"k": PromptSpec.parse(COW)}) == ("a photo of a cow", "records")
    assert find(raw(columns={"metadata": COW, "tag": "photo"})) == ("a photo of a cow", "sample")
    assert find(raw(columns={"tag": "photo", "url": "x"}), "a photo of a bench") == ("a photo of a bench", "suite")
    assert find(raw(), "two dogs", parse=True) == ("two dogs", "parsed")


@pytest.mark.parametrize(
    ("sample", "given", "message"),
    [
        (raw(), {}, "expected one, or a caption that is a prompt of the official suite, got neither"),
        (raw(), {"caption": "two dogs"}, "expected one beside the caption, got none; give --records FILE or --parse"),
        (raw(), {"caption": "a surfer", "parse": True}, "the caption is not understood"),
        (raw(columns={"tag": "colors", "include": 3}), {"caption": "a photo of a bench"}, "include: expected"),
        (raw(), {"records": {"k": SpecError("no")}}, "no"),
    ],
)
def test_records_that_are_none(sample, given, message):
    with pytest.raises(UnscorableError, match=f"^record: .*{message}"):
        find(sample, **given)


def test_a_file_of_records(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text(
        "\n".join(
            json.dumps(line) for line in ({"key": "a/0"} | BENCH, {"key": "a/1", "metadata": COW}, {"key": "a/2"})
        )
    )
    found = read_records(file)
    assert [getattr(found[key], "prompt", None) for key in ("a/0", "a/1", "a/2")] == [
        "a photo of a bench",
        "a photo of a cow",
        None,
    ]
    assert isinstance(found["a/2"], SpecError)
    for text, message in (
        ("{}", "line 1: expected an object with a text under 'key'"),
        ("{", "line 1: expected JSON"),
        ("", "at least one"),
    ):
        file.write_text(text)
        with pytest.raises(FileError, match=message):
            read_records(file)
    file.write_text('{"key": "a"}\n{"key": "a"}')
    with pytest.raises(FileError, match="line 2: expected each key once, got 'a' again"):
        read_records(file)
