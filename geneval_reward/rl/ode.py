"""Deterministic samplers of a rectified flow, over any `velocity(x, t) -> v`.

Conventions (SD3, FLUX and the toy nets alike): `x_t = (1 - t) x_0 + t eps`, `v = eps - x_0`, t runs from 1
(noise) down to 0 (data).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.rl._tensors import check_latent, check_like, column, is_readable, precise

Velocity = Callable[[Tensor, Tensor], Tensor]
"""`velocity(x, t) -> v`: x (B, ...), t (B,) in [0, 1], v like x. Prompt, guidance and adapters are closed over."""


def interpolate(x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
    """The noised sample `x_t = (1 - t) x_0 + t eps`.

    Args:
        x0: Clean latents (B, ...).
        noise: Standard normal, like `x0`.
        t: A number or (B,), in [0, 1] (not 0 to 1000).

    Returns:
        x_t like `x0`, at least float32.

    Raises:
        UsageError: On shapes that differ or a time outside [0, 1].

    Examples:
        >>> interpolate(torch.zeros(1, 2), torch.ones(1, 2), 0.25)
        tensor([[0.2500, 0.2500]])
    """
    check_latent(x0, "x0")
    check_like(noise, "noise", x0, "x0")
    check_times(t)
    t = column(t, x0, "t")
    return (1 - t) * precise(x0) + t * precise(noise)


def predict_x0(x: Tensor, v: Tensor, t: float | Tensor) -> Tensor:
    """The clean latents that a velocity implies, `x - t v`."""
    check_like(v, "v", x, "x")
    return precise(x) - column(t, x, "t") * precise(v)


def predict_noise(x: Tensor, v: Tensor, t: float | Tensor) -> Tensor:
    """The noise that a velocity implies, `x + (1 - t) v`."""
    check_like(v, "v", x, "x")
    return precise(x) + (1 - column(t, x, "t")) * precise(v)


def euler_step(v: Tensor, x: Tensor, t: float | Tensor, t_next: float | Tensor) -> Tensor:
    """One Euler step of the flow ODE, `x + (t_next - t) v`; at least float32."""
    check_like(v, "v", x, "x")
    return precise(x) + (column(t_next, x, "t_next") - column(t, x, "t")) * precise(v)


def dpm2_step(
    x0: Tensor,
    x0_before: Tensor,
    x: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    t_before: float | Tensor,
) -> Tensor:
    """One second-order multistep step from the clean predictions of this step and of the one before.

    With `lambda_t = log((1 - t) / t)`, `h = lambda_next - lambda_t` and `h_0 = lambda_t - lambda_before`:
    `x_next = (t_next / t) x + (1 - t_next)(1 - e^-h) (x0 + (h / 2 h_0)(x0 - x0_before))`. Written without the
    exponential, it is finite at both ends: from `t_before` = 1 it is first order, since h_0 is infinite.

    Args:
        x0: Clean prediction at `t`, (B, ...).
        x0_before: Clean prediction at `t_before`.
        x: The latents at `t`.
        t: This time, in (0, 1).
        t_next: The next time, in (0, t); for `t_next` = 0 use `euler_step`.
        t_before: The time of the step before, in (t, 1].

    Returns:
        The latents at `t_next`, at least float32.

    Source: DPM-Solver++(2M), arXiv 2211.01095, for alpha = 1 - t and sigma = t.
    """
    check_like(x0, "x0", x, "x")
    check_like(x0_before, "x0_before", x, "x")
    x, x0, x0_before = precise(x), precise(x0), precise(x0_before)
    t, t_next, t_before = column(t, x, "t"), column(t_next, x, "t_next"), column(t_before, x, "t_before")
    h, h0 = _log_snr(t_next) - _log_snr(t), _log_snr(t) - _log_snr(t_before)
    slope = h / h0  # 0 where h0 is infinite
    gain = (1 - t_next) - t_next * (1 - t) / t  # (1 - t_next)(1 - e^-h)
    return t_next / t * x + gain * (x0 + 0.5 * slope * (x0 - x0_before))


@torch.no_grad()
def sample_ode(velocity: Velocity, x: Tensor, sigmas: Tensor, *, solver: Literal["euler", "dpm2"] = "dpm2") -> Tensor:
    """Carry noise to data along the flow ODE.

    Args:
        velocity: The model; called with `x` in its own dtype and t (B,), float32 (float64 for float64 latents).
        x: Noise (B, ...), at the first time.
        sigmas: Times (N + 1,), strictly decreasing in [0, 1]; `flow_sigmas`, or a scheduler's own.
        solver: `"dpm2"`, second order with the first and the last step first order, the rollout of DiffusionNFT;
            `"euler"`, its evaluation sampler.

    Returns:
        The latents at the last time, in the dtype of `x`. The state is kept in float32 between the steps.

    Raises:
        UsageError: On another solver or bad times.

    Examples:
        >>> x = torch.ones(1, 2)  # data is the point 0, so the velocity is x / t
        >>> sample_ode(lambda x, t: x / t[:, None], x, torch.tensor([1.0, 0.5, 0.25]))
        tensor([[0.2500, 0.2500]])
    """
    if solver not in ("euler", "dpm2"):
        raise UsageError(f"solver: expected 'euler' or 'dpm2', got {solver!r}")
    check_latent(x, "x")
    times = sigma_list(sigmas)
    dtype, state = x.dtype, precise(x)
    before: tuple[Tensor, float] | None = None
    for t, t_next in pairwise(times):
        v = velocity(state.to(dtype), state.new_full((x.shape[0],), t))
        if solver == "euler":
            state = euler_step(v, state, t, t_next)
            continue
        x0 = predict_x0(state, v, t)
        if before is None or t_next == times[-1]:
            state = euler_step(v, state, t, t_next)
        else:
            state = dpm2_step(x0, before[0], state, t, t_next, before[1])
        before = x0, t
    return state.to(dtype)


def sigma_list(sigmas: Tensor) -> list[float]:
    """Times as floats; raises UsageError unless strictly decreasing in [0, 1] with at least two of them."""
    times = [float(s) for s in sigmas.detach().cpu().double()] if sigmas.ndim == 1 else []
    falling = all(a > b for a, b in pairwise(times))
    if len(times) < 2 or not falling or times[0] > 1 or times[-1] < 0:
        raise UsageError(
            f"sigmas: expected (N + 1,) times falling strictly within [0, 1], got shape {tuple(sigmas.shape)}, {times}; "
            "divide timesteps of 0 to 1000 by 1000 and append 0"
        )
    return times


def check_times(t: float | Tensor) -> None:
    """Raise UsageError unless all times lie in [0, 1]; timesteps from 0 to 1000 are the usual mistake.

    Times on an accelerator are not read (`is_readable`); `sample_ode` and `sample_sde` check theirs before they go there.
    """
    if not is_readable(t):
        return
    times = torch.as_tensor(t).detach()
    low, high = float(times.min()), float(times.max())
    if not (0 <= low and high <= 1):
        raise UsageError(f"t: expected times in [0, 1], got {low:g} to {high:g}; divide timesteps by 1000")


def _log_snr(t: Tensor) -> Tensor:
    return torch.log1p(-t) - torch.log(t)
