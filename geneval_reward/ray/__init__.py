"""Scoring on a Ray cluster: whole data sets by resumable shards, and a pool of actors as a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geneval_reward.ray.dataset import DatasetScores, score_dataset
    from geneval_reward.ray.scorer import RayGenEvalReward

__all__ = ["DatasetScores", "RayGenEvalReward", "score_dataset"]


def __getattr__(name: str) -> Any:
    if name == "RayGenEvalReward":
        from geneval_reward.ray.scorer import RayGenEvalReward

        return RayGenEvalReward
    if name in ("DatasetScores", "score_dataset"):
        from geneval_reward.ray import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'geneval_reward.ray' has no attribute {name!r}")
