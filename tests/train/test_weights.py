import pytest
import torch

from geneval_reward.train import FlowPolicy, PolicyAverage, PolicyWeights
from geneval_reward.train.tiny import tiny_flux, tiny_sd3


def make(rank=4, family=tiny_sd3, **roles):
    policy = FlowPolicy(family())
    return policy, PolicyWeights(policy.transformer, lora_rank=rank, **({"old": True, "reference": True} | roles))


def shifted(weights, by=0.1):
    with torch.no_grad():
        for p in weights.trained().values():
            p.add_(by)


@pytest.mark.parametrize("family", [tiny_sd3, tiny_flux])
def test_roles_of_adapters_are_given_back(family):
    policy, weights = make(family=family)
    shifted(weights)
    conditions = policy.encode(["a photo of a cow"])
    x, t = torch.randn(1, *policy.latent_shape), torch.tensor([0.5])
    outputs = {}
    with torch.no_grad():
        for role in ("trained", "old", "reference", "trained"):
            with weights.role(role) as transformer:
                outputs.setdefault(role, []).append(policy.velocity(transformer, conditions)(x, t))
    assert torch.equal(*outputs["trained"])
    assert not torch.equal(outputs["trained"][0], outputs["old"][0])
    # gaussian init: B is 0, so the old policy is still the reference
    assert torch.equal(outputs["old"][0], outputs["reference"][0])
    assert all(p.requires_grad for p in weights.trained().values())
    assert not any(p.requires_grad for p in weights.old_parameters().values())


def test_switching_walks_no_modules(monkeypatch):
    """SD3.5-M has 3,524 modules: diffusers' own methods took 22 ms of CPU time for a switch there and back."""
    _, weights = make()
    for name in ("modules", "named_modules"):
        monkeypatch.setattr(weights.transformer, name, lambda *_, **__: pytest.fail("walks over all modules"))
    for role in ("old", "reference", "trained"):
        with weights.role(role):
            pass


def test_roles_that_were_not_asked_for_are_refused():
    _, weights = make(old=False, reference=False)
    for role in ("old", "reference"):
        with pytest.raises(ValueError, match="role: expected one that was asked for"), weights.role(role):
            pass
    with pytest.raises(ValueError, match="lora_rank: expected an integer >= 0"):
        make(rank=-1)


def averages(steps, **options):
    """The average of a weight that is 0, then 1, 2, ... after each step."""
    _, weights = make()
    first = next(iter(weights.trained()))
    with torch.no_grad():
        for p in weights.trained().values():
            p.zero_()
    average, found = PolicyAverage(weights, **options), []
    for _ in range(steps):
        shifted(weights, 1.0)
        average.update()
        found.append(float(average.averages[first].flatten()[0]))
    return found


def test_the_average_of_diffusion_nft_has_the_released_decays():
    """The released loop counts the step before it averages: its decays are 2/11, 3/12, ..., and not 1/10, 2/11, ..."""
    expected, value = [], 0.0
    for step in range(1, 6):
        decay = min((1 + step) / (10 + step), 0.9)
        value = decay * value + (1 - decay) * step
        expected.append(value)
    assert averages(5) == pytest.approx(expected)
    assert expected[-1] == pytest.approx(4.40, abs=0.005)


def test_the_average_of_flow_grpo_moves_twice_at_each_eighth_step():
    found = averages(16, every=8, moves=2)
    assert found[:6] == [0.0] * 6
    decay = (8 / 17) ** 2
    assert found[6] == pytest.approx((1 - decay) * 7)
    assert found[6:14] == [found[6]] * 8
    later = (16 / 25) ** 2
    assert found[14] == pytest.approx(later * found[6] + (1 - later) * 15)


def test_the_average_takes_the_place_of_the_weights_and_gives_it_back():
    _, weights = make()
    average = PolicyAverage(weights)
    before = {name: p.detach().clone() for name, p in weights.trained().items()}
    shifted(weights)
    with average.average_parameters(), average.average_parameters():
        assert all(torch.equal(p, before[name]) for name, p in weights.trained().items())
    assert not any(torch.equal(p, before[name]) for name, p in weights.trained().items())
    with pytest.raises(ValueError, match="every >= 1 and moves >= 1"):
        PolicyAverage(weights, every=0)
