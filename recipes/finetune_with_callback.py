"""Fine-tune a Stable Diffusion 3 pipeline by flow matching, with the GenEval score as a curve beside the loss.

    python recipes/finetune_with_callback.py fit --config configs/finetune_with_callback.yaml
    python recipes/finetune_with_callback.py fit --config configs/finetune_with_callback.yaml --ckpt_path best.ckpt

Copy this file and change it. What the score needs of it is one line: the module has the pipeline as an attribute, and the
callback stands in the configuration. The pipeline here is of random weights unless `--model.pipeline` names one; the
pictures are drawings with captions, made on the fly.

The loss is that of a rectified flow (Liu et al. 2022) at logit-normal times (Esser et al. 2024):

    x_s = (1 - s) x_0 + s noise,    loss = | v(x_s, s) - (noise - x_0) |^2
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.cli import LightningCLI
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from geneval_reward.pocket.prompts import training_specs
from geneval_reward.pocket.render import render
from geneval_reward.pocket.world import sample_scene
from geneval_reward.prompts import TAGS
from geneval_reward.train.tiny import tiny_sd3


class CaptionedDrawings(Dataset[tuple[torch.Tensor, str]]):
    """Drawings in [-1, 1] with their captions; each depends on nothing but the seed and its number."""

    def __init__(self, seed: int, length: int, side: int) -> None:
        self.seed, self.length, self.side = seed, length, side

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        rng = np.random.default_rng([self.seed, index])
        specs = training_specs()[TAGS[index % len(TAGS)]]
        spec = specs[int(rng.integers(len(specs)))]
        picture = torch.from_numpy(np.array(render(sample_scene(spec, rng)))).permute(2, 0, 1) / 127.5 - 1
        return F.interpolate(picture[None], (self.side, self.side), mode="area")[0], spec.prompt


class Drawings(lightning.LightningDataModule):
    """Batches of drawings.

    Args:
        seed: Seed of the data that are drawn.
        length: Drawings an epoch.
        side: Pixels; what the pipeline makes.
        batch_size: Drawings a step.
    """

    def __init__(self, seed: int = 0, length: int = 4096, side: int = 32, batch_size: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        """Drawings in an order drawn from torch's generator."""
        data = CaptionedDrawings(self.hparams.seed, self.hparams.length, self.hparams.side)
        return DataLoader(data, self.hparams.batch_size, shuffle=True)


class FineTune(lightning.LightningModule):
    """Trains a pipeline's transformer.

    Args:
        pipeline: A folder or name of a Stable Diffusion 3 pipeline; None for a tiny one of random weights.
        learning_rate: Learning rate of AdamW.
    """

    def __init__(self, pipeline: str | None = None, learning_rate: float = 1e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        # No nn.Module, so what it holds beside the transformer is neither trained nor saved. The callback finds it.
        self.pipe = tiny_sd3() if pipeline is None else _load(pipeline)
        self.transformer = self.pipe.transformer.train()

    def on_fit_start(self) -> None:
        """The frozen parts go where the trained one is."""
        self.pipe.to(self.device)

    def training_step(self, batch: tuple[torch.Tensor, list[str]], batch_idx: int) -> torch.Tensor:
        """One step of flow matching."""
        pictures, captions = batch
        with torch.no_grad():
            latents = self.pipe.vae.encode(pictures.to(self.pipe.vae.dtype)).latent_dist.sample()
            latents = (latents - self.pipe.vae.config.shift_factor) * self.pipe.vae.config.scaling_factor
            embeds, _, pooled, _ = self.pipe.encode_prompt(
                list(captions), prompt_2=None, prompt_3=None, device=self.device, do_classifier_free_guidance=False
            )
        noise = torch.randn_like(latents)
        time = torch.randn(len(latents), device=self.device).sigmoid()
        mixed = torch.lerp(latents, noise, time[:, None, None, None])
        velocity = self.transformer(
            hidden_states=mixed,
            timestep=1000 * time,
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        loss = F.mse_loss(velocity.float(), (noise - latents).float())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW over the transformer."""
        return torch.optim.AdamW(self.transformer.parameters(), lr=self.hparams.learning_rate)


def _load(name: str) -> Any:
    from diffusers import StableDiffusion3Pipeline

    return StableDiffusion3Pipeline.from_pretrained(name)


class RecipeCLI(LightningCLI):
    """Makes the output folder first: W&B writes to the system's temporary folder if its own is not there."""

    def before_instantiate_classes(self) -> None:
        """Make it."""
        Path(self.config[self.subcommand].trainer.default_root_dir).mkdir(parents=True, exist_ok=True)


def main(args: list[str] | None = None) -> LightningCLI:
    """Run the command line; `args` in place of `sys.argv` for tests."""
    # A resumed run writes its configuration again.
    return RecipeCLI(FineTune, Drawings, args=args, save_config_kwargs={"overwrite": True})


if __name__ == "__main__":
    main()
