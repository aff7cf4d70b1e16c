"""Groups of prompts: a LightningDataModule whose single batch per epoch is a rank's share of the rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from geneval_reward.errors import UsageError
from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts import PromptSpec
from geneval_reward.prompts.read import Prompts, read_prompts
from geneval_reward.rl import DistributedKRepeatSampler, Slot

_POCKET_PROMPTS: Final = 4096
_POCKET_MIX: Final = {"color_attr": 6, "counting": 3, "position": 3, "colors": 1, "two_object": 1}
"""What is soon right has little weight, and what has the most prompts the most: docs/rl_recipes.md."""


@dataclass
class RolloutBatch:
    """What one rank samples in one epoch.

    Attributes:
        specs: One record per image.
        slots: The group of each image, and its index within the group.
        epoch: Epoch of the sampler, which enters the seeds.
        batch_size: Number of images to sample at once.
        seed: Seed of the run.
    """

    specs: list[PromptSpec]
    slots: list[Slot]
    epoch: int
    batch_size: int
    seed: int

    def split(self) -> Iterator[tuple[list[PromptSpec], list[Slot]]]:
        """Yield the records and slots of each batch of `batch_size` images."""
        for start in range(0, len(self.specs), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.specs[part], self.slots[part]

    def seeds(self, slots: Sequence[Slot]) -> list[int]:
        """Compute one seed per image from the run, the epoch, the group and the image's index within the group.

        No other random state is read, so neither the batch size nor the number of ranks changes the samples, and a
        resumed run continues as if it had never stopped.
        """
        return [seed_for(self.seed, f"{self.epoch}/{slot.group}", slot.repeat) for slot in slots]

    def generators(self, slots: Sequence[Slot]) -> list[torch.Generator]:
        """Make one generator per image from its seed."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds(slots)]


class PromptGroups(LightningDataModule):
    """Training prompts, each repeated, shuffled and split over the ranks.

    Args:
        prompts: What `geneval_reward.prompts.read.read_prompts` takes. A number draws that many training prompts in all, none
            of them equivalent to one of the official suite; `pocket` means those of the packaged pocket model.
        groups: Number of prompts per epoch (48 as released).
        group_size: Number of images per prompt (24 as released; with 12 or 6 training collapses on real models).
        batch_size: Number of images that a rank samples and trains at once.
        seed: Seed of prompts, groups and noise.

    Raises:
        UsageError, SpecError: If the prompts cannot be read.
        ValueError: When training starts, if the sizes do not divide over the ranks; the message names sizes that do.
    """

    def __init__(
        self,
        prompts: Prompts = 10_000,
        groups: int = 48,
        group_size: int = 24,
        batch_size: int = 9,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.specs = read_training_prompts(prompts, seed)
        self.groups, self.group_size, self.batch_size, self.seed = groups, group_size, batch_size, seed

    def train_dataloader(self) -> DataLoader[PromptSpec]:
        """Make a loader with one batch per epoch, after the process group exists, so that the sampler knows its rank."""
        sampler = DistributedKRepeatSampler(
            self.specs,
            group_size=self.group_size,
            groups=self.groups,
            batch_size=self.batch_size,
            seed=self.seed,
        )

        def collate(specs: list[PromptSpec]) -> RolloutBatch:
            return RolloutBatch(specs, sampler.slots(), sampler.epoch, self.batch_size, self.seed)

        return DataLoader(self.specs, batch_size=len(sampler), sampler=sampler, collate_fn=collate)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Leave prompts where they are."""
        return batch


def read_training_prompts(prompts: Prompts, seed: int) -> list[PromptSpec]:
    """Read prompts to train with, as `PromptGroups` does."""
    from geneval_reward.pocket.prompts import iter_pocket_prompts

    pocket = {"pocket": lambda: islice(iter_pocket_prompts(seed, _POCKET_MIX), _POCKET_PROMPTS)}
    return list(read_prompts(prompts, seed=seed, numbers="training", suites=pocket))


def check_sampler(trainer: Any, group_size: int = 2) -> None:
    """Check that groups reach the recipe unchanged.

    Args:
        trainer: The Trainer of the run.
        group_size: Smallest size of a group; 1 for a method that does not compare the images of a prompt.

    Raises:
        UsageError: If the training data comes from another sampler, or groups are smaller.
    """
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    if not isinstance(sampler, DistributedKRepeatSampler):
        raise UsageError(
            f"train_dataloader: expected a DistributedKRepeatSampler, got {type(sampler).__name__}; use PromptGroups and "
            "Trainer(use_distributed_sampler=False)"
        )
    if sampler.group_size < group_size:
        raise UsageError(
            f"group_size: expected >= {group_size}, got {sampler.group_size}; a sample is judged against its group"
        )
