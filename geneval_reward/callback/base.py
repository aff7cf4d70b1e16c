"""What the callback needs of Lightning, under either of its two names."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from lightning_utilities.core import rank_zero

from geneval_reward.errors import UsageError

if TYPE_CHECKING:
    from lightning.pytorch import Callback as LightningCallback

__all__ = ["LightningCallback", "put_in_order", "refuse_sharded", "tell"]

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
            "GenEvalCallback: expected lightning or pytorch_lightning, got neither; pip install lightning"
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
    groups: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for callback in callbacks:
        if getattr(callback, "scores_with_geneval", False):
            groups[1].append(callback)
        else:
            groups[2 if _is_monitor(callback) else 0].append(callback)
    return [*groups[0], *groups[1], *groups[2]]


def _is_monitor(callback: Any) -> bool:
    names = {kind.__name__ for kind in type(callback).__mro__}
    return bool(names & {"EarlyStopping", "Checkpoint"}) or isinstance(getattr(callback, "monitor", None), str)


def tell(message: str) -> None:
    """Say something on rank 0, the way Lightning does: on the console by default."""
    rank_zero.rank_zero_info(message)
