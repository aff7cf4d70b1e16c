"""The command line of the recipes: LightningCLI with the Trainer settings that the methods need."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from geneval_reward.train.data import PromptGroups

TRAINER_DEFAULTS: Final[dict[str, Any]] = {
    "use_distributed_sampler": False,  # groups come from our own sampler
    "log_every_n_steps": 1,  # a step is a whole rollout
    "default_root_dir": "runs",
}


class EpochCheckpoint(ModelCheckpoint):
    """`last.ckpt` after every epoch, replaced as a whole: a run that is killed loses at most the epoch it was in.

    Args:
        dirpath: The folder; None for that of the logger.
        keep_every: Also keep the checkpoint of every so-many-th epoch, as `epoch-00030.ckpt`; 0 for none.
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
        """Save the last epoch, and separately the one that is kept."""
        folder = Path(self.dirpath or trainer.default_root_dir)
        if trainer.global_step == self.last_step:
            # Lightning would leave out an epoch without an optimizer step, such as one in which no reward differs.
            trainer.save_checkpoint(folder / "last.ckpt")
        else:
            super().on_train_epoch_end(trainer, pl_module)
        self.last_step = trainer.global_step
        done = trainer.current_epoch + 1
        if self.keep_every and done % self.keep_every == 0:
            trainer.save_checkpoint(folder / f"epoch-{done:05d}.ckpt")


class RecipeCLI(LightningCLI):
    """LightningCLI with these defaults; the optimizer is the recipe's own."""

    def __init__(self, model: type[LightningModule], data: type[PromptGroups], args: list[str] | None = None) -> None:
        super().__init__(
            model,
            data,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=False,  # noise has seeds of its own
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},  # a resumed run writes its configuration again
            args=args,
        )
