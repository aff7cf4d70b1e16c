"""Choosing the weights to score: the training weights, or their moving average, swapped in for the round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any, Final

import torch
from torch import nn

from geneval_reward.callback.base import wrapped
from geneval_reward.errors import UsageError
from geneval_reward.support.shards import holds_shards

# Names of context managers that put the average in place: torch_ema and CompVis latent-diffusion.
_SWAP_CONTEXTS: Final = ("average_parameters", "ema_scope")
_ATTRIBUTES: Final = ("ema", "ema_model", "model_ema")
_WRAPPERS: Final = ("_orig_mod", "_checkpoint_wrapped_module")
# Names of update counters: torch_ema and latent-diffusion, diffusers.
_COUNTERS: Final = ("num_updates", "optimization_step", "n_averaged")


def weights_in_place(weights: str, trainer: Any, pl_module: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which the module holds the chosen weights.

    For `ema` the average is searched for among the trainer's callbacks, the module and its attributes `ema`, `ema_model` and
    `model_ema`. It may be Lightning's `WeightAveraging`, any object with a context manager `average_parameters()` (as in
    torch_ema) or `ema_scope()` (as in latent-diffusion), or diffusers' `EMAModel`.

    Raises:
        UsageError: If there is no average or more than one.
        RuntimeError: If the average has not been updated yet, so that scoring it would be misleading.
    """
    if weights == "current":
        return nullcontext()
    found = _averages(trainer, pl_module)
    if len(found) != 1:
        got = ", ".join(type(average).__name__ for average in found) or "none"
        raise UsageError(
            f"weights='ema': expected one average of the weights, got {got}; add the callback WeightAveraging, or an "
            f"object with {' or '.join(_SWAP_CONTEXTS)} as a callback or as pl_module.ema"
        )
    average = found[0]
    swaps_itself = any(callable(getattr(average, name, None)) for name in _SWAP_CONTEXTS)
    if not swaps_itself and holds_shards(wrapped(trainer, pl_module)):
        raise UsageError(
            f"weights='ema': expected an average with {' or '.join(_SWAP_CONTEXTS)} where the strategy shards weights, got "
            f"{type(average).__name__}; use the recipe's own average, or weights='current'"
        )
    if _is_weight_averaging(average):
        model = average._average_model
        if model is None or int(model.n_averaged) == 0:
            _refuse_fresh(average)
        return _data_swapped(model.module, pl_module)
    # latent-diffusion has the context manager on the module and the counter on its attribute.
    owners = [average, *(getattr(average, name, None) for name in _ATTRIBUTES)]
    counts = [getattr(owner, name, None) for owner in owners for name in _COUNTERS]
    if any(count is not None and int(count) == 0 for count in counts):
        _refuse_fresh(average)
    for name in _SWAP_CONTEXTS:
        if callable(getattr(average, name, None)):
            context: AbstractContextManager[None] = getattr(average, name)()
            return context
    return _stored(average, pl_module)


def averaged_modules(trainer: Any, pl_module: nn.Module) -> list[nn.Module]:
    """List the modules that hold averages, so that they can be restored too."""
    held = []
    for average in _averages(trainer, pl_module):
        model = getattr(average, "_average_model", average)
        if isinstance(model, nn.Module):
            held.append(model)
    return held


def _averages(trainer: Any, pl_module: nn.Module) -> list[Any]:
    groups: list[list[Any]] = [
        [*trainer.callbacks, pl_module],
        [getattr(pl_module, name, None) for name in _ATTRIBUTES],
    ]
    for group in groups:
        found: dict[int, Any] = {id(item): item for item in group if _is_average(item)}
        if found:
            return list(found.values())
    return []


def _is_average(item: Any) -> bool:
    swaps = any(callable(getattr(item, name, None)) for name in _SWAP_CONTEXTS)
    return swaps or _is_weight_averaging(item) or _is_ema_model(item)


def _is_ema_model(item: Any) -> bool:
    return hasattr(item, "shadow_params") and all(callable(getattr(item, name, None)) for name in ("store", "restore"))


def _is_weight_averaging(item: Any) -> bool:
    # By name, because the class exists separately in each of Lightning's two packages.
    return any(kind.__name__ == "WeightAveraging" for kind in type(item).__mro__)


def _refuse_fresh(average: Any) -> None:
    raise RuntimeError(
        f"weights='ema': expected an average that has been updated, got a {type(average).__name__} before its first "
        "update; begin scoring later, or averaging earlier"
    )


@contextmanager
def _data_swapped(source: nn.Module, target: nn.Module) -> Iterator[None]:
    """Give the target the source's values by swapping memory instead of copying, which is exact and easily undone."""
    averages = {_plain_name(n): t for n, t in chain(source.named_parameters(), source.named_buffers())}
    missing = [name for name, _ in target.named_parameters() if _plain_name(name) not in averages]
    if missing:
        raise UsageError(
            f"weights='ema': expected the average to have every parameter of the module, got none for {missing[0]!r} "
            f"({len(missing)} in all); do not change or wrap the module's parts after the average was made"
        )
    own_tensors = chain(target.named_parameters(), target.named_buffers())
    pairs = [(own, averages[_plain_name(name)]) for name, own in own_tensors if _plain_name(name) in averages]
    before = [own.data for own, _ in pairs]
    try:
        for own, average in pairs:
            own.data = average.data.to(device=own.device, dtype=own.dtype)
        yield
    finally:
        for (own, _), data in zip(pairs, before, strict=True):
            own.data = data


def _plain_name(name: str) -> str:
    """Remove the prefixes that `torch.compile` and activation checkpointing add to a tensor's name."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


@contextmanager
def _stored(average: Any, pl_module: nn.Module) -> Iterator[None]:
    """Put the average of diffusers' `EMAModel` in place of the parameters that it averages."""
    shadow = list(average.shadow_params)
    trained = [p for p in pl_module.parameters() if p.requires_grad]
    every = list(pl_module.parameters())
    fitting = next((group for group in (trained, every) if _same_shapes(group, shadow)), None)
    if fitting is None:
        raise UsageError(
            f"weights='ema': expected {type(average).__name__} over the module's parameters, got {len(shadow)} averages for "
            f"{len(trained)} trained of {len(every)} parameters; give it a context manager average_parameters()"
        )
    before = [parameter.data for parameter in fitting]
    try:
        for parameter, values in zip(fitting, shadow, strict=True):
            parameter.data = values.data.to(device=parameter.device, dtype=parameter.dtype)
        yield
    finally:
        for parameter, data in zip(fitting, before, strict=True):
            parameter.data = data


def _same_shapes(first: list[nn.Parameter], second: list[torch.Tensor]) -> bool:
    return [tuple(p.shape) for p in first] == [tuple(p.shape) for p in second]
