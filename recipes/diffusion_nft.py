"""DiffusionNFT with GenEval rewards, for Stable Diffusion 3 and 3.5, FLUX and the packaged pocket model.

    python recipes/diffusion_nft.py fit --config configs/nft_pocket.yaml
    python recipes/diffusion_nft.py fit --config configs/nft_sd35_medium_one_gpu.yaml --model.learning_rate 1e-4
    python recipes/diffusion_nft.py fit --config configs/nft_pocket.yaml --ckpt_path last     # goes on where it stopped

Copy this file and change it. One epoch of the method is one Lightning batch (`FlowRL.training_step`):

    chunks = sample(old policy's ODE)          `DiffusionNFT.rollout`; the reward scores each chunk while the next is sampled
    A      = (R - mean of the prompt) / std    rewards of all ranks, `geneval_reward.rl.group_advantages`
    r      = clip(A / 5) / 2 + 1/2             `optimality_probability`
    loss   = r |x0(v+) - x0|^2 + (1 - r) |x0(v-) - x0|^2     at 9 of 10 times, fresh noise; `DiffusionNFT.losses`
    step, old <- d old + (1 - d) new, ema      `DiffusionNFT.after_update`

The LightningModule itself is geneval_reward/train/diffusion_nft.py, in the package, since `geneval-reward demo` trains with
it too; a subclass here (see `Mine`) may replace any of the three methods above.
"""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

from geneval_reward.train import DiffusionNFT, PromptGroups
from geneval_reward.train.cli import RecipeCLI


class Mine(DiffusionNFT):
    """A place for your own changes: override `rollout`, `losses` or `after_update`."""


def main(args: list[str] | None = None) -> LightningCLI:
    """Run the command line; `args` in place of `sys.argv` for tests."""
    return RecipeCLI(Mine, PromptGroups, args=args)


if __name__ == "__main__":
    main()
