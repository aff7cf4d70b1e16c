"""The recipes' command line: LightningCLI with the Trainer settings that the methods need."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

TRAINER_DEFAULTS: Final[dict[str, Any]] = {
    "use_distributed_sampler": False,  # our own sampler makes the groups
    "log_every_n_steps": 1,  # a step is a whole rollout
    "default_root_dir": "runs",
}


class EpochCheckpoint(ModelCheckpoint):
    """Replaces `last.ckpt` atomically after every epoch, so a killed run loses at most the current epoch.

    Args:
        dirpath: The folder; None for the logger's.
        keep_every: Also keep a checkpoint every this many epochs, such as `epoch-00030.ckpt`; 0 for none.
    """

    def __init__(self, dirpath: str | None = None, keep_every: int = 0) -> None:
        self.keep_every, self.last_step = keep_every, 0
        super().__init__(
            dirpath=dirpath,
            filename="last",
            save_top_k=1,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save the last epoch, and a separate copy if it is one to keep."""
        folder = Path(self.dirpath or trainer.default_root_dir)
        if trainer.global_step == self.last_step:
            # Lightning would skip an epoch without an optimizer step, such as one in which all rewards are equal.
            trainer.save_checkpoint(folder / "last.ckpt")
        else:
            super().on_train_epoch_end(trainer, pl_module)
        self.last_step = trainer.global_step
        done = trainer.current_epoch + 1
        if self.keep_every and done % self.keep_every == 0:
            trainer.save_checkpoint(folder / f"epoch-{done:05d}.ckpt")


class RecipeCLI(LightningCLI):
    """LightningCLI with these defaults; the recipe makes its own optimizer."""

    def __init__(
        self, model: type[LightningModule], data: type[LightningDataModule], args: list[str] | None = None
    ) -> None:
        super().__init__(
            model,
            data,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=False,  # noise has its own seeds
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},  # a resumed run rewrites its configuration
            args=args,
        )
