"""DiffusionNFT: reinforcement on the forward process, with no SDE, no likelihood and no guidance (arXiv 2509.16117)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.rl._tensors import (
    check_latent,
    check_like,
    check_vector,
    column,
    is_readable,
    latent_mean,
    precise,
    vector,
    weighted_mean,
)
from geneval_reward.rl.ode import check_times


def optimality_probability(advantages: Tensor, *, clip: float = 5.0) -> Tensor:
    """Turn advantages into the probability that a sample is a good one.

    `r = clip(A / clip, -1, 1) / 2 + 1/2`.

    Args:
        advantages: (N,) advantages.
        clip: `adv_clip_max` (5).

    Returns:
        r like `advantages`, at least float32, in [0, 1]; 1/2 for an advantage of 0.

    Raises:
        UsageError: On a NaN advantage (an unscored sample: give it any r and weight 0) or `clip` <= 0.

    Source: arXiv 2509.16117.

    Examples:
        >>> optimality_probability(torch.tensor([-9.0, 0.0, 2.5]))
        tensor([0.0000, 0.5000, 0.7500])
    """
    if not clip > 0:
        raise UsageError(f"clip: expected a number > 0, got {clip}")
    a = precise(advantages.detach())
    if is_readable(a) and bool(torch.isnan(a).any()):
        index = int(torch.isnan(a).flatten().nonzero()[0])
        raise UsageError(f"advantages[{index}]: expected a number, got NaN; use GroupAdvantages.advantages and .weight")
    return (a.clamp(-clip, clip) / clip / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class NFTLoss:
    """The loss of one batch and what is worth watching; only `total` carries a gradient.

    Attributes:
        total: `policy + kl_weight * kl`; call `backward` on it.
        policy: The policy loss, scaled by `scale`.
        unweighted: The policy loss before that scale.
        kl: Mean squared distance of the velocity to the reference's; 0 without a reference.
        old_kl: The same distance for the old policy; 0 without a reference.
        old_deviate: Mean squared distance of the velocity to the old policy's.
        old_deviate_max: Its largest element.
        x0_norm: Mean square of the clean latents; a rise is the brightening that ends in collapse.
        x0_norm_max: Its largest element.
    """

    total: Tensor
    policy: Tensor
    unweighted: Tensor
    kl: Tensor
    old_kl: Tensor
    old_deviate: Tensor
    old_deviate_max: Tensor
    x0_norm: Tensor
    x0_norm_max: Tensor

    def log_dict(self) -> dict[str, Tensor]:
        """Detached 0-d tensors under the names that the released trainer logs; reduce them when you log them."""
        return {
            "total_loss": self.total.detach(),
            "policy_loss": self.policy,
            "unweighted_policy_loss": self.unweighted,
            "kl_div": self.kl,
            "kl_div_loss": self.kl,
            "old_kl_div": self.old_kl,
            "old_deviate": self.old_deviate,
            "old_deviate_max": self.old_deviate_max,
            "x0_norm": self.x0_norm,
            "x0_norm_max": self.x0_norm_max,
        }


def nft_loss(
    v: Tensor,
    v_old: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: float | Tensor,
    r: Tensor,
    *,
    v_ref: Tensor | None = None,
    beta: float = 1.0,
    kl_weight: float = 1e-4,
    scale: float = 5.0,
    adaptive: bool = True,
    weight: Tensor | None = None,
    denominator: float | Tensor | None = None,
) -> NFTLoss:
    """The DiffusionNFT loss at one time per sample.

    With `d = v - v_old`::

        v_pos = v_old + beta d,   v_neg = v_old - beta d,   x0_s = x_t - t v_s
        w_s   = max(mean |x0_s - x0|, 1e-5)                  # per sample, no gradient
        L_s   = mean((x0_s - x0)^2 / w_s)
        L     = mean(scale (r L_pos + (1 - r) L_neg) / beta) + kl_weight mean((v - v_ref)^2)

    Written with `d`, both sides are equal bit by bit at `v = v_old`, so r = 1/2 gives a gradient of exactly 0 for
    every beta. The optimum is `v_old + (2 / beta) Delta` with `Delta = P(good) (E[target | good] - v_old)`.

    Args:
        v: Velocity of the trained policy, (B, ...), with gradient.
        v_old: Velocity of the policy that sampled.
        x0: The sampled latents.
        x_t: `interpolate` of `x0` with *fresh* noise.
        t: A number or (B,), in (0, 1].
        r: (B,), in [0, 1]; `optimality_probability`.
        v_ref: Velocity of the untrained model, for the KL term; None leaves the term out.
        beta: 1 for GenEval and PickScore, 0.1 for OCR and several rewards. Smaller steps further.
        kl_weight: 1e-4 as released.
        scale: The released loss is multiplied by `adv_clip_max` (5).
        adaptive: The weights w_s; without them w_s = 1.
        weight: (B,) sample weights, e.g. `GroupAdvantages.weight`; 0 leaves a sample out.
        denominator: What the weighted sum over the batch is divided by; default the sum of the weights. Pass a fixed
            number (say scored samples of the epoch / world size) so that micro-batches and ranks add up exactly.

    Returns:
        An `NFTLoss`.

    Raises:
        UsageError: On shapes that differ, or `t`, `r` or `beta` out of range.

    Source: arXiv 2509.16117, alg. 1, eq. 5 and the theorem on its optimum; scale, weights and defaults of the released
    GenEval setting.

    Examples:
        >>> v = torch.zeros(2, 3, requires_grad=True)
        >>> x0, noise = torch.randn(2, 3), torch.randn(2, 3)
        >>> loss = nft_loss(v, torch.zeros(2, 3), x0, 0.5 * x0 + 0.5 * noise, 0.5, torch.full((2,), 0.5))
        >>> loss.total.backward()
        >>> bool((v.grad == 0).all())
        True
    """
    check_latent(v, "v")
    for name, tensor in {"v_old": v_old, "x0": x0, "x_t": x_t, "v_ref": v_ref}.items():
        if tensor is not None:
            check_like(tensor, name, v, "v")
    check_vector(r, "r", v.shape[0])
    check_times(t)
    times = vector(t, v, "t").detach()
    if is_readable(r) and not bool(((r >= 0) & (r <= 1)).all()):
        raise UsageError("r: expected probabilities in [0, 1]; pass advantages through optimality_probability first")
    if not beta > 0:
        raise UsageError(f"beta: expected a number > 0, got {beta}")

    v, v_old, x0, x_t = precise(v), precise(v_old).detach(), precise(x0).detach(), precise(x_t).detach()
    r = r.detach().to(v)
    delta = v - v_old
    step = beta * delta
    t_column = column(times, v, "t")
    good = _side_loss(x_t - t_column * (v_old + step), x0, adaptive)
    bad = _side_loss(x_t - t_column * (v_old - step), x0, adaptive)
    unweighted = weighted_mean((r * good + (1 - r) * bad) / beta, weight, denominator)
    policy = scale * unweighted
    kl, old_kl = v.new_zeros(()), v.new_zeros(())
    total = policy
    if v_ref is not None:
        v_ref = precise(v_ref).detach()
        kl = weighted_mean(latent_mean((v - v_ref) ** 2), weight, denominator)
        old_kl = weighted_mean(latent_mean((v_old - v_ref) ** 2), weight, denominator)
        total = policy + kl_weight * kl
    with torch.no_grad():
        deviation, square = delta**2, x0**2
        return NFTLoss(
            total=total,
            policy=policy.detach(),
            unweighted=unweighted.detach(),
            kl=kl.detach(),
            old_kl=old_kl,
            old_deviate=deviation.mean(),
            old_deviate_max=deviation.max(),
            x0_norm=square.mean(),
            x0_norm_max=square.max(),
        )


def _side_loss(prediction: Tensor, x0: Tensor, adaptive: bool) -> Tensor:
    """Squared error of a clean prediction for each sample, divided by its own mean absolute error if `adaptive`."""
    error = latent_mean((prediction - x0) ** 2)
    if not adaptive:
        return error
    with torch.no_grad():
        size = latent_mean((prediction.double() - x0.double()).abs()).clamp_min(1e-5).to(error)
    return error / size
