"""Small tensor helpers that all of `rl` shares: dtype, broadcasting, reductions and their checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geneval_reward.errors import UsageError

Generators = torch.Generator | Sequence[torch.Generator] | None


def precise(x: Tensor) -> Tensor:
    """Return `x` in at least float32: bf16 and fp16 overflow or lose the small differences the methods live on."""
    return x if x.dtype == torch.float64 else x.float()


def check_latent(x: Tensor, name: str) -> None:
    """Raise unless `x` is a float tensor of shape (B, ...) with a sample and at least one latent dimension."""
    if x.ndim < 2 or not x.numel() or not x.is_floating_point():
        raise UsageError(
            f"{name}: expected a float tensor (B, ...) that is not empty, got {x.dtype}, shape {tuple(x.shape)}"
        )


def is_readable(x: float | Tensor) -> bool:
    """Whether values may be checked: numbers, and tensors on the CPU.

    Reading a value from an accelerator waits for all work that was launched there.
    """
    return not isinstance(x, Tensor) or x.device.type == "cpu"


def check_like(x: Tensor, name: str, reference: Tensor, reference_name: str) -> None:
    """Raise unless `x` has exactly the shape of `reference`; broadcasting here is always a mistake."""
    if x.shape != reference.shape:
        raise UsageError(
            f"{name}: expected the shape of {reference_name}, {tuple(reference.shape)}, got {tuple(x.shape)}"
        )


def check_vector(x: Tensor, name: str, batch: int) -> None:
    """Raise unless `x` is one number per sample, shape (B,)."""
    if x.shape != (batch,):
        raise UsageError(f"{name}: expected one number per sample, shape ({batch},), got {tuple(x.shape)}")


def vector(value: float | Tensor, like: Tensor, name: str) -> Tensor:
    """Bring a number, a 0-d tensor or a (B,) tensor to shape (B,) on the device of `like`, at least float32."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if not isinstance(value, Tensor):
        return torch.full((like.shape[0],), float(value), dtype=dtype, device=like.device)
    if value.ndim:
        check_vector(value, name, like.shape[0])
    return value.to(like.device, dtype, non_blocking=True).expand(like.shape[0])


def column(value: float | Tensor, like: Tensor, name: str) -> Tensor:
    """As `vector`, shaped (B, 1, ..., 1) so that it broadcasts over the latent dimensions of `like`."""
    return vector(value, like, name).reshape(-1, *([1] * (like.ndim - 1)))


def latent_mean(x: Tensor) -> Tensor:
    """Mean over everything but the batch: (B, ...) -> (B,)."""
    return x.flatten(1).mean(1)


def weighted_mean(values: Tensor, weight: Tensor | None, denominator: float | Tensor | None) -> Tensor:
    """Sum of `weight * values` over `denominator` (default: the sum of the weights); 0 if nothing has weight.

    A sample of weight 0 is left out even where its value is NaN. That keeps the loss finite, not the gradient of the
    network: samples with NaN latents must be dropped before the forward pass.
    """
    if weight is not None:
        check_vector(weight, "weight", values.shape[0])
        weight = weight.to(values)
        values = torch.where(weight > 0, values, torch.zeros_like(values)) * weight
    if denominator is None:
        denominator = float(values.shape[0]) if weight is None else weight.sum().clamp_min(1e-12)
    return values.sum() / denominator


def randn_like(x: Tensor, generator: Generators, dtype: torch.dtype) -> Tensor:
    """Standard normal noise of the shape of `x`; one generator for the batch, or one per sample.

    With one generator per sample, a sample's noise does not depend on its batch. Noise is drawn on the generator's
    device, so that a CPU generator gives the same noise whatever device the latents are on.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, generator=generator, device=device, dtype=dtype).to(x.device)
    if len(generator) != x.shape[0]:
        raise UsageError(f"generator: expected one per sample, {x.shape[0]}, got {len(generator)}")
    rows = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=dtype) for g in generator]
    noise = torch.stack(rows)
    if x.is_cuda and noise.device.type == "cpu":
        # A copy from ordinary memory would wait until the GPU has done all that was launched before.
        return noise.pin_memory().to(x.device, non_blocking=True)
    return noise.to(x.device)
