"""What code outside of a training step must know about weights that are spread over ranks.

A rank holds a share of such weights, and every forward pass gathers them from all ranks. So all ranks must make the same
passes in the same order, whether they need the results or not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from torch import nn

P = ParamSpec("P")
T = TypeVar("T")


def holds_shards(modules: Iterable[nn.Module]) -> bool:
    """Whether any of the modules has weights that are spread over ranks, by FSDP, FSDP2 or tensor parallelism."""
    parts = [part for module in modules for part in module.modules()]
    if any(isinstance(part, (*_fsdp1(), *_fsdp2())) for part in parts):
        return True
    # An isinstance check would import DTensor where nothing is sharded.
    return any(hasattr(p, "full_tensor") for part in parts for p in part.parameters(recurse=False))


def parts_under_fsdp1(modules: Iterable[nn.Module]) -> set[int]:
    """Return the ids of all modules whose weights an FSDP1 wrapper keeps in memory of its own."""
    wrappers = [part for module in modules for part in module.modules() if isinstance(part, _fsdp1())]
    return {id(part) for wrapper in wrappers for part in wrapper.modules()}


def reshard(modules: Iterable[nn.Module]) -> None:
    """Free the weights that FSDP2 gathered for a forward pass and kept for a backward pass, which will not come."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, _fsdp2()):
                part.reshard()  # type: ignore[operator]


def call_through_root(root: Any, module: nn.Module, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that uses a module, with the weights at hand that FSDP1 keeps in the module's wrapper.

    The wrapper gathers them in its `forward`, so the function takes the place of the module's `forward` for one call.

    Args:
        root: What the strategy wrapped the module in; anything but an FSDP1 wrapper of it is ignored.
        module: The module.
        function: What is called; it may use the module's parts, but not call the module itself.
        *args: Passed to the function.
        **kwargs: Passed to the function.
    """
    if root is module or not isinstance(root, _fsdp1()):
        return function(*args, **kwargs)
    with _forward_replaced(module, function):
        result: T = root(*args, **kwargs)  # type: ignore[operator]
    return result


@contextmanager
def _forward_replaced(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    before = module.__dict__.get("forward")

    def forward(*args: Any, **kwargs: Any) -> Any:
        _put_back(module, before)  # the function may be the module's own forward
        return function(*args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        _put_back(module, before)


def _put_back(module: nn.Module, forward: Any) -> None:
    module.__dict__.pop("forward", None)
    if forward is not None:
        module.forward = forward


def _fsdp1() -> tuple[type, ...]:
    """FSDP1's wrapper, if it was ever imported."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return () if fsdp is None else (fsdp.FullyShardedDataParallel,)


def _fsdp2() -> tuple[type, ...]:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    return () if kind is None else (kind,)
