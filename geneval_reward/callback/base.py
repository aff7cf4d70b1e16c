"""What the callback needs of Lightning, under either of its two names."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from geneval_reward.errors import UsageError
from geneval_reward.support.ranks import rank, world_size

if TYPE_CHECKING:
    from lightning.pytorch import Callback as LightningCallback

__all__ = [
    "LightningCallback",
    "let_monitors_wait",
    "planned_length",
    "publish",
    "put_in_order",
    "refuse_untested",
    "replica",
    "wrapped",
]

_PACKAGES: Final = ("lightning.pytorch", "pytorch_lightning")


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


def refuse_untested(strategy: Any) -> None:
    """Raise for strategies that shard weights in a way on which nothing here was tested.

    Raises:
        UsageError: For DeepSpeed stage 3 and XLA's FSDP; the message says what to do instead.
    """
    names = {kind.__name__ for kind in type(strategy).__mro__}
    found = "XLA FSDP" if "XLAFSDPStrategy" in names else None
    if "DeepSpeedStrategy" in names:
        zero = (getattr(strategy, "config", None) or {}).get("zero_optimization", {})
        found = "DeepSpeed stage 3" if zero.get("stage") == 3 else None
    if found is not None:
        raise UsageError(
            f"strategy: expected DDP, FSDP, ModelParallelStrategy, fsdp2 or DeepSpeed stage 1 or 2, got {found}, where "
            "sampling outside of the training step was never tested and may hang; use one of these, or score saved "
            "checkpoints with `geneval-reward score`"
        )


def wrapped(trainer: Any, pl_module: nn.Module) -> list[nn.Module]:
    """Return what the strategy wrapped the module in (the module itself if in nothing), and the module."""
    model = getattr(getattr(trainer, "strategy", None), "model", None)
    return [model, pl_module] if isinstance(model, nn.Module) and model is not pl_module else [pl_module]


def replica(strategy: Any) -> tuple[int, int]:
    """Return the number of this rank's replica of the model and how many replicas there are.

    Ranks that hold one replica together (tensor parallelism) must sample the same images.
    """
    if any(kind.__name__ == "ModelParallelStrategy" for kind in type(strategy).__mro__):
        share = strategy.distributed_sampler_kwargs
        return share["rank"], share["num_replicas"]
    return rank(), world_size()


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
