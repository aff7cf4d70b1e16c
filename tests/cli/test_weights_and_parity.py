"""`weights` and `parity` on the small checkpoint; their detectors are tested in tests/vision."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from geneval_reward.cli.parity import parity
from geneval_reward.cli.weights import app as weights_app
from geneval_reward.errors import GenEvalError

DATA = Path(__file__).parents[1] / "data" / "mask2former"
CHECKPOINT = DATA / "checkpoint_2x.pth"

Call = Callable[..., tuple[Result, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Call]:
    monkeypatch.setenv("GENEVAL_REWARD_CACHE", str(tmp_path / "cache"))
    for name in ("GENEVAL_REWARD_MASK2FORMER", "GENEVAL_REWARD_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    app = typer.Typer()
    app.add_typer(weights_app, name="weights")
    app.command("parity")(parity)

    def run(*args: object) -> tuple[Result, str]:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit | GenEvalError):
            raise result.exception
        return result, str(result.exception) if isinstance(result.exception, GenEvalError) else result.stderr

    return run


def test_list(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    text = call("weights", "list")[0].stdout
    for part in ("743b7d99", "c9d0c4f2", "GENEVAL_REWARD_MASK2FORMER", "GENEVAL_REWARD_CLIP", "GENEVAL_REWARD_CACHE"):
        assert part in text
    rows = json.loads(call("weights", "list", "--json")[0].stdout)
    assert [row["path"] for row in rows] == [None, None]
    monkeypatch.setenv("GENEVAL_REWARD_MASK2FORMER", str(CHECKPOINT))
    assert json.loads(call("weights", "list", "--json")[0].stdout)[0]["path"] == str(CHECKPOINT)


def test_fetch(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, error = call("weights", "fetch", "nonsense")
    assert result.exit_code == 2
    assert "mask2former" in error
    monkeypatch.setenv("GENEVAL_REWARD_OFFLINE", "1")
    assert "downloads are off" in call("weights", "fetch")[1]
    name = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
    (tmp_path / name).write_bytes(b"")
    assert call("weights", "fetch", "--folder", tmp_path)[0].stdout.strip() == str(tmp_path / name)


def test_verify(call: Call) -> None:
    result, _ = call("weights", "verify", CHECKPOINT, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1, "sound, but not published"
    assert (report["published"], report["layout"], report["tensors"]) == (False, "mmdet 2.x", 238)
    assert "mmdet 2.x" in call("weights", "verify", CHECKPOINT)[0].stdout


def test_verify_finds_faults(call: Call, tmp_path: Path) -> None:
    assert "downloads are off" in call("weights", "verify")[1]
    (tmp_path / "bad.pth").write_bytes(CHECKPOINT.read_bytes()[:100_000])
    assert "cannot be read" in call("weights", "verify", tmp_path / "bad.pth")[1]
    assert "expected a cat" in call("weights", "verify", CHECKPOINT, "--self-test")[1]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in range(2):
        noise = np.random.default_rng(index).integers(0, 256, (12, 400, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), noise)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*unverified weights:UserWarning")
def test_parity(call: Call, pictures: Path) -> None:
    same, note = call(
        "parity", pictures, "--backends", "paper,paper@fp32", "--checkpoint", CHECKPOINT, "--device", "cpu"
    )
    assert same.exit_code == 0
    assert "2 of 2 images with equal counts" in note
    assert same.stdout.count("mask IoU 1.0000") == 2
    arguments = ("--backends", "paper,paper@bf16", "--checkpoint", CHECKPOINT, "--device", "cpu", "--json")
    result, _ = call("parity", pictures / "0.png", pictures / "1.png", *arguments)
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 2
    assert result.exit_code == int(not all(row["same"] for row in rows))
    assert all(row["confidence"] > 0 for row in rows), "bf16 is not fp32"
    assert len(call("parity", pictures, "--limit", 1, *arguments)[0].stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("--backends", "paper"), "expected two"),
        (("--backends", "paper,nonsense"), "expected paper, mmdet, lite or nanodet"),
        (("nowhere.png",), "got nothing at"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*unverified weights:UserWarning")
def test_parity_wrong_usage(call: Call, pictures: Path, arguments: tuple[str, ...], match: str) -> None:
    result, error = call("parity", pictures, *arguments, "--checkpoint", CHECKPOINT, "--device", "cpu")
    assert result.exit_code == 2
    assert match in error


def test_parity_without_images(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result, error = call("parity", tmp_path / "empty", "--backends", "paper,paper")
    assert result.exit_code == 2
    assert "got none" in " ".join(error.replace("│", " ").split())
