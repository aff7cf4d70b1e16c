"""``geneval-reward generate``: the benchmark's layout, resumed, and refusals."""

import json

import pytest

from geneval_reward.folder import read_folder
from geneval_reward.pocket import load_pipeline, pocket_suite


@pytest.fixture
def few(tmp_path):
    """Three prompts of the pocket suite as a file."""
    specs = [pocket_suite()[index] for index in (0, 40, 150)]
    path = tmp_path / "few.jsonl"
    path.write_text("".join(spec.to_json() + "\n" for spec in specs))
    return path, specs


def make(run, few, out, *args):
    return run("generate", "pocket", "--suite", few[0], "--out", out, "-n", 2, "--steps", 2, *args)


def test_layout_and_resuming(run, few, tmp_path) -> None:
    result, code, _ = make(run, few, tmp_path / "a")
    assert code == 0
    assert "6 images of 3 prompts" in result.stdout
    folder = read_folder(tmp_path / "a")
    assert [item.spec for item in folder.items] == [spec for spec in few[1] for _ in range(2)]
    assert [item.filename for item in folder.items[:2]] == ["00000/samples/0000.png", "00000/samples/0001.png"]
    before = {item.filename: item.path.read_bytes() for item in folder.items}
    assert len(set(before.values())) == 6
    lost = folder.items[3].path
    lost.unlink()
    result, code, messages = make(run, few, tmp_path / "a", "--batch-size", 1)
    assert code == 0
    assert "5 of 6 images are there already" in messages
    assert {item.filename: item.path.read_bytes() for item in read_folder(tmp_path / "a").items} == before
    make(run, few, tmp_path / "b", "--seed", 1)
    assert before["00000/samples/0000.png"] != (tmp_path / "b" / "00000/samples/0000.png").read_bytes()


def test_a_saved_pipeline_makes_the_same_images(run, few, tmp_path) -> None:
    load_pipeline().save_pretrained(tmp_path / "saved")
    make(run, few, tmp_path / "a")
    _, code, _ = run(
        "generate",
        tmp_path / "saved",
        "--suite",
        few[0],
        "-o",
        tmp_path / "b",
        "-n",
        2,
        "--steps",
        2,
        "--device",
        "cpu",
    )
    assert code == 0
    for one, other in zip(read_folder(tmp_path / "a").items, read_folder(tmp_path / "b").items, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_the_pocket_suite_in_full(run, tmp_path) -> None:
    _, code, _ = run("generate", "pocket", "--suite", "pocket", "-o", tmp_path / "a", "-n", 1, "--steps", 1)
    assert code == 0
    assert [item.spec for item in read_folder(tmp_path / "a").items] == list(pocket_suite())


def test_one_folder_holds_one_run(run, few, tmp_path) -> None:
    make(run, few, tmp_path / "a")
    _, code, messages = make(run, few, tmp_path / "a", "--seed", 7)
    assert code == 2
    assert "expected seed 0, got 7; choose another folder" in " ".join(messages.split())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    _, code, messages = make(run, few, tmp_path / "full")
    assert code == 2
    assert "expected a new or empty folder" in " ".join(messages.split())
    assert json.loads((tmp_path / "a" / "generate.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nothing-here", "--suite", "pocket"), "expected 'pocket', the folder of a diffusers pipeline"),
        (("pocket", "--suite", "pockets"), "expected official, pocket or a file of records, got 'pockets'"),
        (("pocket", "--suite", "pocket", "--dtype", "fp8"), "expected auto, fp32, fp16, bf16, got 'fp8'"),
        (("pocket", "--suite", "empty.jsonl"), "expected at least one record"),
        (("pocket", "--suite", "broken.jsonl"), "expected one of single_object"),
    ],
)
def test_bad_input(run, tmp_path, args, message) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.jsonl").write_text('{"tag": "colours"}\n')
    _, code, messages = run("generate", *args, "--out", tmp_path / "out")
    assert code == 2
    assert message in " ".join(messages.replace("│", " ").split())
