"""Trackers that show as much as a logger can, chosen by capability and not by name; the rest is on disk."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from geneval_reward.callback.tracking.disk import write_round
from geneval_reward.callback.tracking.record import TABLE_COLUMNS, ScoreRecord
from geneval_reward.callback.tracking.weights_and_biases import WandbTracker
from geneval_reward.results.drawing import draw_verdict
from geneval_reward.results.tables import markdown_table


class Tracker(Protocol):
    """Shows rounds in one logger."""

    def show(self, record: ScoreRecord, results: Path | None) -> None:
        """Show a round.

        Args:
            record: The round.
            results: Its results file, if one was written.
        """
        ...


class ScalarTracker:
    """Tracker for loggers that accept only scalars, such as CSV.

    Args:
        logger: A Lightning logger.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def show(self, record: ScoreRecord, results: Path | None) -> None:
        """Log the scalars."""
        self.logger.log_metrics(dict(record.metrics), record.step)


class TensorBoardTracker(ScalarTracker):
    """Shows scalars, pictures with boxes and a text table, if the experiment is a TensorBoard `SummaryWriter`."""

    @staticmethod
    def fits(experiment: Any) -> bool:
        """Return whether the experiment has the methods of a `SummaryWriter`."""
        return all(callable(getattr(experiment, name, None)) for name in ("add_image", "add_text"))

    def show(self, record: ScoreRecord, results: Path | None) -> None:
        """Log scalars, one picture per shown sample under a constant key, and the table in Markdown."""
        super().show(record, results)
        writer = self.logger.experiment
        for sample in record.shown:
            assert sample.image is not None
            picture = np.asarray(draw_verdict(sample.image, sample.verdict))
            tag = f"{record.name}/{sample.verdict.spec.tag}/{sample.verdict.spec.prompt}"
            writer.add_image(tag, picture, record.step, dataformats="HWC")
        if record.shown:
            writer.add_text(f"{record.name}/samples", markdown(record), record.step)


class MLFlowTracker(ScalarTracker):
    """Shows scalars, pictures with boxes, a table and the results file, if the experiment is an `MlflowClient`."""

    @staticmethod
    def fits(experiment: Any) -> bool:
        """Return whether the experiment has the methods of an `MlflowClient`."""
        return all(callable(getattr(experiment, name, None)) for name in ("log_image", "log_table", "log_artifact"))

    def show(self, record: ScoreRecord, results: Path | None) -> None:
        """Log scalars, and everything else as artifacts in a folder per step."""
        super().show(record, results)
        client, run = self.logger.experiment, self.logger.run_id
        folder = f"{record.name}/step-{record.step:08d}"
        for sample in record.shown:
            assert sample.image is not None
            name = f"{folder}/{sample.filename.replace('/samples/', '_')}"
            client.log_image(run, draw_verdict(sample.image, sample.verdict), name)
        if record.shown:
            columns = [name for name in TABLE_COLUMNS if name != "image"]
            picked = [TABLE_COLUMNS.index(name) for name in columns]
            rows = record.table()
            table = {name: [row[at] for row in rows] for name, at in zip(columns, picked, strict=True)}
            client.log_table(run, table, f"{folder}/samples.json")
        if results is not None:
            client.log_artifact(run, str(results), folder)


def tracker_for(logger: Any) -> Tracker:
    """Choose the tracker that shows the most in a logger, by the capabilities of its `experiment`."""
    experiment = getattr(logger, "experiment", None)
    for kind in (WandbTracker, TensorBoardTracker, MLFlowTracker):
        if kind.fits(experiment):
            return kind(logger)
    return ScalarTracker(logger)


class Tracking:
    """Shows rounds on disk and in every logger, even if one of them fails.

    A logger's failure does not end a run whose score was computed; it causes one warning per logger. Each logger keeps one
    tracker, so that one-time set-up (such as W&B's metric definitions) is done once.
    """

    def __init__(self) -> None:
        self._trackers: dict[int, Tracker] = {}
        self._warned: set[int] = set()

    def show(self, record: ScoreRecord, loggers: Sequence[Any], folder: Path | None) -> None:
        """Show a round. Call this on rank 0 only.

        Args:
            record: The round.
            loggers: Lightning loggers; may be empty.
            folder: Folder for the round's files; None to write none.

        Raises:
            RuntimeError: If the files could not be written; raised after all loggers were tried.
        """
        results, failure = None, None
        if folder is not None:
            try:
                results = write_round(record, folder)
            except Exception as error:  # noqa: BLE001  the loggers come next
                failure = error
        for logger in loggers:
            try:
                self._show(logger, record, results)
            except Exception as error:  # noqa: BLE001  whatever a logger raises must not end the run
                self._warn(logger, error)
        if failure is not None:
            raise RuntimeError(
                f"the score was computed, but its files could not be written to {folder}: {type(failure).__name__}: {failure}"
            ) from failure

    def _show(self, logger: Any, record: ScoreRecord, results: Path | None) -> None:
        if id(logger) not in self._trackers:
            self._trackers[id(logger)] = tracker_for(logger)
        self._trackers[id(logger)].show(record, results)

    def _warn(self, logger: Any, error: Exception) -> None:
        if id(logger) in self._warned:
            return
        self._warned.add(id(logger))
        warnings.warn(
            f"the score was computed, but could not be shown by {type(logger).__name__} ({type(error).__name__}: {error}); "
            "training goes on, and further failures of this logger are not mentioned",
            stacklevel=4,
        )


def markdown(record: ScoreRecord) -> str:
    """Format the table of samples without pictures as Markdown."""
    columns = [name for name in TABLE_COLUMNS if name != "image"]
    picked = [TABLE_COLUMNS.index(name) for name in columns]
    rows = [[str(row[at]).replace("\n", "; ") for at in picked] for row in record.table()]
    return markdown_table(columns, rows)
