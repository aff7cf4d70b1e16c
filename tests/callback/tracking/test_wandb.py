"""A real offline run of W&B, read back from its file."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geneval_reward.callback.tracking import ScoreRecord, Tracking
from geneval_reward.callback.tracking.weights_and_biases import boxes, masks
from geneval_reward.judge import Detections, judge
from geneval_reward.prompts import CLASS_IDS, PromptSpec

wandb = pytest.importorskip("wandb")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

_BLOCK, _HEADER, _FILE_HEADER = 32768, 7, 7


def records(path: Path) -> Iterator[Any]:
    """Records of a `.wandb` file: protocol buffers in the log format of LevelDB, after seven bytes of the file's own."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), _FILE_HEADER, b""
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


@pytest.fixture
def history(record: ScoreRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What two rounds leave in the run's file."""
    from lightning.pytorch.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    logger = WandbLogger(
        project="test", save_dir=tmp_path, settings=wandb.Settings(console="off", x_disable_stats=True)
    )
    logger.log_metrics({"loss": 1.0}, step=3)
    tracking = Tracking()
    later = replace(record, step=9, metrics={**record.metrics, "geneval/overall": 0.25})
    tracking.show(record, [logger], tmp_path / "first")
    tracking.show(later, [logger], tmp_path / "second")
    run = logger.experiment
    folder = Path(run.dir).parent
    run.finish()
    (file,) = folder.glob("*.wandb")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1, "no run of our own"
    found: dict[str, Any] = {"history": [], "metrics": {}, "artifacts": [], "folder": folder, "summary": {}}
    for item in finished(file):
        kind = item.WhichOneof("record_type")
        if kind == "history":
            # Nested keys, and keys with slashes, come as paths.
            row = {"/".join(entry.nested_key) or entry.key: json.loads(entry.value_json) for entry in item.history.item}
            found["history"].append(row)
        elif kind == "metric":
            found["metrics"][item.metric.name] = item.metric
        elif kind == "artifact":
            found["artifacts"].append(item.artifact)
        elif kind == "summary":
            found["summary"] |= {entry.key: json.loads(entry.value_json) for entry in item.summary.update}
    return found


def finished(file: Path) -> list[Any]:
    """All records, once the service has written the last of them, which it may do a little after `finish` returns."""
    for _ in range(150):
        found = list(records(file))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.2)
    raise AssertionError(f"no end in {file}")


def below(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


@pytest.mark.slow
def test_offline_run_is_complete(history: dict[str, Any], record: ScoreRecord) -> None:
    rows = [row for row in history["history"] if "geneval/overall" in row]
    assert [(row["trainer/global_step"], row["geneval/overall"]) for row in rows] == [(7, 0.5), (9, 0.25)]
    overall = history["metrics"]["geneval/overall"]
    assert overall.step_metric == "trainer/global_step"
    assert overall.summary.max
    assert not overall.summary.min
    assert not history["metrics"]["geneval/n"].summary.max
    assert history["metrics"]["geneval/n"].step_metric == "trainer/global_step"

    tables = [below(row, "geneval/samples/") for row in rows]
    assert [table["_type"] for table in tables] == ["table-file", "table-file"]
    assert tables[0]["path"] != tables[1]["path"], "one table a round"
    table = json.loads((history["folder"] / "files" / tables[0]["path"]).read_text())
    assert table["columns"] == ["prompt", "task", "image", "correct", "reason", "detections", "step", "seed"]
    assert [line[0] for line in table["data"]] == ["a photo of a red dog", "a photo of a cat"]
    assert [line[3] for line in table["data"]] == [True, False]
    # That file is a preview; the table with its pictures and boxes is an artifact of the run.
    whole = [artifact for artifact in history["artifacts"] if artifact.type == "run_table"]
    assert len(whole) == 2
    files = {entry.path: Path(entry.local_path) for entry in whole[0].manifest.contents}
    table = json.loads(next(local for path, local in files.items() if path.endswith(".table.json")).read_text())
    cell = table["data"][0][2]
    assert files[cell["path"]].is_file()
    assert [box["box_caption"] for box in cell["boxes"]["detections"]] == ["dog 0.90 red"]

    images = below(rows[0], "geneval/images/")
    assert images["count"] == 2
    assert images["captions"] == ["a photo of a red dog: correct", "a photo of a cat: expected cat>=1, found 0"]
    assert all((history["folder"] / "files" / name).is_file() for name in images["filenames"])
    box_file = history["folder"] / "files" / images["all_boxes"][0]["detections"]["path"]
    (box,) = json.loads(box_file.read_text())["box_data"]
    assert box["position"] == {"minX": 0.25, "maxX": 0.75, "minY": 0.25, "maxY": 1.0}
    assert box["class_id"] == CLASS_IDS["dog"]

    assert len(history["artifacts"]) >= 2
    results = [artifact for artifact in history["artifacts"] if artifact.type == "geneval-results"]
    assert [entry.path for entry in results[0].manifest.contents] == ["results.jsonl"]
    metadata = json.loads(results[0].metadata)
    assert metadata["fingerprint"] == {"backend": "fake", "detector": {"sha256": "00"}}
    assert metadata["fingerprint_id"] == "abc123"
    assert metadata["step"] == 7
    assert sorted(results[1].aliases) == ["latest", "step-9"]


def test_boxes_are_fractions_with_labels(record: ScoreRecord) -> None:
    found = boxes(record.samples[1].verdict)
    # The same for every image: W&B keeps one set of labels for all images of a key.
    assert found["class_labels"] == boxes(record.samples[0].verdict)["class_labels"]
    assert found["class_labels"][CLASS_IDS["cat"]] == "cat"
    (box,) = found["box_data"]
    assert box["position"] == {"minX": 0.0, "maxX": 0.5, "minY": 0.0, "maxY": 0.5}
    assert box["scores"] == {"confidence": pytest.approx(0.2)}
    assert box["box_caption"] == "cat 0.20"
    wandb.Image(record.samples[1].image, boxes={"detections": found})
    assert boxes(record.samples[2].verdict)["box_data"] == []


def test_masks_when_there_are_any(record: ScoreRecord) -> None:
    assert masks(record.samples[0].verdict) is None
    spec = PromptSpec.parse(
        {"tag": "two_object", "include": [{"class": "dog", "count": 1}, {"class": "person", "count": 1}]}
    )
    mask = np.zeros((2, 20, 40), np.bool_)
    mask[0, :, :10] = True
    mask[1, :, 5:20] = True
    detections = Detections(
        np.array([[0, 0, 10, 20], [5, 0, 20, 20]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array([CLASS_IDS["dog"], CLASS_IDS["person"]], np.int64),
        (40, 20),
        mask,
    )
    verdict = replace(judge(spec, detections), detections=detections)
    found = masks(verdict)
    assert found is not None
    painted = found["detections"]["mask_data"]
    dog, person = CLASS_IDS["dog"] + 1, CLASS_IDS["person"] + 1
    assert [int(painted[0, x]) for x in (2, 7, 15, 30)] == [dog, dog, person, 0]
    assert {found["detections"]["class_labels"][number] for number in (dog, person)} == {"dog", "person"}
    wandb.Image(record.samples[0].image, masks=found)
