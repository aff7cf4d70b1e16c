"""Building blocks for the training recipes; the methods themselves are the files in `recipes/`.

policy     a diffusers pipeline as a flow policy: SD3, FLUX and the pocket model
unified    models that paint and answer: the protocol, and the pocket token model;  janus  Janus of transformers
weights    the policy's weights in three roles (trained, old, reference) and their average
data       groups of prompts, split over ranks;  captions  prompts with latents, for training without a reward
annotated  images with captions and rewards
rewards    images scored while the next ones are sampled
epoch      the batches of an epoch and their advantages
ranks      errors, gradients and logged numbers across ranks;  sharding  weights spread over ranks
reward_bins  rewards as levels;  reward_tokens  tokens for them and guidance by them;  muon  an optimizer for small models
recipes    finds, lists, copies and loads the recipe files;  cli  their command line
lora       exports trained adapters;  audit  a second judge;  reader_audit  a judge of a unified model's answers
tiny       random pipelines for tests
"""

from geneval_reward.train.annotated import AnnotatedBatch, AnnotatedImages, reward_names
from geneval_reward.train.captions import CaptionBatch, Captions, NoisedBatch, add_noise
from geneval_reward.train.cli import EpochCheckpoint, RecipeCLI
from geneval_reward.train.data import PromptGroups, RolloutBatch, check_sampler
from geneval_reward.train.epoch import Batch, Samples, deal_advantages, split_evenly, velocity_norm
from geneval_reward.train.muon import MuonAndAdamW
from geneval_reward.train.policy import Conditions, FlowPolicy
from geneval_reward.train.recipes import load_recipe
from geneval_reward.train.reward_bins import RewardBins
from geneval_reward.train.reward_tokens import RewardGuidance, RewardTokens
from geneval_reward.train.rewards import RewardQueue, Scores, find_reward, gather_scores, log_epoch
from geneval_reward.train.sharding import FSDP2Strategy, check_strategy, idle_passes, refuse_sharded
from geneval_reward.train.unified import (
    UNIFIED_METHODS,
    AnswerReward,
    Painted,
    PocketUnified,
    UnifiedModel,
    check_unified,
)
from geneval_reward.train.update import (
    MetricSums,
    clip_gradients,
    errors_together,
    local_gradients,
    sum_counts,
    sum_gradients,
)
from geneval_reward.train.weights import (
    PolicyAverage,
    PolicyWeights,
    Role,
    check_same_tensors,
    load_policy_state,
    policy_state,
)

__all__ = [
    "UNIFIED_METHODS",
    "AnnotatedBatch",
    "AnnotatedImages",
    "AnswerReward",
    "Batch",
    "CaptionBatch",
    "Captions",
    "Conditions",
    "EpochCheckpoint",
    "FSDP2Strategy",
    "FlowPolicy",
    "MetricSums",
    "MuonAndAdamW",
    "NoisedBatch",
    "Painted",
    "PocketUnified",
    "PolicyAverage",
    "PolicyWeights",
    "PromptGroups",
    "RecipeCLI",
    "RewardBins",
    "RewardGuidance",
    "RewardQueue",
    "RewardTokens",
    "Role",
    "RolloutBatch",
    "Samples",
    "Scores",
    "UnifiedModel",
    "add_noise",
    "check_same_tensors",
    "check_sampler",
    "check_strategy",
    "check_unified",
    "clip_gradients",
    "deal_advantages",
    "errors_together",
    "find_reward",
    "gather_scores",
    "idle_passes",
    "load_policy_state",
    "load_recipe",
    "local_gradients",
    "log_epoch",
    "policy_state",
    "refuse_sharded",
    "reward_names",
    "split_evenly",
    "sum_counts",
    "sum_gradients",
    "velocity_norm",
]
