"""Token models: log-probabilities of drawn tokens, and the KL to a reference from the tokens alone."""

from __future__ import annotations

from torch import Tensor

from geneval_reward.errors import UsageError
from geneval_reward.rl._tensors import check_like, precise


def categorical_log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    """Compute the log-probability of each token under the softmax of its logits.

    Args:
        logits: `(..., k)` real numbers; logits of -inf exclude a token.
        tokens: `(...)` integers in [0, k).

    Returns:
        `(...)`, at least float32, with gradient. It is NaN where the logits are.

    Raises:
        UsageError: If the shapes do not match, or the tokens are not integers.

    Examples:
        >>> import torch
        >>> categorical_log_prob(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 3]])).exp()
        tensor([[0.2500, 0.2500, 0.2500]])
    """
    if logits.shape[:-1] != tokens.shape or tokens.is_floating_point():
        raise UsageError(
            f"tokens: expected integers of shape {tuple(logits.shape[:-1])}, as the logits have, got {tokens.dtype} "
            f"{tuple(tokens.shape)}"
        )
    return precise(logits).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def categorical_kl(log_prob: Tensor, log_prob_ref: Tensor) -> Tensor:
    """Estimate the KL to a reference from the log-probabilities of tokens that the policy has drawn.

    This is `exp(d) - d - 1` with `d = log_prob_ref - log_prob`: never negative, and without bias over the policy's own
    tokens.

    Args:
        log_prob: `(...)`, under the policy, with gradient.
        log_prob_ref: `(...)`, under the reference.

    Returns:
        `(...)`, at least float32.

    Raises:
        UsageError: If the shapes differ.

    Source:
        GRPO (arXiv 2402.03300), equation 4; J. Schulman's note "Approximating KL divergence" (2020), estimator k3.

    Examples:
        >>> import torch
        >>> categorical_kl(torch.zeros(2), torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.7183])
    """
    check_like(log_prob_ref, "log_prob_ref", log_prob, "log_prob")
    difference = precise(log_prob_ref).detach() - precise(log_prob)
    return difference.exp() - difference - 1
