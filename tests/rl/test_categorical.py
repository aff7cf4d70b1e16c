import pytest
import torch

from geneval_reward.errors import UsageError
from geneval_reward.rl import categorical_kl, categorical_log_prob


def test_log_probabilities_sum_to_one_and_have_a_gradient():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    every = torch.stack([categorical_log_prob(logits, torch.full((2, 3), token)) for token in range(5)], -1)
    torch.testing.assert_close(every.exp().sum(-1), torch.ones(2, 3))
    categorical_log_prob(logits, torch.zeros(2, 3, dtype=torch.long)).sum().backward()
    assert logits.grad.abs().sum() > 0
    half = categorical_log_prob(torch.randn(1, 2, 4).half(), torch.zeros(1, 2, dtype=torch.long))
    assert half.dtype == torch.float32


def test_a_token_that_is_excluded_is_impossible_and_nan_stays_nan():
    logits = torch.tensor([[0.0, -torch.inf], [torch.nan, 0.0]])
    found = categorical_log_prob(logits, torch.tensor([1, 0]))
    assert found[0] == -torch.inf
    assert found[1].isnan()


def test_the_estimate_of_the_kl_has_its_mean():
    torch.manual_seed(0)
    logits, other = torch.randn(6), torch.randn(6)
    p, q = logits.log_softmax(-1), other.log_softmax(-1)
    tokens = torch.multinomial(p.exp(), 40_000, replacement=True)
    found = categorical_kl(p[tokens], q[tokens])
    assert found.min() >= 0
    assert found.mean().item() == pytest.approx(float((p.exp() * (p - q)).sum()), rel=0.05)


def test_wrong_shapes_are_named():
    with pytest.raises(UsageError, match=r"tokens: expected integers of shape \(2, 3\)"):
        categorical_log_prob(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(UsageError, match="tokens: expected integers"):
        categorical_log_prob(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(UsageError, match="log_prob_ref"):
        categorical_kl(torch.zeros(2), torch.zeros(3))
