import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geneval_reward.rl import interpolate, nft_loss, optimality_probability

SHAPES = [(3, 2), (3, 4, 5), (2, 4, 3, 3), (1, 2, 2, 2, 2)]
ADVANTAGES = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20).map(torch.tensor)


def batch(shape, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(shape, generator=g, dtype=torch.float64)  # noqa: E731
    x0, v, v_old, v_ref = draw(), draw(), draw(), draw()
    t = torch.rand(shape[0], generator=g, dtype=torch.float64) * 0.9 + 0.05
    x_t = interpolate(x0, draw(), t)
    r = torch.rand(shape[0], generator=g, dtype=torch.float64)
    return {k: a.to(dtype) for k, a in {"v": v, "v_old": v_old, "x0": x0, "x_t": x_t, "t": t, "r": r}.items()}, v_ref


# --- optimality probability ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(ADVANTAGES, st.floats(0.5, 10))
def test_r_is_a_probability(advantages, clip):
    r = optimality_probability(advantages, clip=clip)
    assert r.min() >= 0
    assert r.max() <= 1


@settings(deadline=None, max_examples=50)
@given(ADVANTAGES)
def test_r_rises_with_the_advantage(advantages):
    r = optimality_probability(advantages.sort().values)
    assert (r.diff() >= 0).all()


@settings(deadline=None, max_examples=50)
@given(ADVANTAGES)
def test_r_is_symmetric(advantages):
    total = optimality_probability(advantages) + optimality_probability(-advantages)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_r_by_hand():
    advantages = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0])
    assert optimality_probability(advantages).tolist() == pytest.approx([0.0, 0.4, 0.5, 0.6, 1.0])


def test_r_bad_input():
    with pytest.raises(ValueError, match=r"advantages\[1\]: expected a number, got NaN"):
        optimality_probability(torch.tensor([0.0, float("nan")]))
    with pytest.raises(ValueError, match="clip: expected a number > 0"):
        optimality_probability(torch.zeros(1), clip=0.0)


# --- loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [0.1, 0.37, 1.0, 10.0])
@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradient_is_exactly_zero_at_r_half_and_v_old(shape, beta, adaptive, dtype):
    data, _ = batch(shape, dtype=dtype)
    v = data["v_old"].clone().requires_grad_()
    data |= {"v": v, "r": torch.full((shape[0],), 0.5)}
    loss = nft_loss(**data, beta=beta, adaptive=adaptive)
    loss.total.backward()
    assert torch.equal(v.grad, torch.zeros_like(v))
    assert loss.old_deviate == 0
    assert loss.total > 0


def test_gradient_is_not_zero_elsewhere():
    data, _ = batch((3, 4))
    for v, r in ((data["v_old"], 0.6), (data["v"], 0.5)):
        leaf = v.clone().requires_grad_()
        nft_loss(**(data | {"v": leaf, "r": torch.full((3,), r)})).total.backward()
        assert leaf.grad.abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_against_the_formula_as_released(shape, beta):
    """The textbook form, sample by sample, in float64."""
    data, v_ref = batch(shape, dtype=torch.float64)
    loss = nft_loss(**data, v_ref=v_ref, beta=beta)
    policies, kls = [], []
    for i in range(shape[0]):
        v, v_old, x0, x_t, t, r = (data[k][i] for k in ("v", "v_old", "x0", "x_t", "t", "r"))
        sides = []
        for v_side in (beta * v + (1 - beta) * v_old, (1 + beta) * v_old - beta * v):
            error = (x_t - t * v_side) - x0
            sides.append((error**2 / max(error.abs().mean().item(), 1e-5)).mean())
        policies.append(5 * (r * sides[0] + (1 - r) * sides[1]) / beta)
        kls.append(((v - v_ref[i]) ** 2).mean())
    policy, kl = torch.stack(policies).mean(), torch.stack(kls).mean()
    torch.testing.assert_close(loss.policy, policy)
    torch.testing.assert_close(loss.unweighted, policy / 5)
    torch.testing.assert_close(loss.kl, kl)
    torch.testing.assert_close(loss.total, policy + 1e-4 * kl)
    torch.testing.assert_close(loss.old_kl, ((data["v_old"] - v_ref) ** 2).mean())
    torch.testing.assert_close(loss.old_deviate, ((data["v"] - data["v_old"]) ** 2).mean())
    torch.testing.assert_close(loss.x0_norm, (data["x0"] ** 2).mean())
    assert loss.x0_norm_max == (data["x0"] ** 2).max()
    assert loss.old_deviate_max == ((data["v"] - data["v_old"]) ** 2).max()


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
def test_optimum_is_v_old_plus_two_over_beta_delta(beta):
    """The paper's theorem, at one x_t and t: many targets, v_old their mean, constant weights."""
    g = torch.Generator().manual_seed(1)
    n, t = 64, 0.6
    target = torch.randn(n, 3, generator=g, dtype=torch.float64)
    r = torch.rand(n, generator=g, dtype=torch.float64)
    x_t = torch.zeros(n, 3, dtype=torch.float64)
    v_old = target.mean(0)
    good = (r[:, None] * target).sum(0) / r.sum()
    delta = r.mean() * (good - v_old)
    v = (v_old + 2 / beta * delta).requires_grad_()
    nft_loss(
        v.expand(n, 3), v_old.expand(n, 3), x_t - t * target, x_t, t, r, beta=beta, adaptive=False
    ).total.backward()
    assert v.grad.abs().max() < 1e-12


def test_raising_r_pulls_towards_the_sample():
    data, _ = batch((1, 8))
    start = data["v_old"]
    for r, closer in ((1.0, True), (0.0, False)):
        v = start.clone().requires_grad_()
        nft_loss(**(data | {"v": v, "r": torch.tensor([r])})).total.backward()
        moved = start - 1e-3 * v.grad
        distance = lambda u: (data["x_t"] - data["t"] * u - data["x0"]).abs().sum()  # noqa: E731
        assert bool(distance(moved) < distance(start)) is closer


def test_sample_of_weight_zero_is_as_if_absent():
    data, v_ref = batch((4, 3, 2), dtype=torch.float64)
    keep = [0, 2, 3]
    # Its latents may be anything, even NaN, without spoiling the value.
    data["x0"][1] = float("nan")
    weighted = nft_loss(**data, v_ref=v_ref, weight=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    absent = nft_loss(**{k: a[keep] for k, a in data.items()}, v_ref=v_ref[keep])
    torch.testing.assert_close(weighted.total, absent.total)
    torch.testing.assert_close(weighted.kl, absent.kl)


def test_batch_without_weight_gives_zero():
    data, _ = batch((2, 3))
    v = data["v"].requires_grad_()
    loss = nft_loss(**data, weight=torch.zeros(2))
    loss.total.backward()
    assert loss.total == 0
    assert torch.equal(v.grad, torch.zeros_like(v))


def test_micro_batches_add_up_exactly_with_a_denominator():
    data, v_ref = batch((6, 5), dtype=torch.float64)
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    whole = nft_loss(**data, v_ref=v_ref, weight=weight)
    parts = [
        nft_loss(**{k: a[s] for k, a in data.items()}, v_ref=v_ref[s], weight=weight[s], denominator=4.0)
        for s in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.testing.assert_close(sum(p.total for p in parts), whole.total)


def test_no_gradient_reaches_old_reference_or_data():
    data, v_ref = batch((2, 3))
    leaves = {k: a.clone().requires_grad_() for k, a in data.items()}
    ref = v_ref.float().requires_grad_()
    loss = nft_loss(**leaves, v_ref=ref)
    loss.total.backward()
    assert leaves["v"].grad is not None
    assert ref.grad is None
    assert all(leaves[k].grad is None for k in data if k != "v")
    assert not any(value.requires_grad for value in loss.log_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v_old": torch.zeros(3, 3)}, r"v_old: expected the shape of v, \(2, 3\), got \(3, 3\)"),
        ({"t": torch.tensor([500.0, 1000.0])}, "times in .0, 1., got 500 to 1000; divide timesteps by 1000"),
        ({"t": torch.zeros(3)}, r"t: expected one number per sample, shape \(2,\)"),
        ({"r": torch.tensor([0.5, -1.0])}, "r: expected probabilities"),
        ({"r": torch.tensor([0.5, float("nan")])}, "r: expected probabilities"),
        ({"r": torch.zeros(2, 1)}, "r: expected one number per sample"),
        ({"v": torch.zeros(0, 3)}, "v: expected a float tensor"),
        ({"v": torch.zeros(2, 3, dtype=torch.int64)}, "v: expected a float tensor"),
    ],
)
def test_bad_input(change, message):
    data, _ = batch((2, 3))
    with pytest.raises(ValueError, match=message):
        nft_loss(**(data | change))


def test_bad_beta_and_weight():
    data, _ = batch((2, 3))
    with pytest.raises(ValueError, match="beta: expected a number > 0"):
        nft_loss(**data, beta=0.0)
    with pytest.raises(ValueError, match="weight: expected one number per sample"):
        nft_loss(**data, weight=torch.ones(3))
