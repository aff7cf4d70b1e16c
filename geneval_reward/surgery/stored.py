"""`stored_bytes`: what the weights of a model take in memory, whatever their format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def stored_bytes(model: nn.Module) -> int:
    """Count the bytes of all storages that the parameters and buffers of a model reach.

    Tensors inside tensors (the packed values and scales of quantised weights) and tensors that a parameter carries as
    attributes (bitsandbytes keeps scales there) count; gradients do not. A storage that several tensors share counts once, and
    as a whole, even if no tensor covers all of it.

    Examples:
        >>> stored_bytes(nn.Linear(1024, 1024, bias=False))
        4194304
    """
    seen: dict[tuple[Any, ...], int] = {}
    for tensor in chain(model.parameters(), model.buffers()):
        for plain in _plain_tensors(tensor, set()):
            storage = plain.untyped_storage()
            address = storage.data_ptr()
            seen[(plain.device, address or id(plain))] = storage.nbytes()
    return sum(seen.values())


def _plain_tensors(value: Any, visited: set[int]) -> Iterator[Tensor]:
    if id(value) in visited:
        return
    visited.add(id(value))
    if isinstance(value, Tensor):
        inner: list[Any] = [item for name, item in vars(value).items() if name not in ("_grad", "grad")]
        if hasattr(value, "__tensor_flatten__"):
            inner += [getattr(value, name) for name in value.__tensor_flatten__()[0]]
        else:
            yield value
        for item in inner:
            yield from _plain_tensors(item, visited)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _plain_tensors(item, visited)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _plain_tensors(item, visited)
    elif not isinstance(value, nn.Module | type | torch.device | torch.dtype) and type(value).__module__.startswith(
        ("bitsandbytes", "torchao", "optimum", "quanto")
    ):
        yield from _plain_tensors(vars(value) if hasattr(value, "__dict__") else {}, visited)
