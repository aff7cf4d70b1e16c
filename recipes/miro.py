"""MIRO (arXiv 2510.25897): tell the model in training how good each image is, and ask for good ones at sampling.

    python recipes/miro.py fit --config configs/miro_pocket.yaml

This file is the whole method, in the order of the algorithm. What is not the method is called by name: `geneval_reward.annotate`
(rewards of a data set) and `geneval_reward.train` (bins, reward tokens, guidance, a pipeline as a flow). The method takes four
steps; there is no reward term in the loss:

    annotate: r_i = every reward of every image of the data set     `AnnotatedImages.prepare_data`
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

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from geneval_reward import annotate, train
from geneval_reward.annotate.captions import UnscorableError, find_caption
from geneval_reward.annotate.sources import open_parts
from geneval_reward.errors import UsageError
from geneval_reward.generate import seed_for
from geneval_reward.pocket.dataset import write_captioned_images
from geneval_reward.rl import sample_ode
from geneval_reward.support.files import write_whole
from geneval_reward.vision.images import load_image

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


@dataclass
class AnnotatedBatch(train.CaptionBatch):
    """Captions, latents and levels.

    Attributes:
        levels: (B, rewards) in [0, 1], NaN where there is no reward; None without rewards.
        images: uint8 (3, h, w) each, where the data set has no latents.
    """

    levels: Tensor | None = None
    images: list[Tensor] | None = None


class AnnotatedImages(train.Captions):
    """Images with the rewards of each; the batch of a step depends on seed, step and rank alone.

    Args:
        folder: A data set that `annotate` reads. Samples may have the latents of their image (a `.npy` file in tar files);
            images without latents are held in memory as the files have them.
        images: Number of images of the pocket world to write to the folder first; None for a data set of one's own.
        rewards: Names of rewards, as `annotate` takes them; none for a model that is told of no reward.
        annotations: The table of `annotate`, made or completed if needed; None for `annotations.parquet` beside the folder.
        scorer: What judges GenEval's rewards.
        workers: Number of processes that annotate.
        bins: Number of bins of continuous rewards.
        shuffled: Give every image the rewards of another one: the control for what the tokens add by themselves.
        batch_size: Images per step and rank.
        seed: Seed of order, times and noise.

    Raises:
        UsageError: If a sample has no row in the table, no caption or no image.
    """

    def __init__(
        self,
        folder: str = "runs/miro/data",
        *,
        images: int | None = None,
        rewards: Sequence[str] = REWARDS,
        annotations: str | None = None,
        scorer: str = "lite",
        workers: int | None = None,
        bins: int = 64,
        shuffled: bool = False,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__("pocket", batch_size, seed)
        self.folder, self.images, self.rewards = Path(folder), images, tuple(rewards)
        self.table = self.folder.parent / "annotations.parquet" if annotations is None else Path(annotations)
        self.scorer, self.workers, self.n_bins, self.shuffled = scorer, workers, bins, shuffled
        self.samples: list[Sample] = []
        self.bins: train.RewardBins | None = None
        self.levels: Tensor | None = None

    def prepare_data(self) -> None:
        """Write the pictures of the pocket world if they are wanted, and annotate what has no annotations yet."""
        if self.images is not None:
            write_captioned_images(self.folder, self.images)
        if self.rewards:
            with tqdm(desc="annotating", unit=" images") as bar:
                annotate.annotate(
                    self.folder,
                    self.table,
                    self.rewards,
                    scorer=self.scorer,
                    workers=self.workers,
                    progress=lambda found: bar.update(found.samples - bar.n),
                )

    def setup(self, stage: str) -> None:
        """Read captions and latents, and choose the bins."""
        self.samples = read_samples(self.folder)
        if not self.rewards:
            return
        table = annotate.read_annotations(self.table)
        rows = {key: row for row, key in enumerate(table.keys)}
        unknown = [sample.key for sample in self.samples if sample.key not in rows]
        if unknown:
            raise UsageError(
                f"{self.table}: expected a row for each sample of {self.folder}, got none for {len(unknown)} of "
                f"{len(self.samples)}, such as {unknown[0]}; annotate this data set"
            )
        order = np.array([rows[sample.key] for sample in self.samples])
        for sample, row in zip(self.samples, order, strict=True):
            sample.caption = table.captions[row]  # the caption that was scored
        if self.shuffled:
            order = np.random.default_rng(self.seed).permutation(order)
        names = reward_names(self.rewards)
        if lacking := sorted(set(names) - set(table.rewards)):
            raise UsageError(f"{self.table}: expected a column {lacking[0]}, got {', '.join(table.rewards)}")
        columns = {name: table.rewards[name][order] for name in names}
        self.bins = train.RewardBins.fit(columns, self.n_bins)
        self.levels = torch.from_numpy(self.bins.levels(columns))

    def batch(self, step: int, rank: int = 0) -> AnnotatedBatch:
        """Make the batch of a step."""
        rows = np.random.default_rng([self.seed, step, rank]).integers(len(self.samples), size=self.batch_size)
        chosen = [self.samples[row] for row in rows]
        latents = [sample.latents for sample in chosen if sample.latents is not None]
        known = len(latents) == len(chosen)
        return AnnotatedBatch(
            [sample.caption for sample in chosen],
            torch.stack(latents) if known else None,
            seed_for(self.seed, f"annotated images of rank {rank}", step),
            None if self.levels is None else self.levels[rows],
            None if known else [sample.read() for sample in chosen],
        )


def reward_names(rewards: Sequence[str]) -> list[str]:
    """Return the names of the rewards' columns and tokens: what stands before `=`, or the reward itself."""
    return [reward.partition("=")[0].strip() for reward in rewards]


@dataclass
class Sample:
    """A sample of the data set.

    Attributes:
        key: Its name.
        caption: Its caption.
        image: The file of its image, as bytes or a path; None if latents are known.
        latents: (C, H, W), if they are known.
    """

    key: str
    caption: str
    image: bytes | Path | None = None
    latents: Tensor | None = None

    def read(self) -> Tensor:
        """Read the image, uint8 (3, h, w)."""
        assert self.image is not None
        return load_image(io.BytesIO(self.image) if isinstance(self.image, bytes) else self.image, self.key)


def read_samples(folder: str | Path) -> list[Sample]:
    """Read the samples of a data set; those without a caption or an image are refused by name."""
    parts, problems = open_parts(folder)
    found = []
    for raw in (raw for part in parts for raw in part.raw_samples()):
        try:
            sample = Sample(raw.key, find_caption(raw, None))
        except UnscorableError as error:
            problems.append(f"{raw.where}: {error}")
            continue
        if "npy" in raw.files:
            sample.latents = torch.from_numpy(np.load(io.BytesIO(raw.files["npy"])))
        elif raw.image is None:
            problems.append(str(raw.problem))
            continue
        else:
            sample.image = raw.image
        found.append(sample)
    if problems:
        raise UsageError(
            f"folder: expected a caption and an image in each sample of {folder}, got {len(problems)} without, such as "
            f"{problems[0]}; leave them out of the data set"
        )
    return found


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
                self.tokens = train.RewardTokens(reward_names(rewards), dim, place)
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

    def training_step(self, batch: AnnotatedBatch, batch_idx: int) -> Tensor:
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

    return CLI(Miro, AnnotatedImages, args=args)


if __name__ == "__main__":
    main()
