"""The reward: what a trainer consumes, and the shapes in which other trainers want it."""

from geneval_reward.reward.batch import Reward, RewardBatch
from geneval_reward.reward.composite import CompositeReward
from geneval_reward.reward.parts import CompositeBatch
from geneval_reward.reward.reward import GenEvalReward

__all__ = ["CompositeBatch", "CompositeReward", "GenEvalReward", "Reward", "RewardBatch"]
