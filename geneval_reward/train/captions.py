"""`Captions`: prompts with images' latents, for recipes that train by likelihood or by a teacher instead of a reward."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts.read import Prompts, read_prompts
from geneval_reward.rl import interpolate, sample_ode
from geneval_reward.train.policy import Conditions, FlowPolicy


@dataclass
class CaptionBatch:
    """What one step trains on.

    Attributes:
        prompts: One text per image.
        latents: (B, C, H, W); None if the images are yet to be sampled.
        seed: Seed of the batch's noise and times.
    """

    prompts: list[str]
    latents: Tensor | None
    seed: int


@dataclass
class NoisedBatch:
    """Latents on their way from noise, `x = (1 - t) x0 + t noise`.

    Attributes:
        x: (B, C, H, W).
        t: (B,), in (0, 1).
        target: The velocity `noise - x0`, (B, C, H, W).
        conditions: The encoded prompts.
    """

    x: Tensor
    t: Tensor
    target: Tensor
    conditions: Conditions


class Captions(LightningDataModule):
    """Prompts and latents; the batch of a step depends on seed, step and rank alone, so a resumed run goes on as it would have.

    Args:
        prompts: `pocket` for scenes of the pocket world with the partly wrong captions that the packaged model learned from; or
            what `geneval_reward.prompts.read.read_prompts` takes: those have no images, and the dense model samples some.
        batch_size: Images per step and rank.
        seed: Seed of prompts, scenes, times and noise.

    Raises:
        UsageError, SpecError: If the prompts cannot be read.

    Examples:
        >>> batch = Captions(batch_size=2).batch(0)
        >>> len(batch.prompts), tuple(batch.latents.shape)
        (2, (2, 25, 2, 2))
    """

    def __init__(self, prompts: Prompts = "pocket", batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed
        self.specs = None if prompts == "pocket" else list(read_prompts(prompts, seed=seed, numbers="training"))

    def batch(self, step: int, rank: int = 0) -> CaptionBatch:
        """Make the batch of a step."""
        rng, seed = (
            np.random.default_rng([self.seed, step, rank]),
            seed_for(self.seed, f"captions of rank {rank}", step),
        )
        if self.specs is not None:
            rows = rng.integers(len(self.specs), size=self.batch_size).tolist()
            return CaptionBatch([self.specs[row].prompt for row in rows], None, seed)
        from geneval_reward.pocket.codec import encode_scenes
        from geneval_reward.pocket.load import provenance
        from geneval_reward.pocket.world import Noise, sample_training_scenes

        made = provenance()
        specs, scenes = sample_training_scenes(rng, self.batch_size, made["mix"], Noise.parse(made["noise"]))
        return CaptionBatch([spec.prompt for spec in specs], encode_scenes(scenes), seed)

    def with_seed(self, seed: int) -> Captions:
        """Return a copy that draws from the same prompts with another seed, for example for held-out batches."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def train_dataloader(self) -> DataLoader[CaptionBatch]:
        """Make a loader that begins at the trainer's step."""
        return DataLoader(_Steps(self), batch_size=None)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Leave the batch where it is; `add_noise` moves the latents."""
        return batch


def add_noise(policy: FlowPolicy, dense: Any, batch: CaptionBatch, steps: int = 8) -> NoisedBatch:
    """Encode the prompts and mix the latents with noise, at times whose logits are standard normal, as SD3 was trained.

    Args:
        policy: Encodes.
        dense: The unchanged transformer, which samples the latents of a batch without images.
        batch: Prompts, and latents if there are any.
        steps: Euler steps of that sampling.
    """
    generators = [
        torch.Generator().manual_seed(seed_for(batch.seed, "noise", row)) for row in range(len(batch.prompts))
    ]
    conditions = policy.encode(batch.prompts)
    latents = batch.latents
    if latents is None:
        with torch.no_grad():
            latents = sample_ode(
                policy.velocity(dense, conditions), policy.noise(generators), policy.sigmas(steps), solver="euler"
            )
    x0, noise = latents.to(policy.device), policy.noise(generators)
    t = torch.cat([torch.randn(1, generator=generator) for generator in generators]).sigmoid().to(policy.device)
    return NoisedBatch(interpolate(x0, noise, t), t, noise - x0, conditions)


class _Steps(IterableDataset[CaptionBatch]):
    def __init__(self, captions: Captions) -> None:
        self.captions = captions

    def __iter__(self) -> Iterator[CaptionBatch]:
        trainer = self.captions.trainer
        assert trainer is not None
        for step in count(trainer.global_step):
            yield self.captions.batch(step, trainer.global_rank)
