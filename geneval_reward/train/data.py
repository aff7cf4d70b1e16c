"""Prompts in groups: a LightningDataModule whose one batch an epoch is a rank's share of the rollout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from geneval_reward.errors import UsageError
from geneval_reward.prompts import PromptSpec, training_prompts
from geneval_reward.rl import DistributedKRepeatSampler, Slot

_POCKET_PROMPTS = 4096


@dataclass
class RolloutBatch:
    """What one rank samples in one epoch.

    Attributes:
        specs: One record an image.
        slots: Which group each image belongs to, and which of the group it is.
        epoch: Epoch of the sampler, from which seeds are made.
        batch_size: Images to sample at once.
        seed: Seed of the run.
    """

    specs: list[PromptSpec]
    slots: list[Slot]
    epoch: int
    batch_size: int
    seed: int


class PromptGroups(LightningDataModule):
    """Training prompts, each repeated, shuffled and split over the ranks.

    Args:
        prompts: A number of prompts drawn by `geneval_reward.prompts.training_prompts` (none has the meaning of one in the
            official suite); `pocket`, those of the packaged pocket model; a file with one record a line; or specs.
        groups: Prompts an epoch (48 as released).
        group_size: Images a prompt (24 as released; with 12 or 6 training collapses on real models).
        batch_size: Images a rank samples and trains at once.
        seed: Of prompts, groups and noise.

    Raises:
        ValueError: If the sizes do not divide over the ranks; the message names sizes that do.
    """

    def __init__(
        self,
        prompts: int | str | Sequence[Any] = 10_000,
        groups: int = 48,
        group_size: int = 24,
        batch_size: int = 9,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.specs = read_training_prompts(prompts, seed)
        self.groups, self.group_size, self.batch_size, self.seed = groups, group_size, batch_size, seed

    def train_dataloader(self) -> DataLoader[PromptSpec]:
        """One batch an epoch; made after the process group, so that the sampler knows its rank."""
        sampler = DistributedKRepeatSampler(
            self.specs,
            group_size=self.group_size,
            groups=self.groups,
            batch_size=self.batch_size,
            seed=self.seed,
        )

        def together(specs: list[PromptSpec]) -> RolloutBatch:
            return RolloutBatch(specs, sampler.slots(), sampler.epoch, self.batch_size, self.seed)

        return DataLoader(self.specs, batch_size=len(sampler), sampler=sampler, collate_fn=together)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Prompts stay where they are."""
        return batch


def read_training_prompts(prompts: int | str | Sequence[Any], seed: int) -> list[PromptSpec]:
    """Specs from whatever names them; see `PromptGroups`."""
    if isinstance(prompts, str) and prompts.isdigit():
        prompts = int(prompts)
    if isinstance(prompts, int):
        return training_prompts(prompts, seed)
    if prompts == "pocket":
        from geneval_reward.pocket.prompts import iter_pocket_prompts

        return list(islice(iter_pocket_prompts(seed), _POCKET_PROMPTS))
    if isinstance(prompts, str):
        path = Path(prompts)
        if not path.is_file():
            raise UsageError(f"prompts: expected a number, 'pocket' or a file of records, got {prompts!r}")
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [PromptSpec.parse(line) for line in lines]
    specs = [PromptSpec.parse(prompt) for prompt in prompts]
    if not specs:
        raise UsageError("prompts: expected at least one, got none")
    return specs


def record(spec: PromptSpec) -> dict[str, Any]:
    """A spec as the mapping that reward functions of any trainer know as metadata."""
    found: dict[str, Any] = json.loads(spec.to_json())
    return found
