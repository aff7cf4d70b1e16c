"""Flow-GRPO with GenEval rewards, for Stable Diffusion 3 and 3.5, FLUX and the packaged pocket model.

    python recipes/flow_grpo.py fit --config configs/flow_grpo_pocket.yaml
    python recipes/flow_grpo.py fit --config configs/flow_grpo_sd35_medium_one_gpu.yaml --model.kl_weight 0
    python recipes/flow_grpo.py fit --config configs/flow_grpo_pocket.yaml --ckpt_path last     # goes on where it stopped

Copy this file and change it. One epoch of the method is one Lightning batch (`FlowRL.training_step`):

    chunks = sample(SDE), every step kept      `FlowGRPO.rollout`; the reward scores each chunk while the next is sampled
    A      = (R - mean of the prompt) / std    rewards of all ranks, `geneval_reward.rl.group_advantages`
    rho    = exp(logp_new - logp_old)          `FlowGRPO.losses`, at each stochastic step
    loss   = max(-A rho, -A clip(rho)) + KL    `ratio_loss`, `gaussian_kl`
    step, ema

Variants by flags: `--model.window random --model.kind cps --model.noise_level .8 --model.kl_weight 0` is Flow-GRPO-Fast,
`--model.window progressive` is MixGRPO's window, `--model.guard true --model.clip_range 2e-6` is GRPO-Guard.

The LightningModule itself is geneval_reward/train/flow_grpo.py, in the package, since `geneval-reward demo` trains with it
too; a subclass here (see `Mine`) may replace any of the methods above.
"""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

from geneval_reward.train import FlowGRPO, PromptGroups
from geneval_reward.train.cli import RecipeCLI


class Mine(FlowGRPO):
    """A place for your own changes: override `rollout` or `losses`."""


def main(args: list[str] | None = None) -> LightningCLI:
    """Run the command line; `args` in place of `sys.argv` for tests."""
    return RecipeCLI(Mine, PromptGroups, args=args)


if __name__ == "__main__":
    main()
