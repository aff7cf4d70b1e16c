"""A module that learns nothing of use and paints squares; used by the tests of the callback, and by their processes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import torch
from torch import nn

from geneval_reward.scorer import GenEvalScorer
from geneval_reward.testing import FakeDetector, scorer_for

DOG, CAT = {"class": "dog", "count": 1}, {"class": "cat", "count": 1}
RECORDS: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [DOG]},
    {"tag": "single_object", "include": [CAT]},
    {"tag": "two_object", "include": [DOG, CAT]},
    {"tag": "counting", "include": [{"class": "dog", "count": 2}]},
    {"tag": "colors", "include": [DOG | {"color": "red"}]},
    {"tag": "colors", "include": [CAT | {"color": "blue"}]},
    {"tag": "position", "include": [DOG, CAT | {"position": ["right of", 0]}]},
    {"tag": "color_attr", "include": [DOG | {"color": "red"}, CAT | {"color": "red"}]},
]


def scorer(**kwargs: Any) -> GenEvalScorer:
    """Sees a dog and a cat in a picture whose first pixel is bright, a dog in others; all is red."""

    def look(image: torch.Tensor) -> dict[str, list[list[float]]]:
        dog, cat = [1.0, 1, 7, 15, 0.95], [9.0, 1, 15, 15, 0.9]
        return {"dog": [dog], "cat": [cat]} if image[0, 0, 0] > 127 else {"dog": [dog]}

    return scorer_for(FakeDetector(look), **kwargs)


def make_painter(pl: Any = lightning.pytorch) -> Any:
    """A module built on either of Lightning's packages."""

    class Painter(pl.LightningModule):
        """Dropout, batch norm and noise from every generator, so that any disturbance of training shows in the weights."""

        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.frozen.eval()
            self.calls: list[list[str]] = []

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            noise = torch.randn_like(batch) * random.random() + float(np.random.rand())  # noqa: NPY002
            loss = (self.net(batch + noise) - self.frozen(batch)).square().mean()
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            self.log("val_loss", self.net(batch).square().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

        def generate(self, prompts: list[str], seeds: list[int]) -> list[torch.Tensor]:
            assert not self.net.training
            self.calls.append(list(prompts))
            level = torch.sigmoid(self.net(torch.ones(1, 4)).mean())
            images = []
            for seed in seeds:
                image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed))
                image[:, 0, 0] = (image[0, 0, 0] * (0.5 + level)).clamp(0, 1)
                images.append(image)
            return images

    return Painter()


def data(batches: int = 4, batch_size: int = 4, shuffle: bool = True) -> Any:
    """Batches, in an order that depends on torch's generator."""
    rows = torch.arange(4.0 * batches * batch_size).reshape(-1, 4) / 50
    return torch.utils.data.DataLoader(rows, batch_size=batch_size, shuffle=shuffle)  # type: ignore[arg-type]


def make_trainer(root: Path, pl: Any = lightning.pytorch, **kwargs: Any) -> Any:
    """A trainer that says nothing."""
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": root,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 1,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**settings | kwargs)


# What Lightning itself says of small loaders, modules without validation, and newer versions of torch.
QUIET = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        "You defined a `validation_step`",
        ".*does not have many workers",
        ".*LeafSpec",
        "Found . module.* in eval mode",
        "Checkpoint directory .* exists and is not empty",
    )
]
