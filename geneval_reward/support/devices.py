"""Copies between the host and a device that wait as seldom as possible."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor to a device; to a GPU without waiting for the work that is queued there.

    A copy from ordinary host memory makes the caller wait until the GPU has got to it, so the tensor goes by pinned memory.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return tensor.to(device)  # a copy to the host must be whole when it returns
    if tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def stack_to_device(tensors: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """Stack tensors of one shape, dtype and device, and copy them together, as `to_device` does."""
    first, device = tensors[0], torch.device(device)
    if device.type != "cuda" or first.device.type != "cpu":
        return to_device(torch.stack(list(tensors)), device)
    pinned = torch.empty((len(tensors), *first.shape), dtype=first.dtype, pin_memory=True)
    return torch.stack(list(tensors), out=pinned).to(device, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors to the host, in order, with one wait for all that have the same shape, dtype and device.

    Call it in the thread that makes or was given the tensors: another thread works on another CUDA stream, where they
    may not be finished yet.

    Examples:
        >>> to_host([torch.zeros(2), torch.ones(3)])
        [tensor([0., 0.]), tensor([1., 1., 1.])]
    """
    found = list(tensors)
    groups: dict[tuple[torch.device, torch.dtype, torch.Size], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.device.type != "cpu":
            groups.setdefault((tensor.device, tensor.dtype, tensor.shape), []).append(index)
    for members in groups.values():
        copied = torch.stack([tensors[index] for index in members]).cpu()
        for index, tensor in zip(members, copied, strict=True):
            found[index] = tensor
    return found
