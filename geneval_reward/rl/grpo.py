"""Flow-GRPO: the clipped ratio loss over stochastic sampling steps, its KL, and the GRPO-Guard normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.rl._tensors import (
    check_like,
    check_vector,
    column,
    is_readable,
    latent_mean,
    precise,
    vector,
    weighted_mean,
)


@dataclass(frozen=True)
class RatioLoss:
    """The policy loss of one batch at one step; only `policy` carries a gradient.

    Attributes:
        policy: The scalar to add a KL to and call `backward` on.
        ratio: (B,); new over old probability, exactly 1 before the first optimiser step.
        approx_kl: `mean((logp - logp_old)^2) / 2`.
        clipfrac: Share of samples whose ratio lies outside the clip range.
        clipfrac_gt_one: Share above it.
        clipfrac_lt_one: Share below it.
    """

    policy: Tensor
    ratio: Tensor
    approx_kl: Tensor
    clipfrac: Tensor
    clipfrac_gt_one: Tensor
    clipfrac_lt_one: Tensor

    def log_dict(self) -> dict[str, Tensor]:
        """Detached 0-d tensors under the names that the released trainer logs."""
        return {
            "policy_loss": self.policy.detach(),
            "approx_kl": self.approx_kl,
            "clipfrac": self.clipfrac,
            "clipfrac_gt_one": self.clipfrac_gt_one,
            "clipfrac_lt_one": self.clipfrac_lt_one,
        }


def ratio_loss(
    log_prob: Tensor,
    log_prob_old: Tensor,
    advantages: Tensor,
    *,
    clip_range: float = 1e-4,
    adv_clip: float = 5.0,
    weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> RatioLoss:
    """The clipped policy-gradient loss, `mean(max(-A rho, -A clip(rho, 1 - c, 1 + c)))`, `rho = exp(new - old)`.

    Args:
        log_prob: (B,), of the stored steps under the trained policy (`sde_step` with `x_next`), with gradient.
        log_prob_old: (B,), under the policy that sampled (`Rollout.log_probs`).
        advantages: (B,).
        clip_range: `c`. 1e-4 (1e-5 without guidance) belongs to log-probabilities that are *means* over some 10^5
            latent dimensions; it scales with one over the square root of that number, so small models need more.
        adv_clip: Bound of the absolute advantage (5).
        weight: (B,) sample weights; 0 leaves a sample out.
        denominator: As `geneval_reward.rl.nft.nft_loss`.

    Returns:
        A `RatioLoss`.

    Raises:
        UsageError: On shapes other than (B,), a NaN advantage of a sample with weight, or a range out of bounds.

    Source: Flow-GRPO (arXiv 2505.05470), numbers of the released `geneval_sd3` configuration.

    Examples:
        >>> logp = torch.zeros(2, requires_grad=True)
        >>> loss = ratio_loss(logp, torch.zeros(2), torch.tensor([1.0, -1.0]))
        >>> loss.policy.backward()
        >>> loss.ratio.tolist(), logp.grad.tolist()
        ([1.0, 1.0], [-0.5, 0.5])
    """
    _check_pair(log_prob, log_prob_old)
    log_ratio = precise(log_prob) - precise(log_prob_old).detach()
    return _clipped(log_ratio, log_ratio, advantages, clip_range, adv_clip, weight, denominator)


def guarded_ratio_loss(
    log_prob: Tensor,
    log_prob_old: Tensor,
    mean: Tensor,
    mean_old: Tensor,
    sigma: float | Tensor,
    sqrt_dt: float | Tensor,
    advantages: Tensor,
    *,
    clip_range: float = 2e-6,
    adv_clip: float = 5.0,
    weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> RatioLoss:
    """`ratio_loss` with GRPO-Guard's ratio normalisation, so that clipping bites alike at every step and on both sides.

    With `s = sigma sqrt(-dt)`: `b = mean((mean - mean_old)^2) / (2 s^2)`, `rho = exp((new - old + b) s)`, and each
    sample's loss is divided by `-dt`. The log-ratio of a Gaussian step is `mean(eps d) / s - b` with
    `d = mean - mean_old`; adding b removes its negative drift and s its dependence on the step.

    Args:
        log_prob: (B,), of "sde" steps, under the trained policy, with gradient.
        log_prob_old: (B,), under the policy that sampled.
        mean: `SDEStep.mean` under the trained policy, (B, ...), with gradient.
        mean_old: `Rollout.means` of the step, (B, ...).
        sigma: `SDEStep.sigma`; a number or (B,), > 0.
        sqrt_dt: `SDEStep.sqrt_dt`; a number or (B,), > 0.
        advantages: (B,).
        clip_range: 2e-6, as in verl-omni.
        adv_clip: Bound of the absolute advantage.
        weight: (B,) sample weights.
        denominator: As `geneval_reward.rl.nft.nft_loss`.

    Returns:
        A `RatioLoss`; `ratio` is the normalised one, `approx_kl` is of the plain log-ratio.

    Raises:
        UsageError: As `ratio_loss`, or on means that differ in shape or a scale that is not > 0.

    Source: GRPO-Guard (arXiv 2510.22319), as documented by verl-omni. Where that averages the scale over the batch,
    here each sample has its own, so that a batch may mix steps; for one step a batch the two are equal.
    """
    _check_pair(log_prob, log_prob_old)
    check_like(mean_old, "mean_old", mean, "mean")
    check_vector(log_prob, "log_prob", mean.shape[0])
    sigma, sqrt_dt = vector(sigma, mean, "sigma"), vector(sqrt_dt, mean, "sqrt_dt")
    scale = sigma * sqrt_dt
    _check_positive(scale, "sigma * sqrt_dt")
    log_ratio = precise(log_prob) - precise(log_prob_old).detach()
    bias = latent_mean((precise(mean) - precise(mean_old).detach()) ** 2) / (2 * scale**2)
    guarded = (log_ratio + bias) * scale
    return _clipped(guarded, log_ratio, advantages, clip_range, adv_clip, weight, denominator, 1 / sqrt_dt**2)


def gaussian_kl(mean: Tensor, mean_ref: Tensor, sigma: float | Tensor) -> Tensor:
    """KL to the reference policy for each sample, `mean((mean - mean_ref)^2) / (2 sigma^2)`, with the released scale (no dt).

    Args:
        mean: `SDEStep.mean` under the trained policy, (B, ...), with gradient.
        mean_ref: The same under the reference.
        sigma: `SDEStep.sigma`; a number or (B,), > 0 (a CPS step to t = 0 has none).

    Returns:
        (B,), at least float32. Add `beta * kl.mean()` to the loss: .04 for GenEval, 0 in Flow-GRPO-Fast.

    Raises:
        UsageError: On shapes that differ or a sigma that is not > 0.

    Source: Flow-GRPO (arXiv 2505.05470) and its released trainer.

    Examples:
        >>> gaussian_kl(torch.ones(1, 4), torch.zeros(1, 4), 0.5)
        tensor([2.])
    """
    check_like(mean_ref, "mean_ref", mean, "mean")
    sigma = column(sigma, mean, "sigma")
    _check_positive(sigma, "sigma")
    return latent_mean((precise(mean) - precise(mean_ref).detach()) ** 2 / (2 * sigma**2))


def _clipped(
    exponent: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    clip_range: float,
    adv_clip: float,
    weight: Tensor | None,
    denominator: float | Tensor | None,
    factor: Tensor | None = None,
) -> RatioLoss:
    if not 0 < clip_range < 1 or not adv_clip > 0:
        raise UsageError(f"expected clip_range in (0, 1) and adv_clip > 0, got {clip_range} and {adv_clip}")
    check_vector(advantages, "advantages", exponent.shape[0])
    a = precise(advantages).detach().to(exponent).clamp(-adv_clip, adv_clip)
    unknown = torch.isnan(a) if weight is None else torch.isnan(a) & (weight > 0)
    if is_readable(unknown) and bool(unknown.any()):
        raise UsageError(f"advantages[{int(unknown.nonzero()[0])}]: expected a number, got NaN; pass its weight as 0")
    ratio = torch.exp(exponent)
    loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip_range, 1 + clip_range))
    if factor is not None:
        loss = loss * factor
    policy = weighted_mean(loss, weight, denominator)
    with torch.no_grad():
        high = weighted_mean((ratio > 1 + clip_range).to(ratio), weight, None)
        low = weighted_mean((ratio < 1 - clip_range).to(ratio), weight, None)
        return RatioLoss(
            policy=policy,
            ratio=ratio.detach(),
            approx_kl=0.5 * weighted_mean(log_ratio.detach() ** 2, weight, None),
            clipfrac=high + low,
            clipfrac_gt_one=high,
            clipfrac_lt_one=low,
        )


def _check_pair(log_prob: Tensor, log_prob_old: Tensor) -> None:
    if log_prob.ndim != 1:
        raise UsageError(f"log_prob: expected one number per sample, shape (B,), got {tuple(log_prob.shape)}")
    check_like(log_prob_old, "log_prob_old", log_prob, "log_prob")


def _check_positive(x: Tensor, name: str) -> None:
    if is_readable(x) and not bool((x > 0).all()):
        raise UsageError(f"{name}: expected numbers > 0, got {x.flatten().tolist()}; leave deterministic steps out")
