"""Scoring on a Ray cluster: whole data sets by resumable shards, and a pool of actors as a reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geneval_reward.cluster.dataset import DatasetScores, score_dataset
    from geneval_reward.cluster.reward import RayGenEvalReward

__all__ = ["DatasetScores", "RayGenEvalReward", "score_dataset"]


def __getattr__(name: str) -> Any:
    if name == "RayGenEvalReward":
        from geneval_reward.cluster.reward import RayGenEvalReward

        return RayGenEvalReward
    if name in ("DatasetScores", "score_dataset"):
        from geneval_reward.cluster import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'geneval_reward.cluster' has no attribute {name!r}")
