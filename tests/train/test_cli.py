from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning.pytorch")
from lightning.pytorch import LightningModule, Trainer

from geneval_reward.train.cli import EpochCheckpoint


class _StepsAtTimes(LightningModule):
    """Takes an optimizer step in the epochs named, as Flow-GRPO does only if rewards differ."""

    def __init__(self, epochs: set[int]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer, self.epochs = torch.nn.Linear(1, 1), epochs

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if self.current_epoch in self.epochs:
            self.layer(torch.ones(1)).sum().backward()
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), lr=0.1)

    def train_dataloader(self):
        return [0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stepped", [set(), {0}, {1}, {0, 1, 2}])
def test_every_epoch_is_kept_with_or_without_an_optimizer_step(tmp_path, stepped) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=[EpochCheckpoint(str(tmp_path))],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_StepsAtTimes(stepped))
    found = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert (found["epoch"], found["global_step"]) == (2, len(stepped))
