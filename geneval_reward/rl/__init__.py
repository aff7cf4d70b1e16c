"""The mathematics of reinforcement learning on flow and token models, as small pure functions; no trainer, only torch.

    rewards --> group_advantages --> optimality_probability --> nft_loss        (DiffusionNFT, sample_ode rollouts)
                                 \\-> ratio_loss / guarded_ratio_loss            (Flow-GRPO, sample_sde rollouts)
                                  `-> ratio_loss with categorical_log_prob     (GRPO on token models)

The functions of flow models take latents of any shape (B, ...), one time per sample, and a plain `velocity(x, t)`, so a diffusers
transformer and a toy net run the same code. Equations with their sources: `docs/rl_maths.md`.
"""

from geneval_reward.rl.advantages import GroupAdvantages, gdpo_advantages, group_advantages
from geneval_reward.rl.categorical import categorical_kl, categorical_log_prob
from geneval_reward.rl.groups import DistributedKRepeatSampler, Slot, check_split
from geneval_reward.rl.grpo import RatioLoss, gaussian_kl, guarded_ratio_loss, ratio_loss
from geneval_reward.rl.nft import NFTLoss, nft_loss, optimality_probability
from geneval_reward.rl.ode import Velocity, dpm2_step, euler_step, interpolate, predict_noise, predict_x0, sample_ode
from geneval_reward.rl.schedules import (
    ema_decay,
    ema_update_,
    flow_sigmas,
    num_train_steps,
    permuted_steps,
    progressive_window,
    random_window,
)
from geneval_reward.rl.sde import Rollout, SDEStep, sample_sde, sde_step

__all__ = [
    "DistributedKRepeatSampler",
    "GroupAdvantages",
    "NFTLoss",
    "RatioLoss",
    "Rollout",
    "SDEStep",
    "Slot",
    "Velocity",
    "categorical_kl",
    "categorical_log_prob",
    "check_split",
    "dpm2_step",
    "ema_decay",
    "ema_update_",
    "euler_step",
    "flow_sigmas",
    "gaussian_kl",
    "gdpo_advantages",
    "group_advantages",
    "guarded_ratio_loss",
    "interpolate",
    "nft_loss",
    "num_train_steps",
    "optimality_probability",
    "permuted_steps",
    "predict_noise",
    "predict_x0",
    "progressive_window",
    "random_window",
    "ratio_loss",
    "sample_ode",
    "sample_sde",
    "sde_step",
]
