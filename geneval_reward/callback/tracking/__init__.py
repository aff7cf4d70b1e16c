"""Showing a round of scores in W&B, TensorBoard, MLflow, CSV or no logger, and always as files on disk."""

from geneval_reward.callback.tracking.disk import run_folder, write_round
from geneval_reward.callback.tracking.record import TABLE_COLUMNS, Sample, ScoreRecord
from geneval_reward.callback.tracking.trackers import (
    MLFlowTracker,
    ScalarTracker,
    TensorBoardTracker,
    Tracker,
    Tracking,
    tracker_for,
)
from geneval_reward.callback.tracking.weights_and_biases import WandbTracker

__all__ = [
    "TABLE_COLUMNS",
    "MLFlowTracker",
    "Sample",
    "ScalarTracker",
    "ScoreRecord",
    "TensorBoardTracker",
    "Tracker",
    "Tracking",
    "WandbTracker",
    "run_folder",
    "tracker_for",
    "write_round",
]
