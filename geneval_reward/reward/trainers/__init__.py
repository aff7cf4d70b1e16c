"""Views of one reward for other trainers, one file per trainer.

| trainer | what to give it |
|---|---|
| TRL | `TRLReward`, `AsyncTRLReward` |
| Flow-GRPO, DiffusionNFT, DDPO | `geneval_reward.reward.trainers.flow_grpo` |
| Flow-Factory | `geneval_reward.reward.trainers.flow_factory.GenEvalRewardModel` |
| verl-omni | `geneval_reward.reward.trainers.verl_omni.compute_score` |
| Tencent UniRL, reward service | `geneval_reward.reward.trainers.unirl.UniRLScorer` |
| Tencent UniRL, in the trainer | `geneval_reward.reward.trainers.unirl.UniRLLocalReward` |

A view imports its trainer only when the trainer uses it. Every view takes a `GenEvalReward` or a `CompositeReward`, may be
called from several threads, and can be pickled if its reward can.
"""

from geneval_reward.reward.trainers.flow_grpo import GenEvalScores, MultiScore, PlainScore
from geneval_reward.reward.trainers.trl import AsyncTRLReward, TRLReward
from geneval_reward.reward.trainers.unirl import UniRLLocalReward, UniRLScorer

__all__ = [
    "AsyncTRLReward",
    "GenEvalScores",
    "MultiScore",
    "PlainScore",
    "TRLReward",
    "UniRLLocalReward",
    "UniRLScorer",
]
