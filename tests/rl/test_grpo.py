import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from geneval_reward.rl import gaussian_kl, guarded_ratio_loss, ratio_loss, sde_step

PAIRS = st.lists(st.tuples(st.floats(-2, 2), st.floats(-10, 10)), min_size=1, max_size=10)


def test_by_hand():
    """Ratios 1.2, 1.2, .8, .8 at c = .1, with either sign of the advantage."""
    new = torch.tensor([1.2, 1.2, 0.8, 0.8]).log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss = ratio_loss(new, torch.zeros(4), advantages, clip_range=0.1)
    assert loss.policy.item() == pytest.approx((-1.1 + 1.2 - 0.8 + 0.9) / 4)
    loss.policy.backward()
    # Clipped where the move already paid off: above for A > 0, below for A < 0.
    assert new.grad.tolist() == pytest.approx([0.0, 1.2 / 4, -0.8 / 4, 0.0])
    assert (loss.clipfrac.item(), loss.clipfrac_gt_one.item(), loss.clipfrac_lt_one.item()) == (1.0, 0.5, 0.5)
    assert loss.approx_kl.item() == pytest.approx(0.5 * (math.log(1.2) ** 2 + math.log(0.8) ** 2) / 2)


@settings(deadline=None, max_examples=50)
@given(PAIRS, st.floats(0.01, 0.5))
def test_never_below_the_unclipped_loss_and_advantage_is_bounded(rows, clip_range):
    log_ratio, advantages = torch.tensor(rows, dtype=torch.float64).T
    loss = ratio_loss(log_ratio, torch.zeros_like(log_ratio), advantages, clip_range=clip_range)
    a = advantages.clamp(-5, 5)
    assert loss.policy >= (-a * log_ratio.exp()).mean() - 1e-9
    # For positive advantages the gain is bounded by the clip range.
    gain = ratio_loss(log_ratio, torch.zeros_like(log_ratio), a.abs(), clip_range=clip_range).policy
    assert gain >= -(a.abs() * (1 + clip_range)).mean() - 1e-9


def test_policy_gradient_at_ratio_one():
    """At the old policy the loss is minus the mean advantage and its gradient is plain REINFORCE."""
    logp = torch.tensor([0.3, -0.2, 1.0], requires_grad=True)
    advantages = torch.tensor([1.0, -0.5, 0.25])
    loss = ratio_loss(logp, logp.detach(), advantages)
    loss.policy.backward()
    assert torch.equal(loss.ratio, torch.ones(3))
    torch.testing.assert_close(logp.grad, -advantages / 3)


def test_weights_and_denominator():
    logp = torch.tensor([0.01, 0.02, -0.01, 0.0], dtype=torch.float64)
    advantages = torch.tensor([1.0, float("nan"), -2.0, 0.5], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0])
    keep = [0, 2, 3]
    zero = torch.zeros(4, dtype=torch.float64)
    weighted = ratio_loss(logp, zero, advantages, clip_range=0.1, weight=weight)
    absent = ratio_loss(logp[keep], zero[keep], advantages[keep], clip_range=0.1)
    for name, value in absent.log_dict().items():
        torch.testing.assert_close(weighted.log_dict()[name], value)
    halves = [
        ratio_loss(logp[s], zero[s], advantages[s], clip_range=0.1, weight=weight[s], denominator=3).policy
        for s in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(halves), absent.policy)


def test_half_precision_is_lifted():
    loss = ratio_loss(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2), torch.ones(2, dtype=torch.float16))
    assert loss.policy.dtype == torch.float32


def guard_case(t, t_next, seed=0, size=64, shift=0.01):
    g = torch.Generator().manual_seed(seed)
    x, v, noise = (torch.randn(5, size, generator=g, dtype=torch.float64) for _ in range(3))
    old = sde_step(v, x, t, t_next, noise=noise)
    change = shift * torch.randn(5, size, generator=g, dtype=torch.float64)
    new = sde_step(v + change, x, t, t_next, x_next=old.x_next)
    return old, new, noise


def test_guard_removes_the_drift_and_the_step():
    """log rho = mean(eps (mean - mean_old)), whatever sigma and dt."""
    for t, t_next in ((0.95, 0.9), (0.5, 0.45), (0.3, 0.1)):
        old, new, noise = guard_case(t, t_next)
        loss = guarded_ratio_loss(new.log_prob, old.log_prob, new.mean, old.mean, old.sigma, old.sqrt_dt, torch.ones(5))
        torch.testing.assert_close(loss.ratio.log(), (noise * (new.mean - old.mean)).mean(1))
        plain = ratio_loss(new.log_prob, old.log_prob, torch.ones(5))
        drift = ((new.mean - old.mean) ** 2).mean(1) / (2 * old.std**2)
        torch.testing.assert_close(plain.ratio.log(), loss.ratio.log() / old.std - drift)
        torch.testing.assert_close(loss.approx_kl, plain.approx_kl)


def test_guard_divides_by_the_step_and_is_one_at_the_old_policy():
    old, new, _ = guard_case(0.5, 0.46, shift=0.0)
    loss = guarded_ratio_loss(new.log_prob, old.log_prob, new.mean, old.mean, old.sigma, old.sqrt_dt, torch.ones(5))
    assert torch.equal(loss.ratio, torch.ones(5, dtype=torch.float64))
    assert loss.policy.item() == pytest.approx(-1 / 0.04)


def test_guard_bad_input():
    old, new, _ = guard_case(0.5, 0.4)
    with pytest.raises(ValueError, match=r"sigma \* sqrt_dt: expected numbers > 0"):
        guarded_ratio_loss(new.log_prob, old.log_prob, new.mean, old.mean, 0.0, 0.3, torch.ones(5))
    with pytest.raises(ValueError, match="mean_old: expected the shape of mean"):
        guarded_ratio_loss(new.log_prob, old.log_prob, new.mean, old.mean[:2], 0.1, 0.3, torch.ones(5))


def test_kl_against_torch_distributions():
    """With sigma as the standard deviation, the mean over the latent dimensions of the KL of two normals."""
    g = torch.Generator().manual_seed(0)
    mean, ref = torch.randn(2, 3, 4, generator=g), torch.randn(2, 3, 4, generator=g)
    sigma = torch.tensor([0.5, 2.0])
    std = sigma[:, None, None]
    expected = kl_divergence(Normal(mean, std), Normal(ref, std)).flatten(1).mean(1)
    torch.testing.assert_close(gaussian_kl(mean, ref, sigma), expected)
    with pytest.raises(ValueError, match="sigma: expected numbers > 0, got"):
        gaussian_kl(mean, ref, 0.0)


@pytest.mark.parametrize(
    ("log_prob", "old", "advantages", "options", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2), {}, "log_prob: expected one number per sample"),
        (torch.zeros(2), torch.zeros(3), torch.zeros(2), {}, "log_prob_old: expected the shape of log_prob"),
        (torch.zeros(2), torch.zeros(2), torch.zeros(1), {}, "advantages: expected one number per sample"),
        (torch.zeros(2), torch.zeros(2), torch.tensor([0.0, float("nan")]), {}, r"advantages\[1\]: expected a number"),
        (torch.zeros(2), torch.zeros(2), torch.zeros(2), {"clip_range": 0.0}, r"clip_range in \(0, 1\)"),
    ],
)
def test_bad_input(log_prob, old, advantages, options, message):
    with pytest.raises(ValueError, match=message):
        ratio_loss(log_prob, old, advantages, **options)
