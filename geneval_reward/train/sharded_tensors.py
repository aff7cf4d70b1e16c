"""Helpers that treat tensors spread over ranks (DTensors) and ordinary ones alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is spread over ranks."""
    return hasattr(tensor, "full_tensor")  # an isinstance check would import DTensor where nothing is sharded


def place_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Place a tensor like another one: on its device, and spread over the ranks in the same way.

    Args:
        tensor: A whole tensor, the same on every rank, or one that is already spread.
        reference: The tensor whose device and placement are used.

    Returns:
        The tensor itself, a copy on the other device, or this rank's share of it.
    """
    if not is_sharded(reference) or is_sharded(tensor):
        return tensor.to(reference.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        tensor.to(reference.device),
        reference.device_mesh,  # type: ignore[attr-defined]
        reference.placements,  # type: ignore[attr-defined]
        src_data_rank=None,
    )


def gather_whole(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a mapping with whole tensors in place of spread ones. All ranks must call it.

    Args:
        values: Tensors, and any other values, by name.

    Returns:
        The same names and values. Tensors that were spread are on the CPU of rank 0, which writes checkpoints; other ranks
        leave them out.
    """
    found = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and is_sharded(value):
            whole = value.detach().full_tensor()  # type: ignore[attr-defined]
            if dist.get_rank():
                continue
            value = whole.cpu()
        found[name] = value.detach() if isinstance(value, Tensor) else value
    return found
