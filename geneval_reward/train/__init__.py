"""Reinforcement learning of flow models on Lightning: DiffusionNFT and Flow-GRPO for SD3, FLUX and the pocket model.

DiffusionNFT, FlowGRPO      LightningModules, one file each; `recipes/` has their command lines
PromptGroups                the LightningDataModule that both need
FlowRL                      what they share; subclass it for a method of your own
"""

from geneval_reward.train.data import PromptGroups, RolloutBatch
from geneval_reward.train.diffusion_nft import DiffusionNFT
from geneval_reward.train.epoch import Chunk, Epoch
from geneval_reward.train.flow_grpo import FlowGRPO
from geneval_reward.train.module import FlowRL
from geneval_reward.train.policy import Conditions, FlowPolicy, load_pipeline
from geneval_reward.train.weights import PolicyAverage, PolicyWeights

__all__ = [
    "Chunk",
    "Conditions",
    "DiffusionNFT",
    "Epoch",
    "FlowGRPO",
    "FlowPolicy",
    "FlowRL",
    "PolicyAverage",
    "PolicyWeights",
    "PromptGroups",
    "RolloutBatch",
    "load_pipeline",
]
