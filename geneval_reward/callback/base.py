"""What the callback needs of Lightning, under either of its two names."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

from geneval_reward.errors import UsageError

if TYPE_CHECKING:
    from lightning.pytorch import Callback as LightningCallback

__all__ = ["LightningCallback", "let_monitors_wait", "planned_length", "publish", "put_in_order", "refuse_sharded"]

_PACKAGES: Final = ("lightning.pytorch", "pytorch_lightning")

# Their parameters are spread over ranks in a way that a module's submodules cannot be called on their own, or only by all
# ranks at once; nothing here could be tested on them, so they are refused rather than left to hang.
_SHARDED: Final = {
    "FSDPStrategy": "FSDP",
    "ModelParallelStrategy": "FSDP2 or tensor parallelism",
    "FSDP2Strategy": "FSDP2",
    "XLAFSDPStrategy": "XLA FSDP",
}


def _callback_bases() -> tuple[type, ...]:
    """The `Callback` of each installed package: they are different classes, and each Trainer asks for its own."""
    bases: list[type] = []
    for name in _PACKAGES:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            base = importlib.import_module(name).Callback
            if base not in bases:
                bases.append(base)
    if not bases:
        raise ImportError(
            "GenEvalCallback: expected lightning or pytorch_lightning, got neither; run: pip install 'geneval-reward[lightning]'"
        )
    return tuple(bases)


if not TYPE_CHECKING:
    # A base made at run time: its bases depend on what is installed.
    LightningCallback = type(
        "LightningCallback", _callback_bases(), {"__doc__": "Callback of every installed Lightning."}
    )


def refuse_sharded(strategy: Any) -> None:
    """Raise for strategies under which a module cannot sample on its own.

    Raises:
        ValueError: For FSDP, model parallelism and DeepSpeed stage 3; the message says what to do instead.
    """
    found = next((_SHARDED[kind.__name__] for kind in type(strategy).__mro__ if kind.__name__ in _SHARDED), None)
    if found is None and any(kind.__name__ == "DeepSpeedStrategy" for kind in type(strategy).__mro__):
        zero = (getattr(strategy, "config", None) or {}).get("zero_optimization", {})
        found = "DeepSpeed stage 3" if zero.get("stage") == 3 else None
    if found is not None:
        raise UsageError(
            f"strategy: expected one that keeps whole weights on every rank, got {found}, where sampling outside of the "
            "training step can hang; use DDP or DeepSpeed stage 1 or 2, or score saved checkpoints with "
            "`geneval-reward score`"
        )


def put_in_order(callbacks: list[Any]) -> list[Any]:
    """Callbacks such that scores come after every update of the weights and before everything that reads them.

    Args:
        callbacks: The trainer's list.

    Returns:
        A new list: others first, then those of this package, then those that monitor a metric (early stopping, pruning,
        checkpoints). The order within each group stays.
    """

    def group(callback: Any) -> int:
        if getattr(callback, "scores_with_geneval", False):
            return 1
        names = {kind.__name__ for kind in type(callback).__mro__}
        monitors = names & {"EarlyStopping", "Checkpoint"} or isinstance(getattr(callback, "monitor", None), str)
        return 2 if monitors else 0

    return sorted(callbacks, key=group)


def let_monitors_wait(trainer: Any, prefix: str) -> None:
    """Make what monitors a score of this package wait for the first one, in place of ending the run.

    Early stopping and plateau schedulers skip their turn (`strict=False`); checkpoints are saved with NaN as their score.

    Args:
        trainer: The trainer, with its schedulers.
        prefix: Prefix of the scores.
    """
    begins = f"{prefix}/"
    for callback in trainer.callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or not monitor.startswith(begins):
            continue
        if any(kind.__name__ == "Checkpoint" for kind in type(callback).__mro__):
            # Only the checkpoint sees NaN, which is the worst value to it: for early stopping it would be the end of the run.
            candidates = getattr(callback, "_monitor_candidates", None)
            if candidates is not None and not isinstance(candidates, partial):
                callback._monitor_candidates = partial(_with_nan, candidates, monitor)
        elif hasattr(callback, "strict"):
            callback.strict = False
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and str(config.monitor).startswith(begins):
            config.strict = False


def _with_nan(candidates: Callable[[Any], dict[str, torch.Tensor]], key: str, trainer: Any) -> dict[str, torch.Tensor]:
    """What a checkpoint may monitor, with NaN for a score that is not there yet."""
    return {key: torch.tensor(math.nan)} | candidates(trainer)


def planned_length(trainer: Any, pl_module: Any) -> tuple[float, float, bool]:
    """Tell how long a run can be.

    Returns:
        The optimizer steps and the epochs at which it ends at the latest, which may be infinite, and whether it validates.
    """
    steps: float = math.inf
    if trainer.max_steps != -1:
        steps = trainer.max_steps
    elif pl_module.automatic_optimization:  # otherwise a batch may have any number of steps
        steps = trainer.estimated_stepping_batches
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    return steps, epochs, trainer.enable_validation and trainer.val_dataloaders is not None


def publish(trainer: Any, name: str, metrics: Mapping[str, float]) -> None:
    """Put scores where checkpoints, early stopping and the progress bar look for them."""
    trainer.callback_metrics.update({key: torch.tensor(value) for key, value in metrics.items()})
    overall = f"{name}/overall"
    if overall in metrics:
        trainer.progress_bar_metrics[overall] = metrics[overall]
