"""One reward in the shapes in which other trainers call theirs, one trainer a file.

| trainer | what to give it |
|---|---|
| TRL | `TRLReward`, `AsyncTRLReward` |
| Flow-GRPO, DiffusionNFT, DDPO | `geneval_reward.reward.trainers.flow_grpo` |
| Flow-Factory | `geneval_reward.reward.trainers.flow_factory.GenEvalRewardModel` |
| verl-omni | `geneval_reward.reward.trainers.verl_omni.compute_score` |
| Tencent UniRL, reward service | `geneval_reward.reward.trainers.unirl.UniRLScorer` |
| Tencent UniRL, in the trainer | `geneval_reward.reward.trainers.unirl_local.UniRLLocalReward` |

None imports the trainer it is for before it is used in it. Every view takes a `GenEvalReward` or a
`CompositeReward`, is safe to call from several threads, and pickles where its reward does.
"""

from geneval_reward.reward.trainers.flow_grpo import GenEvalScores, MultiScore, PlainScore
from geneval_reward.reward.trainers.trl import AsyncTRLReward, TRLReward
from geneval_reward.reward.trainers.unirl import UniRLScorer
from geneval_reward.reward.trainers.unirl_local import UniRLLocalReward

__all__ = [
    "AsyncTRLReward",
    "GenEvalScores",
    "MultiScore",
    "PlainScore",
    "TRLReward",
    "UniRLLocalReward",
    "UniRLScorer",
]
