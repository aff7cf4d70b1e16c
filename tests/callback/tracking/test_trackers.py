from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from geneval_reward.callback.tracking import (
    MLFlowTracker,
    ScalarTracker,
    ScoreRecord,
    TensorBoardTracker,
    Tracking,
    WandbTracker,
    tracker_for,
    write_round,
)
from geneval_reward.callback.tracking.record import TABLE_COLUMNS
from geneval_reward.results import read_results
from geneval_reward.results.layout import read_folder


class Calls:
    """An experiment that offers some methods and writes down their calls."""

    def __init__(self, *names: str) -> None:
        self.log: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for name in names:
            setattr(self, name, lambda *a, name=name, **k: self.log.append((name, a, k)))

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments, _ in self.log if called == name]


class Logger:
    run_id = "run"

    def __init__(self, *names: str) -> None:
        self.experiment = Calls(*names)
        self.metrics: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((metrics, step))


WANDB = ("define_metric", "log_artifact", "log")
TENSORBOARD = ("add_image", "add_text", "add_scalar")
MLFLOW = ("log_image", "log_table", "log_artifact")


@pytest.mark.parametrize(
    ("names", "kind"),
    [(WANDB, WandbTracker), (TENSORBOARD, TensorBoardTracker), (MLFLOW, MLFlowTracker), ((), ScalarTracker)],
)
def test_by_capability(names: tuple[str, ...], kind: type) -> None:
    assert type(tracker_for(Logger(*names))) is kind


def test_table(record: ScoreRecord) -> None:
    rows = [dict(zip(TABLE_COLUMNS, row, strict=True)) for row in record.table()]
    assert [row["prompt"] for row in rows] == ["a photo of a red dog", "a photo of a cat"]
    assert [row["correct"] for row in rows] == [True, False]
    assert rows[1]["reason"] == "expected cat>=1, found 0"
    # Down to half the threshold, and of the asked classes only.
    assert [row["detections"] for row in rows] == ["dog 0.90 red", "cat 0.20"]
    assert rows[0]["seed"] == str(2**62)
    assert {row["step"] for row in rows} == {7}


def test_tensorboard(record: ScoreRecord) -> None:
    logger = Logger(*TENSORBOARD)
    tracker_for(logger).show(record, None)
    assert logger.metrics == [(dict(record.metrics), 7)]
    images = logger.experiment.named("add_image")
    assert [image[0] for image in images] == [
        "geneval/colors/a photo of a red dog",
        "geneval/single_object/a photo of a cat",
    ]
    assert images[0][1].dtype == np.uint8
    assert images[0][1].shape[2] == 3
    assert len(np.unique(images[0][1].reshape(-1, 3), axis=0)) > 1, "a box is drawn"
    (tag, text, step), *_ = logger.experiment.named("add_text")
    assert (tag, step) == ("geneval/samples", 7)
    assert "| a photo of a cat | single_object | False | expected cat&gt;=1, found 0 | cat 0.20 | 7 |" in text


def test_mlflow(record: ScoreRecord, tmp_path: Path) -> None:
    logger = Logger(*MLFLOW)
    tracker_for(logger).show(record, tmp_path / "results.jsonl")
    assert logger.metrics == [(dict(record.metrics), 7)]
    names = [call[2] for call in logger.experiment.named("log_image")]
    assert names == ["geneval/step-00000007/00000_0000.png", "geneval/step-00000007/00001_0000.png"]
    (run, table, name), *_ = logger.experiment.named("log_table")
    assert (run, name) == ("run", "geneval/step-00000007/samples.json")
    assert table["correct"] == [True, False]
    assert json.dumps(table)
    assert logger.experiment.named("log_artifact") == [
        ("run", str(tmp_path / "results.jsonl"), "geneval/step-00000007")
    ]


def test_csv_really(record: ScoreRecord, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    Tracking().show(record, [logger], None)
    logger.save()
    with next(tmp_path.glob("**/metrics.csv")).open() as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "geneval/overall": "0.5",
        "geneval/colors": "1.0",
        "geneval/n": "3.0",
        "geneval/seconds": "1.5",
        "step": "7",
    }


def test_files_without_any_logger(record: ScoreRecord, tmp_path: Path) -> None:
    folder = tmp_path / "geneval" / "step-00000007"
    Tracking().show(record, [], folder)
    results = read_results(folder / "results.jsonl")
    assert len(results) == 3
    assert results.identity.fingerprint == "abc123"
    assert results.seeds == [2**62, 2**62 + 1, 2**62 + 2]
    assert [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"))] == [
        "00000/samples/0000.png",
        "00001/samples/0000.png",
        "boxes/00000_0000.png",
        "boxes/00001_0000.png",
    ]
    with Image.open(folder / "00001/samples/0000.png") as image:
        assert image.getpixel((3, 3)) == (10, 0, 0), "as it was judged"
    again = read_folder(folder)  # as `geneval-reward score` reads it
    assert [(item.filename, item.spec.prompt) for item in again.items] == [
        ("00000/samples/0000.png", "a photo of a red dog"),
        ("00001/samples/0000.png", "a photo of a cat"),
    ]
    assert again.problems == []
    write_round(record, folder)  # the same step again, after a resume: replaced
    assert len(read_results(folder / "results.jsonl")) == 3


def test_each_logger_gets_its_turn_and_failures_are_named(record: ScoreRecord, tmp_path: Path) -> None:
    class Broken(Logger):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            raise OSError("disk is full")

    good = Logger()
    (tmp_path / "file").write_text("in the way")
    tracking, broken = Tracking(), Broken()
    with (
        pytest.warns(UserWarning, match=r"could not be shown by Broken \(OSError: disk is full\)"),
        pytest.raises(RuntimeError, match=r"files could not be written to .*file"),
    ):
        tracking.show(record, [broken, good], tmp_path / "file")
    assert good.metrics == [(dict(record.metrics), 7)]
    tracking.show(record, [broken, good], tmp_path / "folder")  # warned of once
    assert len(good.metrics) == 2
