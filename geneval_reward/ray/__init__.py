"""Scoring on a Ray cluster: a scorer backed by a pool of actors, and whole data sets in resumable shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geneval_reward.ray.dataset import DatasetScores, score_dataset
    from geneval_reward.ray.scorer import RayScorer

__all__ = ["DatasetScores", "RayScorer", "score_dataset"]


def __getattr__(name: str) -> Any:
    if name == "RayScorer":
        from geneval_reward.ray.scorer import RayScorer

        return RayScorer
    if name in ("DatasetScores", "score_dataset"):
        from geneval_reward.ray import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'geneval_reward.ray' has no attribute {name!r}")
