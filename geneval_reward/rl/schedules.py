"""Plain functions of a counter: noise levels, timesteps to train, decays, and where the SDE window stands."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from geneval_reward.errors import UsageError


def flow_sigmas(num_steps: int, *, shift: float = 1.0) -> Tensor:
    """Times of a rectified-flow sampler, from 1 (noise) to 0 (data).

    `t_i = s u_i / (1 + (s - 1) u_i)` with `u` evenly spaced (SD3, arXiv 2403.03206). A pipeline's own
    scheduler spaces its times slightly differently; pass `scheduler.sigmas` to the samplers to follow it exactly.

    Args:
        num_steps: Number of steps, >= 1.
        shift: > 0; above 1 it spends more steps near the noise (SD3 uses 3).

    Returns:
        float32 (num_steps + 1,), strictly decreasing, first 1.0 and last 0.0.

    Raises:
        UsageError: On `num_steps` < 1 or `shift` <= 0.

    Examples:
        >>> flow_sigmas(4).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if num_steps < 1 or shift <= 0:
        raise UsageError(f"expected num_steps >= 1 and shift > 0, got {num_steps} and {shift}")
    u = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    return (shift * u / (1 + (shift - 1) * u)).float()


def num_train_steps(num_steps: int, fraction: float = 0.99) -> int:
    """How many of the rollout's steps are trained: `int(num_steps * fraction)`, at least 1.

    The released `timestep_fraction` is 0.99 in Flow-GRPO and DiffusionNFT: 9 of 10.

    Examples:
        >>> num_train_steps(10)
        9
    """
    if num_steps < 1 or not 0 < fraction <= 1:
        raise UsageError(f"expected num_steps >= 1 and fraction in (0, 1], got {num_steps} and {fraction}")
    return max(1, int(num_steps * fraction))


def permuted_steps(
    batch: int, num_steps: int, *, fraction: float = 0.99, generator: torch.Generator | None = None
) -> Tensor:
    """Steps to train, in a random order of its own for each sample (DiffusionNFT, released trainer).

    Args:
        batch: Number of samples.
        num_steps: Number of steps of the rollout.
        fraction: As `num_train_steps`; the steps left out differ from sample to sample.
        generator: A CPU generator.

    Returns:
        int64 (batch, K) step indices on the CPU, without repetition in a row.

    Examples:
        >>> permuted_steps(2, 10, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 9])
    """
    k = num_train_steps(num_steps, fraction)
    return torch.stack([torch.randperm(num_steps, generator=generator)[:k] for _ in range(batch)])


def ema_decay(step: int, max_decay: float = 0.9) -> float:
    """Warm-up of the evaluated average: `min((1 + step) / (10 + step), max_decay)`.

    0.9 is the released ceiling of DiffusionNFT and Flow-GRPO. Both pass the number of optimizer steps that are done, the
    last one included. DiffusionNFT's average moves at every step; Flow-GRPO's only while `step + 1` is a multiple of 8, once
    for each micro-batch of that time (two with the 32 GPUs of the released setting).

    Examples:
        >>> ema_decay(0), ema_decay(1000)
        (0.1, 0.9)
    """
    if step < 0 or not 0 <= max_decay <= 1:
        raise UsageError(f"expected step >= 0 and max_decay in [0, 1], got {step} and {max_decay}")
    return min((1 + step) / (10 + step), max_decay)


@torch.no_grad()
def ema_update_(averages: Iterable[Tensor], currents: Iterable[Tensor], decay: float) -> None:
    """In place, `average <- decay average + (1 - decay) current`, pair by pair; decay 0 copies exactly.

    Serves both the old policy and the evaluated average. Keep the averages in float32: in half precision a decay
    near 1 changes nothing.

    Raises:
        UsageError: On a decay outside [0, 1], or lists of different lengths or shapes (then nothing is changed).
    """
    pairs = list(averages), list(currents)
    if not 0 <= decay <= 1:
        raise UsageError(f"decay: expected a number in [0, 1], got {decay}")
    if [p.shape for p in pairs[0]] != [p.shape for p in pairs[1]]:
        raise UsageError(
            f"expected averages and currents of equal shapes in equal order, got {len(pairs[0])} and {len(pairs[1])} "
            "tensors; pass the same parameters of both adapters"
        )
    for average, current in zip(*pairs, strict=True):
        average.lerp_(current.to(average), 1 - decay)


def progressive_window(iteration: int, num_steps: int, *, size: int = 4, every: int = 25) -> tuple[int, int]:
    """MixGRPO's window of stochastic steps, which slides from the noisy end to the clean end as training goes on.

    Args:
        iteration: Training iterations done, >= 0.
        num_steps: Number of sampling steps.
        size: Steps in the window (4).
        every: Iterations before it moves by one step (25); it stays at the last place.

    Returns:
        `(start, end)`, the half-open range of stochastic steps; the rest is ODE.

    Raises:
        UsageError: On a window that does not fit or numbers < 1.

    Source: MixGRPO (arXiv 2507.21802 and the released FLUX settings).

    Examples:
        >>> [progressive_window(i, 10) for i in (0, 24, 25, 10_000)]
        [(0, 4), (0, 4), (1, 5), (6, 10)]
    """
    _check_window(size, 0, num_steps)
    if iteration < 0 or every < 1:
        raise UsageError(f"expected iteration >= 0 and every >= 1, got {iteration} and {every}")
    start = min(iteration // every, num_steps - size)
    return start, start + size


def random_window(
    num_steps: int,
    *,
    size: int = 3,
    bounds: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[int, int]:
    """Flow-GRPO-Fast's window of stochastic steps, drawn anew for every sampled batch.

    Draw it from a generator seeded alike on all ranks if a group spans ranks.

    Args:
        num_steps: Number of sampling steps.
        size: Steps in the window (3 in `geneval_sd3_fast_nocfg`).
        bounds: The window lies within this half-open range; default `(0, num_steps // 2)`, as released.
        generator: A CPU generator.

    Returns:
        `(start, end)`, half-open.

    Raises:
        UsageError: On a window that does not fit its bounds.

    Examples:
        >>> start, end = random_window(10, generator=torch.Generator().manual_seed(0))
        >>> end - start, 0 <= start <= 2
        (3, True)
    """
    low, high = bounds if bounds is not None else (0, num_steps // 2)
    if not 0 <= low < high <= num_steps:
        raise UsageError(f"bounds: expected 0 <= low < high <= num_steps = {num_steps}, got ({low}, {high})")
    _check_window(size, low, high)
    start = int(torch.randint(low, high - size + 1, (), generator=generator))
    return start, start + size


def _check_window(size: int, low: int, high: int) -> None:
    if not 1 <= size <= high - low:
        raise UsageError(
            f"size: expected a window of 1 to {high - low} steps, to fit steps {low} to {high}, got {size}"
        )
