"""Showing a round in W&B: scalars with a summary, pictures with boxes, a table, and an artifact."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from geneval_reward.callback.tracking.record import TABLE_COLUMNS, ScoreRecord, label, shown_boxes
from geneval_reward.judge.detections import Detections
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.vocabulary import CLASS_NAMES

_STEP: Final = "trainer/global_step"
# Larger is not better for these, so the run's summary keeps the last value.
_PLAIN: Final = ("n", "seconds", "half_width")

# W&B keeps one set of labels for all images under a key, so each image gets the whole set.
_LABELS: Final = dict(enumerate(CLASS_NAMES))


class WandbTracker:
    """Shows rounds in a W&B logger's run; it never starts a run itself.

    Args:
        logger: The logger; its `experiment` is a W&B run.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._defined: set[str] = set()

    @staticmethod
    def fits(experiment: Any) -> bool:
        """Return whether the experiment has the methods of a W&B run."""
        return all(callable(getattr(experiment, name, None)) for name in ("define_metric", "log_artifact", "log"))

    def show(self, record: ScoreRecord, results: Path | None) -> None:
        """Log a round as one entry of the run's history."""
        import wandb

        self._define(record)
        shown = record.shown
        content: dict[str, Any] = dict(record.metrics)
        if shown:
            images = [
                wandb.Image(
                    sample.image,
                    caption=_caption(sample.verdict),
                    boxes={"detections": boxes(sample.verdict)},
                    masks=masks(sample.verdict),
                )
                for sample in shown
            ]
            rows = record.table()
            for row, image in zip(rows, images, strict=True):
                row[TABLE_COLUMNS.index("image")] = image
            media = re.sub(r"[^\w./ -]", "-", record.name)  # W&B turns tables into artifacts named after their key
            content[f"{media}/images"] = images
            content[f"{media}/samples"] = wandb.Table(columns=list(TABLE_COLUMNS), data=rows)
        self._logger.log_metrics(content, record.step)
        if results is not None:
            self._log_artifact(record, results)

    def _define(self, record: ScoreRecord) -> None:
        run, prefix = self._logger.experiment, getattr(self._logger, "_prefix", "")
        for key in record.metrics:
            if key not in self._defined:
                self._defined.add(key)
                name = f"{prefix}{self._logger.LOGGER_JOIN_CHAR}{key}" if prefix else key
                summary = None if key.rpartition("/")[2] in _PLAIN else "max"
                run.define_metric(name, step_metric=_STEP, summary=summary)

    def _log_artifact(self, record: ScoreRecord, results: Path) -> None:
        import wandb

        run = self._logger.experiment
        artifact = wandb.Artifact(
            re.sub(r"[^A-Za-z0-9._-]+", "-", f"{record.name}-results-{run.id}"),
            type="geneval-results",
            metadata={
                "step": record.step,
                "fingerprint": dict(record.fingerprint),
                "fingerprint_id": record.fingerprint_id,
                "metrics": dict(record.metrics),
            },
        )
        artifact.add_file(str(results), name="results.jsonl")
        run.log_artifact(artifact, aliases=["latest", f"step-{record.step}"])


def boxes(verdict: Verdict) -> dict[str, Any]:
    """Convert a verdict's detections to W&B boxes, in fractions of the image (its "percent" domain) with class labels."""
    detections = verdict.detections
    width, height = detections.image_size
    numbers, labels = _numbered(detections)
    data = []
    for box in shown_boxes(verdict):
        x1, y1, x2, y2 = (detections.xyxy[box.row] / np.array([width, height, width, height])).clip(0, 1).tolist()
        data.append(
            {
                "position": {"minX": x1, "maxX": x2, "minY": y1, "maxY": y2},
                "class_id": numbers[box.row],
                "box_caption": label(box),
                "scores": {"confidence": box.confidence},
            }
        )
    return {"box_data": data, "class_labels": labels}


def masks(verdict: Verdict) -> dict[str, Any] | None:
    """Merge masks into one image of class numbers (0 is none, else class + 1), most confident on top; None without masks."""
    detections = verdict.detections
    if detections.mask is None:
        return None
    numbers, labels = _numbered(detections)
    painted = np.zeros(detections.mask.shape[1:], np.uint8)
    for box in sorted(shown_boxes(verdict), key=lambda box: box.confidence):
        painted[detections.mask[box.row]] = numbers[box.row] + 1
    return {"detections": {"mask_data": painted, "class_labels": {row + 1: name for row, name in labels.items()}}}


def _numbered(detections: Detections) -> tuple[list[int], dict[int, str]]:
    """Number the classes of the rows as the 80 are, or in the order of their names where a detector knows others."""
    if detections.names == CLASS_NAMES:
        return detections.class_id.tolist(), _LABELS
    there = sorted(set(detections.class_names))
    return [there.index(name) for name in detections.class_names], dict(enumerate(there))


def _caption(verdict: Verdict) -> str:
    return f"{verdict.spec.prompt}: {'correct' if verdict.correct else verdict.reason}"
