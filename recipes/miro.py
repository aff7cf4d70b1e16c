"""MIRO (arXiv 2510.25897): tell the model in training how good each image is, and ask for good ones at sampling.

    python recipes/miro.py fit --config configs/miro_pocket.yaml

This file is the whole method, in the order of the algorithm. What is not the method is called by name: `geneval_reward.annotate`
(rewards of a data set) and `geneval_reward.train` (annotated images, bins, reward tokens, guidance, a pipeline as a flow). The
method takes four steps; there is no reward term in the loss:

    annotate: r_i = every reward of every image of the data set     `train.AnnotatedImages`
    bin     : s_i = index of the bin of r_i / (bins - 1)             `RewardBins`: quantiles, or one bin per value
    train   : |v(x_t, t, caption, s) - (noise - x_0)|^2              `Miro.training_step`
    sample  : (1 + w) v(caption, s+) - w v(caption, s-)              `Miro.sample_latents`: s+ all 1, s- all 0

| | paper | released code (nicolas-dufour/miro) | here, and why |
|---|---|---|---|
| rewards | 7 models of images and texts | the same | any that `annotate` takes, GenEval among them |
| bins | 64 of equal population | quantiles of distinct values, else uniform | equal population; one per value for GenEval |
| missing reward | - | NaN becomes 0, which is also the worst | a token of its own |
| tokens | sinusoid, MLP per reward, learned place | the same, mixed by 2 attention layers | the model's own attention |
| dropped captions | 0 | 0 | 0.1, so that guidance by text can be the control |
| dropped rewards | - | 0 (a base configuration says .8) | in 30 % of images, so that targets may name some rewards |
| time | uniform | uniform | logit-normal, as SD3 and the pocket model were trained |
| second pass | keeps the caption | empty caption | either: `negative` is `same` (the paper) or `empty` (the release) |
| average | EMA in the module | the same | Lightning's `EMAWeightAveraging`, in the configuration |
| model | 0.36 B, from nothing, frozen FLAN-T5 | the same | any `FlowPolicy`; pocket from nothing, frozen T5 |

Needs the extras `lightning`, `diffusers` and `annotate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from geneval_reward import train
from geneval_reward.errors import UsageError
from geneval_reward.rl import sample_ode
from geneval_reward.support.files import write_whole

REWARDS = (
    "geneval_official",
    "geneval_partial",
    "colorfulness=recipes/miro.py:colorfulness",
    "brightness=recipes/miro.py:brightness",
)

# 1. Annotate. Two rewards of an image's look that need no network; `annotate` takes them by their import path.


def colorfulness(images: Sequence[Any]) -> list[float]:
    """Colourfulness of Hasler and Süsstrunk (2003): spread and mean of the opponent colours; about 0 to 110."""
    found = []
    for image in images:
        red, green, blue = np.moveaxis(_pixels(image), 2, 0)
        opponents = np.stack([red - green, (red + green) / 2 - blue])
        spread, mean = opponents.std(axis=(1, 2)), opponents.mean(axis=(1, 2))
        found.append(float(np.hypot(*spread) + 0.3 * np.hypot(*mean)))
    return found


def brightness(images: Sequence[Any]) -> list[float]:
    """Mean luma of Rec. 601, 0 to 255."""
    return [float((_pixels(image) @ np.array([0.299, 0.587, 0.114])).mean()) for image in images]


def _pixels(image: Any) -> Any:
    if isinstance(image, Tensor):
        image = image.movedim(0, 2).cpu().numpy()
    elif isinstance(image, Image.Image):
        image = image.convert("RGB")
    return np.asarray(image, np.float64)


# 2. and 3. Train.


class Miro(LightningModule):
    """A text-to-image model that is told the rewards of what it learns from.

    Args:
        policy: The model.
        rewards: As in the data, of which only the names matter here; none for the baseline without tokens.
        place: Where the tokens go; see `geneval_reward.train.RewardTokens`.
        from_nothing: Whether the transformer starts from random weights.
        seed: Seed of those weights.
        learning_rate: Highest learning rate of AdamW; it rises over `warmup` steps and falls linearly to 0 at `max_steps`.
        muon_rate: Highest learning rate of Muon for the blocks' matrices; 0 for AdamW alone.
        warmup: Number of steps.
        drop_caption: Chance that a caption is left out.
        drop_rewards: Chance that some rewards of an image are unknown to the model: from none to all of them, each number being
            equally likely.
        out: Folder for the trained weights, which `trained` loads; None: none.

    Raises:
        UsageError: If a chance is outside [0, 1].
    """

    method = "miro"

    def __init__(
        self,
        policy: train.FlowPolicy,
        *,
        rewards: Sequence[str] = REWARDS,
        place: Literal["append", "padding"] = "padding",
        from_nothing: bool = False,
        seed: int = 0,
        learning_rate: float = 1e-4,
        muon_rate: float = 0.0,
        warmup: int = 100,
        drop_caption: float = 0.1,
        drop_rewards: float = 0.3,
        out: str | None = None,
    ) -> None:
        super().__init__()
        for name, chance in {"drop_caption": drop_caption, "drop_rewards": drop_rewards}.items():
            if not 0 <= chance <= 1:
                raise UsageError(f"{name}: expected a chance in [0, 1], got {chance}")
        self.policy, self.from_nothing = policy, from_nothing
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if from_nothing:
                new = type(policy.transformer).from_config(policy.transformer.config)
                policy.transformer = policy.pipeline.transformer = new
            self.transformer = policy.transformer.float().requires_grad_(True).train()
            self.tokens = None
            if rewards:
                dim = policy.encode([""]).embeds.shape[2]
                self.tokens = train.RewardTokens(train.reward_names(rewards), dim, place)
        self.place, self.learning_rate, self.muon_rate, self.warmup = place, learning_rate, muon_rate, warmup
        self.drop_caption, self.drop_rewards = drop_caption, drop_rewards
        self.out = out
        self.strict_loading = False

    def setup(self, stage: str) -> None:
        """Move what Lightning does not know of."""
        self.policy.to(self.trainer.strategy.root_device)

    def configure_optimizers(self) -> Any:
        """AdamW, or Muon and AdamW, with a warm-up and a linear decay."""
        if self.muon_rate:
            optimizer: Any = train.MuonAndAdamW(self, self.muon_rate, self.learning_rate)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=0.01)
        last, warmup = self.trainer.max_steps, self.warmup

        def share(step: int) -> float:
            falling = max(last - step, 0) / max(last - warmup, 1) if last > 0 else 1.0
            return min((step + 1) / max(warmup, 1), falling)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: train.AnnotatedBatch, batch_idx: int) -> Tensor:
        """One step of flow matching."""
        if batch.latents is None:
            batch.latents = self.encode_images(batch.images or [])
        generator = torch.Generator().manual_seed(batch.seed)
        count = len(batch.prompts)
        left_out = torch.rand(count, generator=generator) < self.drop_caption
        batch.prompts = ["" if drop else prompt for drop, prompt in zip(left_out.tolist(), batch.prompts, strict=True)]
        noised = train.add_noise(self.policy, self.transformer, batch)
        velocity = self.policy.velocity(self.transformer, noised.conditions)
        if self.tokens is None:
            v = velocity(noised.x, noised.t)
        else:
            if batch.levels is None:
                raise UsageError("data.rewards: expected those of the model, got none")
            # With a chance that is itself uniform, every number of unknown rewards is equally likely.
            chance = torch.rand(count, 1, generator=generator) * (
                torch.rand(count, 1, generator=generator) < self.drop_rewards
            )
            gone = torch.rand(batch.levels.shape, generator=generator) < chance
            levels = batch.levels.masked_fill(gone, torch.nan).to(self.device)
            with train.RewardGuidance(self.tokens, levels).applied_to(self.transformer):
                v = velocity(noised.x, noised.t)
        loss = (v - noised.target).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def encode_images(self, images: Sequence[Tensor]) -> Tensor:
        """Encode images (3, h, w) as latents, scaled to the size that the model makes."""
        vae = self.policy.pipeline.vae
        _, height, width = self.policy.latent_shape
        side = (height * self.policy.pipeline.vae_scale_factor, width * self.policy.pipeline.vae_scale_factor)
        resized = [torch.nn.functional.interpolate(image[None].float(), side, mode="area") for image in images]
        pixels = torch.cat(resized).to(self.device, vae.dtype) / 127.5 - 1
        latents: Tensor = vae.encode(pixels).latent_dist.mode()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    # 4. Sample.

    @torch.no_grad()
    def sample_latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        target: float | Mapping[str, float | None] | None = 1.0,
        away: float | Mapping[str, float | None] | None = 0.0,
        scale: float = 0.0,
        negative: Literal["same", "empty"] = "same",
        num_inference_steps: int = 8,
    ) -> Tensor:
        """Sample latents by Euler steps.

        Args:
            prompts: Texts.
            seeds: One per prompt; an image depends on its own alone.
            target: Levels s+ to ask for; one for all rewards, or by reward, where what is left out is unknown.
            away: Levels s- to lead away from.
            scale: Weight w of the guidance. Above 0 each step takes two forward passes. For a model without tokens it is
                that of classifier-free guidance, `(1 + w) v(caption) - w v(nothing)`.
            negative: Whether the second pass keeps the caption (paper) or empties it (released code).
            num_inference_steps: Number of steps.
        """
        conditions = self.policy.encode(prompts)
        x = self.policy.noise([torch.Generator().manual_seed(seed) for seed in seeds])
        sigmas = self.policy.sigmas(num_inference_steps)
        if self.tokens is None:
            self.policy.guidance_scale = 1 + scale
            return sample_ode(self.policy.velocity(self.transformer, conditions), x, sigmas, solver="euler")
        empty = None
        if negative == "empty":
            nothing = self.policy.encode([""])
            empty = {"encoder_hidden_states": nothing.embeds, "pooled_projections": nothing.pooled}
        levels = self.tokens.target(target), self.tokens.target(away)
        guidance = train.RewardGuidance(self.tokens, *levels, scale, empty)
        with guidance.applied_to(self.transformer):
            return sample_ode(self.policy.velocity(self.transformer, conditions), x, sigmas, solver="euler")

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> Tensor:
        """Make images, uint8 (n, 3, h, w), with the options of `sample_latents`; `GenEvalCallback` calls this."""
        return self.policy.decode(self.sample_latents(prompts, seeds, **options))

    def on_train_end(self) -> None:
        """Write the weights, by now the average if the run keeps one, and the bins."""
        if not self.out or not self.trainer.is_global_zero:
            return
        folder = Path(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.contiguous() for name, tensor in self.state_dict().items()}, folder / "miro.safetensors"
        )
        bins: train.RewardBins | None = getattr(self.trainer, "datamodule", None) and self.trainer.datamodule.bins  # type: ignore[attr-defined]
        about = {
            "rewards": [] if self.tokens is None else list(self.tokens.names),
            "place": self.place,
            "steps": self.trainer.global_step,
            "from_nothing": self.from_nothing,
        }
        write_whole(folder / "about.json", json.dumps(about) + "\n")
        if bins is not None:
            write_whole(folder / "bins.json", bins.to_json() + "\n")


def trained(
    folder: str = "runs/miro/model",
    pipeline: str = "pocket",
    target: Any = 1.0,
    away: Any = 0.0,
    scale: float = 0.0,
    negative: Literal["same", "empty"] = "same",
    steps: int = 8,
) -> Any:
    """Load trained weights as a generator for `geneval-reward generate`, with the options of `sample_latents`."""
    model = load(folder, pipeline)
    options: dict[str, Any] = {"target": target, "away": away, "scale": scale, "negative": negative}

    class Trained:
        def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Any:
            return model.generate(prompts, seeds, num_inference_steps=steps, **options)

    return Trained()


def load(folder: str | Path, pipeline: Any = "pocket") -> Miro:
    """Load the weights that a run wrote to its `out`."""
    about = json.loads((Path(folder) / "about.json").read_text(encoding="utf-8"))
    model = Miro(train.FlowPolicy(pipeline), rewards=about["rewards"], place=about["place"])
    model.load_state_dict(load_file(Path(folder) / "miro.safetensors"))
    return model.eval()


def main(args: list[str] | None = None) -> Any:
    """Run the command line, with `args` in place of `sys.argv` if they are given."""

    class CLI(train.RecipeCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.link_arguments("data.rewards", "model.rewards")

    return CLI(Miro, train.AnnotatedImages, args=args)


if __name__ == "__main__":
    main()
