import math
from itertools import pairwise

import pytest
import torch

from geneval_reward.rl import (
    dpm2_step,
    euler_step,
    flow_sigmas,
    interpolate,
    predict_noise,
    predict_x0,
    sample_ode,
)

MEAN, SPREAD = 1.5, 0.4


def gaussian_velocity(x, t):
    """Closed form for data N(MEAN, SPREAD^2): E[eps - x0 | x_t = x]."""
    t = t.view(-1, *([1] * (x.ndim - 1)))
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    return -MEAN + (t - (1 - t) * SPREAD**2) / variance * (x - (1 - t) * MEAN)


def exact(noise):
    """Where the ODE carries noise to: it keeps the quantile of each marginal."""
    return MEAN + SPREAD * noise


@pytest.mark.parametrize("shape", [(5, 1), (2, 3, 4), (2, 4, 3, 3)])
@pytest.mark.parametrize("solver", ["euler", "dpm2"])
def test_reaches_the_data_distribution(shape, solver):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = sample_ode(gaussian_velocity, x, flow_sigmas(400), solver=solver)
    torch.testing.assert_close(end, exact(x), atol=2e-2, rtol=0)


def quantile_error(solver, start, end, n):
    """Largest error of carrying quantiles of the marginal at `start` to the one at `end` in n steps."""
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    (x, expected) = ((1 - t) * MEAN + math.hypot((1 - t) * SPREAD, t) * z for t in (start, end))
    sigmas = torch.linspace(start, end, n + 1, dtype=torch.float64)
    return (sample_ode(gaussian_velocity, x, sigmas, solver=solver) - expected).abs().max().item()


@pytest.mark.parametrize(("solver", "low", "high"), [("euler", 0.9, 1.1), ("dpm2", 1.9, 3.0)])
def test_order_of_convergence(solver, low, high):
    """First and at least second order; here errors of the second partly cancel, so it looks like 2.5."""
    errors = [quantile_error(solver, 0.9, 0.1, n) for n in (40, 80, 160)]
    assert all(low < math.log2(a / b) < high for a, b in pairwise(errors))


@pytest.mark.parametrize("n", [10, 20, 40, 80])
def test_dpm2_beats_euler_from_noise_to_data(n):
    assert quantile_error("dpm2", 1.0, 0.0, n) < quantile_error("euler", 1.0, 0.0, n) / 4


def test_dpm2_against_the_exponential_form():
    g = torch.Generator().manual_seed(0)
    x, m0, m1 = (torch.randn(3, 4, generator=g, dtype=torch.float64) for _ in range(3))
    before, now, then = 0.8, 0.55, 0.3
    log_snr = [math.log((1 - t) / t) for t in (before, now, then)]
    h0, h = log_snr[1] - log_snr[0], log_snr[2] - log_snr[1]
    d1 = (m0 - m1) / (h0 / h)
    gain = (1 - then) * (math.exp(-h) - 1)
    expected = then / now * x - gain * m0 - 0.5 * gain * d1
    torch.testing.assert_close(dpm2_step(m0, m1, x, now, then, before), expected)


def test_dpm2_is_euler_when_the_predictions_agree_and_from_pure_noise():
    g = torch.Generator().manual_seed(0)
    x, v, other = (torch.randn(3, 4, generator=g) for _ in range(3))
    x0 = predict_x0(x, v, 0.7)
    torch.testing.assert_close(dpm2_step(x0, x0, x, 0.7, 0.4, 0.9), euler_step(v, x, 0.7, 0.4))
    torch.testing.assert_close(dpm2_step(x0, other, x, 0.7, 0.4, 1.0), euler_step(v, x, 0.7, 0.4))


def test_a_time_of_its_own_for_every_sample():
    g = torch.Generator().manual_seed(0)
    x, v, m = (torch.randn(3, 2, 2, generator=g) for _ in range(3))
    t, t_next, t_before = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.7, 0.4, 0.1]), torch.tensor([1.0, 0.6, 0.3])
    euler, dpm2 = euler_step(v, x, t, t_next), dpm2_step(v, m, x, t, t_next, t_before)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(euler[one], euler_step(v[one], x[one], t[i], t_next[i]))
        torch.testing.assert_close(dpm2[one], dpm2_step(v[one], m[one], x[one], t[i], t_next[i], t_before[i]))


def test_predictions_invert_interpolation():
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g)
    t = torch.tensor([0.1, 0.4, 0.8, 1.0])
    x_t = interpolate(x0, noise, t)
    torch.testing.assert_close(predict_x0(x_t, noise - x0, t), x0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predict_noise(x_t, noise - x0, t), noise, atol=1e-5, rtol=1e-5)


def test_dtype_goes_through_and_the_state_stays_precise():
    seen = []

    def velocity(x, t):
        seen.append((x.dtype, t.dtype, tuple(t.shape)))
        return gaussian_velocity(x.float(), t).to(x.dtype)

    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    end = sample_ode(velocity, x.bfloat16(), flow_sigmas(10))
    assert end.dtype == torch.bfloat16
    assert set(seen) == {(torch.bfloat16, torch.float32, (2,))}
    full = sample_ode(gaussian_velocity, x.bfloat16().float(), flow_sigmas(10))
    torch.testing.assert_close(end.float(), full, atol=2e-2, rtol=0)


def test_sampling_keeps_no_graph():
    weight = torch.ones(1, requires_grad=True)
    assert not sample_ode(lambda x, t: weight * x, torch.ones(1, 2), flow_sigmas(3)).requires_grad


@pytest.mark.parametrize(
    "sigmas",
    [
        torch.tensor([1.0]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([1.0, 0.5, 0.5, 0.0]),
        torch.tensor([1000.0, 500.0, 0.0]),
        torch.tensor([1.0, float("nan"), 0.0]),
        torch.zeros(2, 2),
    ],
)
def test_bad_times(sigmas):
    with pytest.raises(ValueError, match="sigmas: expected"):
        sample_ode(gaussian_velocity, torch.zeros(1, 1), sigmas)


def test_bad_arguments():
    with pytest.raises(ValueError, match="solver: expected 'euler' or 'dpm2'"):
        sample_ode(gaussian_velocity, torch.zeros(1, 1), flow_sigmas(2), solver="heun")
    with pytest.raises(ValueError, match="x: expected a float tensor"):
        sample_ode(gaussian_velocity, torch.zeros(3), flow_sigmas(2))
    with pytest.raises(ValueError, match="v: expected the shape of x"):
        euler_step(torch.zeros(1, 2), torch.zeros(2, 2), 1.0, 0.5)
    with pytest.raises(ValueError, match="divide timesteps by 1000"):
        interpolate(torch.zeros(1, 2), torch.zeros(1, 2), 999.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy's, inside diffusers
def test_same_as_the_schedulers_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    dpm2 = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=2, lower_order_final=True
    )
    for solver, scheduler in (("euler", euler), ("dpm2", dpm2)):
        scheduler.set_timesteps(10)
        state = x
        for i, timestep in enumerate(scheduler.timesteps):
            v = gaussian_velocity(state, scheduler.sigmas[i].double().expand(4))
            state = scheduler.step(v, timestep, state).prev_sample
        mine = sample_ode(gaussian_velocity, x, scheduler.sigmas, solver=solver)
        torch.testing.assert_close(mine, state, atol=1e-5, rtol=1e-5)
