"""Folders of images to results, in this process and in real ones that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from PIL import Image

from geneval_reward.prompts import official_suite
from geneval_reward.results import read_results
from geneval_reward.results.layout import read_folder, write_prompt_folder


def test_a_folder_is_scored_and_the_file_read_as_the_official_script_reads_it(run, images, lines, tmp_path):
    result, code, messages = run("score", images, "--out", "r.jsonl", "--device", "cpu", "--limit", 8)
    assert code == 0, messages
    assert "overall" in result.stdout
    ends = result.stderr.splitlines()[-2:]
    assert ends == ["results: r.jsonl", f"to look at the images: geneval-reward report r.jsonl --images {images}"]
    rows = lines(tmp_path / "r.jsonl")
    assert [row["filename"] for row in rows] == [item.filename for item in read_folder(images).items]
    # Every even record is true of its photograph, every odd one is not.
    assert [row["correct"] for row in rows] == [True, False] * 4
    for row in rows:
        assert list(row)[:7] == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
        assert row["correct"] == (row["reason"] == "")
        assert set(row["credits"]) == {"official", "strict", "partial", "dense", "flow_grpo"}
        for boxes in json.loads(row["details"]).values():
            assert all(len(box) == 5 for box in boxes)
    # The official script: task scores are means over tags, overall the mean of those.
    tags = {}
    for row in rows:
        tags.setdefault(row["tag"], []).append(row["correct"])
    overall = sum(sum(values) / len(values) for values in tags.values()) / len(tags)
    summary, code, _ = run("summary", "r.jsonl", "--format", "json")
    assert code == 1  # most of these prompts are of the official suite, of which 548 are missing
    assert json.loads(summary.stdout)["overall"]["value"] == pytest.approx(overall, abs=1e-6)


def test_an_existing_file_needs_a_word(run, images):
    assert run("score", images, "--out", "r.jsonl", "--limit", 1)[1] == 0
    _, code, message = run("score", images, "--out", "r.jsonl", "--limit", 1)
    assert code == 2
    assert "--resume or --overwrite" in message
    assert run("score", images, "--out", "r.jsonl", "--limit", 1, "--overwrite")[1] == 0


def test_bad_files_are_named_skipped_and_counted(run, images, lines, tmp_path):
    (images / "00001" / "samples" / "0000.png").write_bytes((images / "00000/samples/0000.png").read_bytes()[:200])
    (images / "00002" / "metadata.jsonl").unlink()
    (images / "00003" / "metadata.jsonl").write_text('{"tag": "colors", "include": [{"class": "dragon", "count": 1}]}')
    (images / "00004" / "samples" / "0000.png").unlink()
    Image.new("CMYK", (40, 30)).save(images / "00005" / "samples" / "0000.jpg")
    (images / "notes.txt").write_text("x")
    result, code, _ = run("score", images, "--out", "r.jsonl")
    assert code == 1
    for words in (
        "skipped: ",
        "00001/samples/0000.png: expected a whole image",
        "00002: expected metadata.jsonl",
        "00003/samples/0000.png: include[0].class: expected one of the 80 GenEval class names, got 'dragon'",
        "00004/samples: expected images such as 0000.png, got none",
        "2 images could not be scored",
    ):
        assert words in result.stderr.replace("\n", " "), words
    assert [row["filename"] for row in lines(tmp_path / "r.jsonl")] == [
        "00000/samples/0000.png",
        "00005/samples/0000.jpg",
        "00005/samples/0000.png",
        "00006/samples/0000.png",
        "00007/samples/0000.png",
    ]
    # Mended, the file is completed without scoring anything twice.
    Image.new("RGB", (32, 32)).save(images / "00001" / "samples" / "0000.png")
    run("score", images, "--out", "r.jsonl", "--resume")
    names = read_results(tmp_path / "r.jsonl").filenames
    assert len(names) == len(set(names)) == 6


def test_a_folder_with_nothing_to_score_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in (("empty", "got no image with a record"), ("nowhere", "got nothing")):
        _, code, message = run("score", folder)
        assert code == 2
        assert words in message


def test_an_incomplete_suite_is_said_and_named(run, tmp_path):
    for number, spec in enumerate(official_suite()[78:82]):
        Image.new("RGB", (64, 64)).save(write_prompt_folder(tmp_path / "set", number, spec) / "0000.png")
    result, code, _ = run("score", "set", "--out", "r.jsonl")
    assert code == 1
    assert "overall of 2 of 6 tasks" in result.stdout
    assert "NOT the full suite: 4 of 553 prompts" in result.stdout
    assert "549 of 553 prompts are missing: a photo of a bench" in result.stderr.replace("\n", " ")


class TestFlat:
    RECORD = '"tag": "single_object", "include": [{"class": "cup", "count": 1}]'

    def write(self, tmp_path, *lines):
        path = tmp_path / "meta.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return path

    def test_named(self, flat, tmp_path):
        meta = self.write(
            tmp_path,
            f'{{"filename": "c.jpg", "seed": 7, {self.RECORD}}}',
            '{"file_name": "a.png", "prompt": "a photo of a bench"}',
            '{"filename": "gone.png", "prompt": "a photo of a bench"}',
            '{"filename": "b.png", "prompt": "a photo of nothing known"}',
            "{broken",
        )
        folder = read_folder(flat, meta)
        assert [(item.filename, item.spec.prompt, item.seed) for item in folder.items] == [
            ("c.jpg", "a photo of a cup", 7),
            ("a.png", "a photo of a bench", None),
        ]
        text = "\n".join(folder.problems)
        assert "meta.jsonl line 3: expected the image gone.png" in text
        assert "meta.jsonl line 4: prompt: expected a prompt text of the official suite" in text
        assert "meta.jsonl line 5: expected JSON, got" in text

    def test_unlisted_images_are_said(self, flat, tmp_path):
        folder = read_folder(flat, self.write(tmp_path, '{"filename": "a.png", "prompt": "a photo of a bench"}'))
        assert folder.problems == ["2 images are not in the metadata file, such as b.png"]

    def test_dealt_in_order_of_names(self, flat, tmp_path):
        folder = read_folder(flat, self.write(tmp_path, '{"prompt": "a photo of a bench"}'))
        assert [(item.filename, item.index) for item in folder.items] == [("a.png", 0), ("b.png", 1), ("c.jpg", 2)]

    def test_dealing_needs_equal_shares(self, flat, tmp_path, run):
        meta = self.write(tmp_path, '{"prompt": "a photo of a bench"}', '{"prompt": "a photo of a cow"}')
        _, code, message = run("score", flat, "--metadata", meta)
        assert code == 2
        assert "3 images and 2 lines without names" in message
        assert "a.png and b.png, which are not named alike" in message
        assert '"file_name"' in message

    def test_scored(self, flat, tmp_path, run, lines):
        meta = self.write(tmp_path, f'{{"filename": "a.png", {self.RECORD}}}')
        run("score", flat, "--metadata", meta, "--out", "r.jsonl")
        assert [row["filename"] for row in lines(tmp_path / "r.jsonl")] == ["a.png"]


def start(folder, out, *more):
    command = [
        sys.executable,
        "-m",
        "geneval_reward",
        "score",
        str(folder),
        "--out",
        str(out),
        "--batch-size",
        "1",
        "--limit",
        "60",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        # A shell's background job, as CI may be, hands down that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_lines(path, count):
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "the process wrote nothing"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_stopped_run_is_resumed_and_nothing_is_scored_twice(images, tmp_path, signal_):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(60):
        os.symlink(images / f"{number % 8:05d}", many / f"{number:05d}")
    out = tmp_path / "r.jsonl"
    process = start(many, out)
    wait_for_lines(out, 5)
    process.send_signal(signal_)
    _, errors = process.communicate(timeout=60)
    if signal_ == signal.SIGINT:
        assert process.returncode == 1
        assert b"go on with --resume" in errors
        before = read_results(out).filenames
    else:
        before = [json.loads(line)["filename"] for line in out.read_bytes().split(b"\n")[:-1]]
    assert 5 <= len(before) < 60
    process = start(many, out, "--resume")
    stdout, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert b"images are in" in errors
    names = read_results(out).filenames
    assert names == [f"{number:05d}/samples/0000.png" for number in range(60)]
    assert b"overall" in stdout
    assert not stdout.startswith(b"scoring")  # progress is not data


@pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")
def test_another_runtime_gives_the_same_verdicts_and_is_another_judge(run, images, lines, tmp_path):
    assert run("score", images, "--out", "torch.jsonl", "--device", "cpu", "--limit", 8)[1] == 0
    other = ("--device", "cpu", "--limit", 8, "--runtime", "openvino")
    assert run("score", images, "--out", "openvino.jsonl", *other)[1] == 0
    torch_rows, openvino_rows = (lines(tmp_path / f"{name}.jsonl") for name in ("torch", "openvino"))
    assert [row["reason"] for row in torch_rows] == [row["reason"] for row in openvino_rows]
    _, code, message = run(
        "score", images, "--out", "torch.jsonl", "--resume", "--device", "cpu", "--runtime", "openvino"
    )
    assert code == 2
    assert "torch.jsonl" in message


def test_a_runtime_that_is_not_there(run, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    _, code, message = run("score", images, "--device", "cpu", "--runtime", "openvino")
    assert code == 2
    assert message.startswith("runtime: expected the package openvino, got ")
    assert message.endswith("pip install 'geneval-reward[openvino]'")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--runtime", "onnx"], "runtime: expected one of torch, openvino, got 'onnx'"),
        (
            ["--runtime", "openvino", "--backend", "mmdet"],
            "--runtime: expected openvino with lite, nanodet, paper, got it",
        ),
    ],
)
def test_a_wrong_runtime_is_refused(run, images, words, expected):
    _, code, message = run("score", images, *words)
    assert code == 2
    assert expected in message
