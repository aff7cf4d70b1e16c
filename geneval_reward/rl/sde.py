"""Stochastic steps of a rectified flow with their log-probability: what GRPO explores and differentiates.

Two step rules: `"sde"`, Flow-GRPO (arXiv 2505.05470), and `"cps"`, coefficients-preserving sampling (2509.05952).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.rl._tensors import (
    Generators,
    check_latent,
    check_like,
    column,
    is_readable,
    latent_mean,
    precise,
    randn_like,
)
from geneval_reward.rl.ode import Velocity, check_times, euler_step, predict_noise, predict_x0, sigma_list

StepKind = Literal["sde", "cps"]


@dataclass(frozen=True)
class SDEStep:
    """One stochastic step.

    Attributes:
        x_next: The latents at `t_next`, (B, ...), dtype of `x`; carries no gradient.
        log_prob: (B,), at least float32; the *mean* over the latent dimensions, as released. Carries the gradient.
        mean: (B, ...), at least float32; the mean of `x_next`. Carries the gradient.
        std: (B,); standard deviation of `x_next`. 0 where a CPS step ends at t = 0.
        sigma: (B,); the scale that the KL divides by: the diffusion coefficient for "sde", `std` for "cps".
        sqrt_dt: (B,); `sqrt(t - t_next)`.
    """

    x_next: Tensor
    log_prob: Tensor
    mean: Tensor
    std: Tensor
    sigma: Tensor
    sqrt_dt: Tensor


def sde_step(
    v: Tensor,
    x: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    *,
    kind: StepKind = "sde",
    noise_level: float = 0.7,
    x_next: Tensor | None = None,
    noise: Tensor | None = None,
    generator: Generators = None,
) -> SDEStep:
    """Take one stochastic step, or measure the log-probability of one that was taken.

    `kind="sde"`, with `dt = t_next - t < 0` and `sigma = a sqrt(t / (1 - t))`::

        mean = x (1 + sigma^2 / (2 t) dt) + v (1 + sigma^2 (1 - t) / (2 t)) dt
        x'   ~ N(mean, sigma^2 (-dt))
        logp = mean over the latent dimensions of log N(x'; mean, sigma^2 (-dt))

    At t = 1 sigma would be infinite; there `1 - t_next` stands in for `1 - t` (the released code takes its second
    sigma, which is `t_next` of the first step).

    `kind="cps"`, with `std = t_next sin(a pi / 2)`::

        mean = (1 - t_next) x0 + sqrt(t_next^2 - std^2) x1,   x0 = x - t v,   x1 = x + (1 - t) v
        x'   ~ N(mean, std^2)
        logp = mean over the latent dimensions of -(x' - mean)^2      # constants and 1 / (2 std^2) dropped

    All of it runs in at least float32. `x_next` is rounded to the dtype of `x` *before* its log-probability is
    taken, so that recomputing it from stored half-precision latents gives the same number: with the same velocity the
    ratio is exactly 1.

    Args:
        v: Velocity (B, ...).
        x: Latents at `t`, (B, ...).
        t: A number or (B,), in (0, 1].
        t_next: A number or (B,), in [0, t).
        kind: The step rule.
        noise_level: `a` > 0; at most 1 for CPS. 0.7 for "sde" and 0.8 for "cps" in the released configurations.
        x_next: A stored step, to be measured; None takes a new one.
        noise: Standard normal like `x`, for a new step; None draws it.
        generator: One generator, or one per sample, to draw it from.

    Returns:
        An `SDEStep`.

    Raises:
        UsageError: On shapes that differ, times out of order or range, a noise level out of range (for a
            deterministic step use `euler_step`: it has no density), or both `x_next` and a source of noise.

    Examples:
        >>> x, v = torch.zeros(2, 4), torch.ones(2, 4)
        >>> taken = sde_step(v, x, 0.5, 0.4, generator=torch.Generator().manual_seed(0))
        >>> measured = sde_step(v, x, 0.5, 0.4, x_next=taken.x_next)
        >>> torch.equal(taken.log_prob, measured.log_prob)
        True
    """
    check_latent(x, "x")
    check_like(v, "v", x, "x")
    if kind not in ("sde", "cps"):
        raise UsageError(f"kind: expected 'sde' or 'cps', got {kind!r}")
    if not noise_level > 0 or (kind == "cps" and noise_level > 1):
        limit = "in (0, 1]" if kind == "cps" else "> 0"
        raise UsageError(f"noise_level: expected a number {limit}, got {noise_level}; without noise use euler_step")
    if x_next is not None and (noise is not None or generator is not None):
        raise UsageError("expected either x_next, to measure a step, or noise/generator, to take one; got both")

    dtype, x, v = x.dtype, precise(x), precise(v)
    for time in (t, t_next):
        check_times(time)
    now, then = column(t, x, "t"), column(t_next, x, "t_next")
    if is_readable(t) and is_readable(t_next) and not bool(torch.all(torch.as_tensor(t) > torch.as_tensor(t_next))):
        raise UsageError(f"t_next: expected times below t, got t {now.flatten()} and t_next {then.flatten()}")
    dt = then - now
    if kind == "sde":
        sigma = noise_level * torch.sqrt(now / (1 - torch.where(now == 1, then, now)))
        half = sigma**2 / (2 * now)
        mean = x * (1 + half * dt) + v * (1 + half * (1 - now)) * dt
        std = sigma * torch.sqrt(-dt)
    else:
        std = sigma = then * math.sin(noise_level * math.pi / 2)
        # then^2 - std^2, without the cancellation
        keep = then * abs(math.cos(noise_level * math.pi / 2))
        mean = (1 - then) * predict_x0(x, v, t) + keep * predict_noise(x, v, t)

    if x_next is None:
        if noise is None:
            noise = randn_like(x, generator, x.dtype)
        check_like(noise, "noise", x, "x")
        x_next = (mean + std * precise(noise)).to(dtype)
    else:
        check_like(x_next, "x_next", x, "x")
    x_next = x_next.detach()
    square = (precise(x_next) - mean) ** 2
    if kind == "sde":
        log_prob = latent_mean(-square / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi))
    else:
        log_prob = latent_mean(-square)
    return SDEStep(x_next, log_prob, mean, std.flatten(), sigma.flatten(), torch.sqrt(-dt).flatten())


@dataclass(frozen=True)
class Rollout:
    """A sampled batch with what the policy gradient needs of its K stochastic steps.

    Attributes:
        x: The final latents, (B, ...).
        states: (B, K + 1, ...); stochastic step k went from `states[:, k]` to `states[:, k + 1]`.
        log_probs: (B, K), at least float32, under the policy that sampled.
        means: (B, K, ...), at least float32, or None if not asked for (GRPO-Guard needs them).
        t: (K,), the times of the stochastic steps.
        t_next: (K,), where they led.
        window: The half-open range of stochastic steps among all steps.
    """

    x: Tensor
    states: Tensor
    log_probs: Tensor
    means: Tensor | None
    t: Tensor
    t_next: Tensor
    window: tuple[int, int]


@torch.no_grad()
def sample_sde(
    velocity: Velocity,
    x: Tensor,
    sigmas: Tensor,
    *,
    window: tuple[int, int] | None = None,
    kind: StepKind = "sde",
    noise_level: float = 0.7,
    generator: Generators = None,
    keep_means: bool = False,
) -> Rollout:
    """Sample with stochastic steps inside a window and Euler ODE steps outside it.

    Args:
        velocity: The model; called with `x` in its own dtype and t (B,), float32 (float64 for float64 latents).
        x: Noise (B, ...), at the first time.
        sigmas: Times (N + 1,), strictly decreasing in [0, 1].
        window: half-open range of stochastic steps: `progressive_window` (MixGRPO), `random_window` (Flow-GRPO-Fast);
            None makes every step stochastic (Flow-GRPO).
        kind: The step rule.
        noise_level: As `sde_step`.
        generator: One generator, or one per sample.
        keep_means: Also keep the means, at the cost of K latents per sample.

    Returns:
        A `Rollout`. Latents are rounded to the dtype of `x` after every step, as they are stored.

    Raises:
        UsageError: On bad times, or a window that is empty or outside the steps.

    Examples:
        >>> rollout = sample_sde(lambda x, t: x, torch.randn(2, 3), torch.linspace(1, 0, 11), window=(1, 4))
        >>> rollout.states.shape, rollout.log_probs.shape
        (torch.Size([2, 4, 3]), torch.Size([2, 3]))
    """
    check_latent(x, "x")
    times = sigma_list(sigmas)
    steps = len(times) - 1
    start, end = window if window is not None else (0, steps)
    if not 0 <= start < end <= steps:
        raise UsageError(f"window: expected 0 <= start < end <= {steps} steps, got ({start}, {end})")
    at = precise(x).new_tensor(times)
    states, log_probs, means = [], [], []
    for i, (t, t_next) in enumerate(pairwise(times)):
        v = velocity(x, at[i].expand(x.shape[0]))
        if not start <= i < end:
            x = euler_step(v, x, t, t_next).to(x.dtype)
            continue
        step = sde_step(v, x, t, t_next, kind=kind, noise_level=noise_level, generator=generator)
        states.append(x)
        log_probs.append(step.log_prob)
        if keep_means:
            means.append(step.mean)
        x = step.x_next
        if i == end - 1:
            states.append(x)
    return Rollout(
        x=x,
        states=torch.stack(states, 1),
        log_probs=torch.stack(log_probs, 1),
        means=torch.stack(means, 1) if keep_means else None,
        t=at[start:end],
        t_next=at[start + 1 : end + 1],
        window=(start, end),
    )
