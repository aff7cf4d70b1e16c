import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from geneval_reward.rl import (
    euler_step,
    flow_sigmas,
    ratio_loss,
    sample_ode,
    sample_sde,
    sde_step,
)

MEAN, SPREAD = 1.5, 0.4


def gaussian_velocity(x, t, spread=SPREAD):
    """Closed form for data N(MEAN, spread^2): E[eps - x0 | x_t = x]."""
    t = t.view(-1, *([1] * (x.ndim - 1)))
    variance = (1 - t) ** 2 * spread**2 + t**2
    return -MEAN + (t - (1 - t) * spread**2) / variance * (x - (1 - t) * MEAN)


def marginal(t, spread=SPREAD):
    """Mean and variance of x_t, on which the ODE and the SDE must agree."""
    return (1 - t) * MEAN, (1 - t) ** 2 * spread**2 + t**2


def push(times, kind, noise_level, spread=SPREAD):
    """Carry mean and variance through the sampler exactly: with an affine velocity every step is affine."""
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    mean, variance = marginal(times[0], spread)
    worst = 0.0
    for t, t_next in pairwise(times):
        v = gaussian_velocity(x, torch.full((2,), t, dtype=torch.float64), spread)
        step = sde_step(v, x, t, t_next, kind=kind, noise_level=noise_level, noise=torch.zeros_like(x))
        offset = step.mean[0].item()
        slope = step.mean[1].item() - offset
        mean, variance = offset + slope * mean, slope**2 * variance + step.std[0].item() ** 2
        true_mean, true_variance = marginal(t_next, spread)
        worst = max(worst, abs(mean - true_mean), abs(variance - true_variance))
    return worst, variance


def grid(start, n):
    return [start * (1 - i / n) for i in range(n)] + [0.0]


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_sde_marginals_are_the_ode_marginals(noise_level):
    """At all times, with an error that halves with the step."""
    errors = [push(grid(0.9, n), "sde", noise_level)[0] for n in (100, 200, 400)]
    assert errors[-1] < 0.02
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([1, 1], abs=0.25)


def test_sde_marginals_from_pure_noise():
    """From t = 1 the diffusion is singular, so the error only falls with a fractional power; but it falls."""
    errors = [abs(push(grid(1.0, n), "sde", 0.7)[1] - SPREAD**2) for n in (20, 80, 320)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("steps", [2, 5, 10])
@pytest.mark.parametrize("noise_level", [0.2, 0.8, 1.0])
def test_cps_is_exact_on_a_point_at_any_number_of_steps(steps, noise_level):
    """The coefficients it preserves: where the predictions are exact, so are all marginals. The SDE is not."""
    assert push(grid(1.0, steps), "cps", noise_level, spread=0.0)[0] < 1e-12
    assert push(grid(1.0, steps), "sde", noise_level, spread=0.0)[0] > 1e-3


def test_cps_narrows_a_spread_distribution_whatever_the_step():
    """Documented in docs/rl_maths.md: CPS noise does not shrink with the step, so this bias stays."""
    variances = [push(grid(1.0, n), "cps", 0.8)[1] for n in (10, 100, 1000)]
    assert all(v < 0.7 * SPREAD**2 for v in variances)


def test_sampled_moments_agree_with_the_ode():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 2, generator=g)
    rollout = sample_sde(gaussian_velocity, x, flow_sigmas(50), generator=g)
    ode = sample_ode(gaussian_velocity, x, flow_sigmas(50))
    assert rollout.x.mean(0).tolist() == pytest.approx(ode.mean(0).tolist(), abs=0.02)
    assert rollout.x.std(0).tolist() == pytest.approx(ode.std(0).tolist(), abs=0.03)
    # The SDE forgets where it started, the ODE does not.
    correlation = torch.corrcoef(torch.stack([x[:, 0], rollout.x[:, 0]]))[0, 1]
    assert correlation < 0.9 < torch.corrcoef(torch.stack([x[:, 0], ode[:, 0]]))[0, 1]


@pytest.mark.parametrize("shape", [(3, 2), (2, 5, 4), (2, 4, 3, 3)])
def test_log_prob_against_torch_distributions(shape):
    g = torch.Generator().manual_seed(0)
    x, v = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    t = torch.linspace(0.9, 0.3, shape[0])
    step = sde_step(v, x, t, t - 0.1, generator=g)
    std = step.std.view(-1, *([1] * (len(shape) - 1)))
    expected = Normal(step.mean, std).log_prob(step.x_next).flatten(1).mean(1)
    torch.testing.assert_close(step.log_prob, expected)
    torch.testing.assert_close(step.std, step.sigma * step.sqrt_dt)
    torch.testing.assert_close(step.sigma, 0.7 * torch.sqrt(t / (1 - t)))


def test_cps_log_prob_is_the_normal_one_up_to_scale_and_constant():
    g = torch.Generator().manual_seed(0)
    x, v = torch.randn(3, 4, generator=g), torch.randn(3, 4, generator=g)
    step = sde_step(v, x, 0.6, 0.5, kind="cps", noise_level=0.8, generator=g)
    assert step.std.tolist() == pytest.approx([0.5 * math.sin(0.4 * math.pi)] * 3)
    std = step.std[:, None]
    normal = Normal(step.mean, std).log_prob(step.x_next) + std.log() + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(step.log_prob, (2 * std**2 * normal).mean(1))


def test_sde_mean_by_hand():
    step = sde_step(torch.tensor([[2.0]]), torch.tensor([[1.0]]), 0.5, 0.4, noise=torch.tensor([[1.0]]))
    half = 0.49 / (2 * 0.5)
    mean = 1.0 * (1 - 0.1 * half) + 2.0 * (1 + half * 0.5) * -0.1
    assert step.mean.item() == pytest.approx(mean)
    assert step.x_next.item() == pytest.approx(mean + 0.7 * math.sqrt(0.1))


def test_first_step_uses_the_second_time():
    x, v = torch.ones(1, 2), torch.ones(1, 2)
    step = sde_step(v, x, 1.0, 0.9)
    assert step.sigma.item() == pytest.approx(0.7 * math.sqrt(1 / 0.1))
    assert torch.isfinite(step.log_prob).all()


@pytest.mark.parametrize("kind", ["sde", "cps"])
def test_little_noise_is_nearly_an_euler_step(kind):
    g = torch.Generator().manual_seed(0)
    x, v = torch.randn(3, 4, generator=g), torch.randn(3, 4, generator=g)
    step = sde_step(v, x, 0.6, 0.5, kind=kind, noise_level=1e-4, generator=g)
    torch.testing.assert_close(step.x_next, euler_step(v, x, 0.6, 0.5), atol=1e-3, rtol=1e-3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.SiLU(), nn.Linear(16, 4))

    def forward(self, x, t):
        return self.layers(torch.cat([x.float(), t[:, None]], 1)).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["sde", "cps"])
@pytest.mark.parametrize("window", [None, (2, 5)])
def test_ratio_is_exactly_one_on_the_first_inner_step(dtype, kind, window):
    """Bit by bit, also from stored half-precision latents, and the gradient is there all the same."""
    net = Net()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    rollout = sample_sde(net, x, flow_sigmas(10, shift=3.0), kind=kind, window=window, noise_level=0.7)
    steps = rollout.log_probs.shape[1] - (window is None)
    for k in range(steps):
        here, there = rollout.states[:, k], rollout.states[:, k + 1]
        v = net(here, rollout.t[k].expand(6))
        step = sde_step(v, here, rollout.t[k], rollout.t_next[k], kind=kind, x_next=there)
        assert torch.equal(step.log_prob, rollout.log_probs[:, k])
        loss = ratio_loss(step.log_prob, rollout.log_probs[:, k], torch.ones(6))
        assert torch.equal(loss.ratio, torch.ones(6))
        assert loss.clipfrac == 0
        net.zero_grad()
        loss.policy.backward()
        assert net.layers[0].weight.grad.abs().max() > 0


def test_gradient_of_log_prob_follows_the_score():
    """d logp / d mean = (x' - mean) / (std^2 D)."""
    g = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 3, generator=g), torch.randn(2, 3, generator=g).requires_grad_()
    step = sde_step(v, x, 0.6, 0.5, generator=g)
    assert not step.x_next.requires_grad
    (grad,) = torch.autograd.grad(step.log_prob.sum(), step.mean)
    torch.testing.assert_close(grad, (step.x_next - step.mean) / step.std[:, None] ** 2 / 3)


def test_window_is_stochastic_inside_and_ode_outside():
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    sigmas = flow_sigmas(8)
    rollout = sample_sde(gaussian_velocity, x, sigmas, window=(2, 5), keep_means=True)
    assert rollout.states.shape == (3, 4, 2)
    assert rollout.means.shape == (3, 3, 2)
    assert torch.equal(rollout.t, sigmas[2:5])
    assert torch.equal(rollout.t_next, sigmas[3:6])
    torch.testing.assert_close(rollout.states[:, 0], sample_ode(gaussian_velocity, x, sigmas[:3], solver="euler"))
    after = sample_ode(gaussian_velocity, rollout.states[:, -1], sigmas[5:], solver="euler")
    torch.testing.assert_close(rollout.x, after)
    residual = rollout.states[:, 1:] - rollout.means
    assert residual.abs().min() > 0


def test_window_to_the_end_and_default():
    x = torch.randn(2, 2)
    for window in (None, (0, 4)):
        rollout = sample_sde(gaussian_velocity, x, flow_sigmas(4), window=window)
        assert rollout.window == (0, 4)
        assert rollout.means is None
        assert torch.equal(rollout.states[:, -1], rollout.x)


def test_one_generator_a_sample_makes_noise_independent_of_the_batch():
    seeds = [11, 12, 13]
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))

    def run(rows):
        generators = [torch.Generator().manual_seed(seeds[i]) for i in rows]
        return sample_sde(gaussian_velocity, x[rows], flow_sigmas(5), generator=generators).x

    assert torch.equal(run([0, 1, 2])[1:2], run([1]))
    with pytest.raises(ValueError, match="generator: expected one per sample, 3, got 1"):
        sample_sde(gaussian_velocity, x, flow_sigmas(5), generator=[torch.Generator()])


def test_times_may_differ_within_a_batch():
    g = torch.Generator().manual_seed(0)
    x, v, noise = (torch.randn(2, 3, generator=g) for _ in range(3))
    t, t_next = torch.tensor([1.0, 0.4]), torch.tensor([0.8, 0.0])
    both = sde_step(v, x, t, t_next, noise=noise)
    for i in range(2):
        one = slice(i, i + 1)
        alone = sde_step(v[one], x[one], t[i], t_next[i], noise=noise[one])
        torch.testing.assert_close(both.x_next[one], alone.x_next)
        torch.testing.assert_close(both.log_prob[one], alone.log_prob)


def test_last_cps_step_is_deterministic_and_finite():
    x, v = torch.ones(1, 2), torch.full((1, 2), 0.5)
    step = sde_step(v, x, 0.2, 0.0, kind="cps")
    torch.testing.assert_close(step.x_next, x - 0.2 * v)
    assert (step.std.item(), step.log_prob.item()) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": 0.4, "t_next": 0.5}, "t_next: expected times below t"),
        ({"t": 900.0, "t_next": 800.0}, "divide timesteps by 1000"),
        ({"noise_level": 0.0}, "noise_level: expected a number > 0, got 0.0; without noise use euler_step"),
        ({"kind": "cps", "noise_level": 1.5}, r"noise_level: expected a number in \(0, 1\]"),
        ({"kind": "ddim"}, "kind: expected 'sde' or 'cps'"),
        ({"x_next": torch.zeros(2, 3), "noise": torch.zeros(2, 3)}, "got both"),
        ({"x_next": torch.zeros(3)}, "x_next: expected the shape of x"),
        ({"v": torch.zeros(1, 3)}, "v: expected the shape of x"),
    ],
)
def test_bad_input(options, message):
    arguments = {"v": torch.zeros(2, 3), "x": torch.zeros(2, 3), "t": 0.5, "t_next": 0.4} | options
    with pytest.raises(ValueError, match=message):
        sde_step(**arguments)


@pytest.mark.parametrize("window", [(3, 3), (-1, 2), (2, 6)])
def test_bad_window(window):
    with pytest.raises(ValueError, match="window: expected 0 <= start < end <= 5 steps"):
        sample_sde(gaussian_velocity, torch.zeros(1, 2), flow_sigmas(5), window=window)
