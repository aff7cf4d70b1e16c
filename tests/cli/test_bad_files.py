"""A small corpus of bad files: what a file throws is that file's error, counted and named, and never a traceback.

The files are made by code. Every command that reads them must end with exit code 0, 1 or 2 and a sentence; `run` raises
whatever else comes out of a command.
"""

import errno
import io
import json
import os
import resource
import struct

import numpy as np
import pytest
from PIL import Image

from geneval_reward.errors import GenEvalError
from geneval_reward.prompts import official_suite
from geneval_reward.results import ResultWriter, read_results
from geneval_reward.results.layout import write_prompt_folder
from geneval_reward.results.record import failures_path
from geneval_reward.support.counts import counted
from geneval_reward.vision.photos import photo

SUITE = official_suite()
DEEP = "[" * 100_000


def jpeg(exif=b""):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def bomb():
    """A PNG that promises 40,000 x 40,000 pixels."""
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    return bytes(data)


def exif_of_struct_error():
    """EXIF whose orientation claims to be a long rational and has no bytes."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x0b\0\0\0\x01\0\0\0\0\0\0\0\0"


IMAGES = {
    "empty": b"",
    "text": b"no image",
    "cut": jpeg()[:500],
    "exif": jpeg(exif_of_struct_error()),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    "dds": b"DDS " + struct.pack("<I", 124) + b"\0" * 120,
    "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\xff" * 64,
    "bomb": bomb(),
    "gif": b"GIF89a\x01\0\x01\0\0\0\0;",
}

DOG = {"class": "dog", "count": 1}
RECORDS = {
    "markup": '{"tag": "[/x]", "include": []}',
    "count": '{"tag": "counting", "include": [{"class": "dog", "count": 1' + "0" * 400 + "}]}",
    "digits": '{"tag": "counting", "include": [{"class": "dog", "count": 1' + "0" * 5000 + "}]}",
    "deep": DEEP,
    "positions": json.dumps({"tag": "position", "include": [DOG, DOG | {"position": [["above", 0]] * 1500}]}),
    "not utf-8": b"\xff\xfe",
    "list": "[1]",
    "empty": "",
}


@pytest.fixture
def bad_set(tmp_path):
    """One good image, and one prompt folder for each bad image and record."""
    root = tmp_path / "bad [/red] set"
    picture = photo("coffee")
    picture.thumbnail((160, 160))
    picture.save(write_prompt_folder(root, 0, SUITE[0]) / "0000.png")
    number = 0
    for number, data in enumerate(IMAGES.values(), 1):
        (write_prompt_folder(root, number, SUITE[number]) / "0000.png").write_bytes(data)
    for more, record in enumerate(RECORDS.values(), number + 1):
        samples = write_prompt_folder(root, more, SUITE[more])
        picture.save(samples / "0000.png")
        file = samples.parent / "metadata.jsonl"
        file.write_bytes(record if isinstance(record, bytes) else record.encode())
    os.mkfifo(root / "00000" / "samples" / "0001.png")
    (root / "00000" / "samples" / "0002.png").mkdir()
    return root


def test_score_names_and_counts_every_bad_file(run, bad_set, tmp_path):
    _, code, messages = run("score", bad_set, "--out", "r[/x].jsonl", "--batch-size", 4)
    assert code == 1
    results = read_results(tmp_path / "r[/x].jsonl")
    judged = set(results.filenames)
    assert "00000/samples/0000.png" in judged
    for number, name in enumerate(IMAGES, 1):
        # Odd EXIF alone leaves pixels that can be read, if Pillow gets that far.
        assert f"{number:05d}/samples/0000.png" in results.failed or name == "exif", name
    for number, name in enumerate(RECORDS, len(IMAGES) + 1):
        assert f"problem: {number:05d}/metadata.jsonl: " in messages, name
    assert "[/x]" in messages
    assert "0001.png: expected an image file, got no regular file" in messages
    assert messages.count("skipped: ") == len(results.failed)


def test_a_flat_folder_with_every_bad_line(run, tmp_path, lines):
    root = tmp_path / "flat"
    root.mkdir()
    picture = photo("coffee")
    picture.thumbnail((160, 160))
    names = ["good.png", "[red].png", "umlaut-ä.png"]
    for name in names:
        picture.save(root / name)
    text = [json.dumps({"file_name": name, "prompt": SUITE[0].prompt}) for name in names]
    text += [json.dumps({"file_name": "x" * 5000, "prompt": SUITE[0].prompt}), DEEP, "{broken", '"[/x]"']
    text += [
        json.dumps({"file_name": "good.png", "prompt": "twice"}),
        json.dumps({"file_name": 3, "prompt": SUITE[0].prompt}),
    ]
    text += [json.dumps({"file_name": f"{n}.png", "prompt": SUITE[0].prompt, "seed": 10**400}) for n in range(2)]
    meta = tmp_path / "m.jsonl"
    meta.write_text("\n".join(text), "utf-8-sig")
    _, code, messages = run("score", root, "-m", meta, "--out", "r.jsonl")
    assert code == 1
    assert [row["filename"] for row in lines(tmp_path / "r.jsonl")] == names
    for words in (
        "the image xxx",
        "nested too deeply",
        "line 6: ",
        "line 8: expected each image once",
        "seed: expected",
    ):
        assert words in messages, words


ROW_CHANGES = {
    "index": 10**30,
    "best_of": 10**30,
    "seed": 10**400,
    "credits": {"official": 10**400},
    "rules": {"a": {}},
    "image_size": [],
    "image_size ": [[]],
    "image_size  ": [10**400, 1],
    "min_confidence": 7,
    "clauses": [1],
    "detections": {"xyxy": [[10**400, 0, 1, 1]], "confidence": [0.5], "class": ["dog"], "color": None},
    "detections ": {"xyxy": [], "confidence": [0.5], "class": [["dog"]], "color": None},
    "metadata": '{"tag": "colors", "include": [{"class": "dog", "count": 1' + "0" * 400 + "}]}",
    "details": DEEP,
    "tag": "[/x]",
    "correct": "yes",
    "prompt": None,
}
TEXTS = {
    "a number beyond 64 bits": lambda line: line.replace('"credits":{', '"credits":{"x":1e999,', 1),
    "deep": lambda line: line.replace('"clauses":[', f'"clauses":[{DEEP}', 1),
    "deep line": lambda line: DEEP,
    "not utf-8": lambda line: line.encode()[:100] + b"\xff" + line.encode()[100:],
    "a list": lambda line: "[1]",
}


@pytest.fixture(scope="module")
def row_lines(tmp_path_factory):
    """Two lines of a results file."""
    import torch

    from geneval_reward.results import ResultRow
    from geneval_reward.testing import FakeDetector, scorer_for

    scorer = scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.95]]}))
    verdicts = scorer.score([torch.zeros(3, 16, 16, dtype=torch.uint8)] * 2, list(SUITE[:2]))
    return [
        ResultRow.from_verdict(verdict, f"{n:05d}/samples/0000.png", backend="fake", fingerprint="x").to_json()
        for n, verdict in enumerate(verdicts)
    ]


def changed(line, name, value):
    return json.dumps(json.loads(line) | {name.strip(): value})


CASES = [lambda line, n=n, v=v: changed(line, n, v) for n, v in ROW_CHANGES.items()] + list(TEXTS.values())


@pytest.mark.parametrize("change", CASES, ids=[*ROW_CHANGES, *TEXTS])
def test_an_odd_results_file_is_one_sentence(run, row_lines, tmp_path, change):
    bad = change(row_lines[1])
    (tmp_path / "good.jsonl").write_text("\n".join(row_lines) + "\n")
    bad = bad if isinstance(bad, bytes) else bad.encode()
    (tmp_path / "bad.jsonl").write_bytes(row_lines[0].encode() + b"\n" + bad + b"\n")
    for command in (
        ("summary", "bad.jsonl"),
        ("summary", "bad.jsonl", "--rules", "confidence=.5"),
        ("compare", "good.jsonl", "bad.jsonl"),
        ("report", "bad.jsonl", "-o", "page.html"),
    ):
        result, code, message = run(*command)
        if code == 2:
            assert isinstance(result.exception, GenEvalError), command
            assert "bad.jsonl" in message or "00001/samples/0000.png" in message, command
            assert len(message) < 600


def test_a_cut_line_among_the_failures_blocks_nothing(run, row_lines, tmp_path, images):
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(row_lines) + "\n")
    failures_path(path).write_text('{"filename":"a.png","error":"x","schema":1}\n{"filename":"b.p')
    for command in (("summary", path), ("report", path, "-o", "page.html"), ("compare", path, path)):
        assert run(*command)[1] in (0, 1), command
    assert read_results(path).failed == {"a.png": "x"}
    with ResultWriter(path, resume=True) as writer:
        assert len(writer.done) == 2
    assert not failures_path(path).exists()


def test_a_full_disk_is_a_sentence_and_the_file_is_resumed(run, images, tmp_path, monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(OSError, match="resume the file once it can be written") as caught:
            run("score", images, "--out", "r.jsonl", "--batch-size", 2, "--limit", 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == "r.jsonl"
    assert {entry.name for entry in tmp_path.iterdir()} == {"images", "r.jsonl"}
    assert run("score", images, "--out", "r.jsonl", "--resume", "--limit", 8)[1] == 0
    assert len(read_results(tmp_path / "r.jsonl")) == 8


def test_images_that_were_replaced_are_scored_again(run, images, tmp_path, lines):
    run("score", images, "--out", "r.jsonl", "--limit", 8)
    rows = lines(tmp_path / "r.jsonl")
    assert [row["correct"] for row in rows[:2]] == [True, False]
    first, second = (images / row["filename"] for row in rows[:2])
    Image.new("RGB", (64, 64)).save(first)
    written = (tmp_path / "r.jsonl").stat().st_mtime
    os.utime(first, (written + 5, written + 5))
    _, code, messages = run("score", images, "--out", "r.jsonl", "--resume", "--limit", 8)
    assert code == 0
    assert (
        f"1 image has changed since r.jsonl was written, or the record has, such as {rows[0]['filename']}" in messages
    )
    again = {row["filename"]: row["correct"] for row in lines(tmp_path / "r.jsonl")}
    assert len(again) == 8
    assert again[rows[0]["filename"]] is False
    assert second.exists()


def test_images_and_records_that_were_replaced_by_older_ones_are_scored_again(run, images, tmp_path, lines):
    """`cp -p`, `mv` and `rsync` keep the times of the originals."""
    older = tmp_path / "older.png"
    Image.new("RGB", (64, 64)).save(older)
    os.utime(older, (1e9, 1e9))
    run("score", images, "--out", "r.jsonl")
    names = [row["filename"] for row in lines(tmp_path / "r.jsonl")]
    first = images / names[0]
    os.replace(older, first)
    record = (images / names[-1]).parent.parent / "metadata.jsonl"
    changed = 1 + sum((images / name).parent.parent == record.parent for name in names)
    record.write_text(official_suite()[7].to_json())
    _, _, messages = run("score", images, "--out", "r.jsonl", "--resume")
    assert f"{counted(changed, 'image', 'have')} changed since r.jsonl was written" in messages
    again = {row["filename"]: row for row in lines(tmp_path / "r.jsonl")}
    assert again[first.relative_to(images).as_posix()]["correct"] is False
    assert again[names[-1]]["prompt"] == official_suite()[7].prompt
