"""`geneval-reward annotate`: what it prints, how it ends, and what it refuses."""

import io
import json
import tarfile

import pytest
from PIL import Image

MINE = """
def bright(images):
    return [float(image.float().mean()) for image in images]

def some(images, prompts):
    return [None if prompt == "b" else len(prompt) for prompt in prompts]

def seen(verdict):
    return len(verdict.detections)

class Scorer:
    pass

def scorer():
    from geneval_reward.testing import FakeDetector, scorer_for
    return scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))
"""


@pytest.fixture
def data(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, text in enumerate(["a photo of a bench", "b", "two benches", "a surfer at dusk"]):
            buffer = io.BytesIO()
            Image.new("RGB", (16, 16), (number,) * 3).save(buffer, "PNG")
            for ending, content in (("png", buffer.getvalue()), ("txt", text.encode())):
                info = tarfile.TarInfo(f"{number}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return "a.tar"


def test_the_summary(run, data, tmp_path):
    judged = ("--backend", "mine.py:scorer")
    result, code, messages = run(
        "annotate", data, "-r", "geneval_official,mine.py:some,seen=mine.py:seen", "-o", "t.parquet", *judged
    )
    assert code == 1
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["geneval_official", "1", "3", "1.000", "1.000", "1.000", "1.000", "1"] in lines
    assert ["mine.py:some", "3", "1", "15.000", "11.500", "16.000", "17.800", "3"] in lines
    assert ["seen", "1", "3", "1.000", "1.000", "1.000", "1.000", "1"] in lines
    assert ["no", "record", "3", "geneval_official,", "seen"] in lines
    assert "no record: a/1: expected one beside the caption, got none; give --records FILE or --parse" in result.stdout
    assert "geneval_* judged by fake " in result.stdout
    assert "4 samples in t.parquet" in messages
    # The sentences are read on request, and what was scored is kept.
    result, code, _ = run(
        "annotate", data, "-r", "geneval_official", "-o", "t.parquet", "--parse", *judged, "-f", "json"
    )
    record = json.loads(result.stdout)
    assert record["rewards"]["geneval_official"]["scored"] == 2
    (said,) = (note for note in record["notes"] if note.startswith("--parse"))
    assert said.startswith(
        "--parse understood 1 of 3 captions that have no record (1 of 3 different ones); not understood"
    )
    assert "'a surfer at dusk' (understood 'a', then expected" in said


def test_it_ends_with_0_where_nothing_is_empty(run, data):
    result, code, _ = run("annotate", data, "-r", "b=mine.py:bright", "-o", "t.parquet", "-f", "csv")
    assert code == 0
    assert result.stdout.splitlines() == ["reward,scored,empty,mean,q05,q50,q95,distinct", "b,4,0,1.5,0.15,1.5,2.85,4"]
    assert run("annotate", data, "-r", "b=mine.py:bright", "-o", "t.parquet", "--write-back", "scored")[1] == 0
    with tarfile.open("scored/a.tar") as tar:
        assert json.load(tar.extractfile("2.json")) == {"rewards": {"b": 2}}


def test_a_judge_of_other_rules(run, data):
    asked = ("annotate", data, "-o", "t.parquet", "--backend", "mine.py:scorer", "-r", "geneval_strict")
    assert run(*asked)[1] == 1
    from pathlib import Path

    Path("other.py").write_text(MINE.replace("scorer_for(", "scorer_for(rules='confidence=0.5', detector="))
    other = [word.replace("mine.py", "other.py") for word in asked]
    _, code, message = run(*other)
    assert code == 2
    assert "expected those of the table, got another the rules of geneval_*" in message
    assert run(*other, "--overwrite")[1] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.tar", "-r", "brightness"), "rewards: expected geneval_official, "),
        (("no.tar", "-r", "clip_score"), "expected a .tar, .parquet or .arrow file, got nothing"),
        (("a.tar", "-r", "clip_score", "--parse"), "parse: expected it with a reward that is judged by a record"),
        (("a.tar", "-r", "clip_score", "--engine", "slurm"), "--engine: expected one of local, ray"),
        (("a.tar", "-r", "geneval_strict", "--backend", "none"), "backend: expected one of lite"),
        (("a.tar", "-r", "geneval_strict", "--records", "a.tar"), "a.tar line 1: expected "),
    ],
)
def test_refusals(run, data, arguments, message):
    _, code, said = run("annotate", *arguments)
    assert code == 2
    assert message in said
