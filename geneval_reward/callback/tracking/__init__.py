"""What a logger can show of a round of scores: W&B, TensorBoard, MLflow, CSV, none; files on disk always."""

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
