"""`SeededTokens`: sampling image tokens with one seed per image, inside the `generate` of `transformers`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from geneval_reward.errors import UsageError


class SeededTokens:
    """A logits processor that turns greedy decoding into sampling from one seed per row.

    `transformers` samples with one global generator, so an image made in a batch of eight differs from one made alone.
    This adds Gumbel noise drawn from `seeds[i]` to row i, so that the largest entry is an exact sample of the softmax.
    Pass it last in `logits_processor`, after guidance, with `do_sample=False`. It holds the state of the generators, so
    every call of `generate` needs a new one.

    Args:
        seeds: One integer in `[0, 2**64)` per row of the scores.
        temperature: Logits are divided by it, > 0.
        top_k: Number of the most likely tokens that can be drawn; 0 for all. The `top_k` of `generate` would come too late.

    Raises:
        ValueError: If an argument is out of range.

    Source:
        The Gumbel-max trick: E. J. Gumbel 1954, "Statistical theory of extreme values"; C. J. Maddison et al. 2014,
        arXiv 1411.0030.

    Examples:
        >>> scores = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).repeat(2000, 1)
        >>> drawn = SeededTokens(range(2000))(None, scores).argmax(-1)
        >>> 0.46 < (drawn == 0).float().mean().item() < 0.54
        True
    """

    def __init__(self, seeds: Sequence[int], *, temperature: float = 1.0, top_k: int = 0) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise UsageError(
                f"temperature: expected a number > 0, got {temperature!r}; for greedy decoding leave this out"
            )
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
            raise UsageError(f"top_k: expected an integer >= 0, got {top_k!r}")
        self.temperature = temperature
        self.top_k = top_k
        # Draw on the CPU, so that the noise is the same on every device.
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """Add noise.

        Args:
            input_ids: Not used.
            scores: `(rows, vocabulary)` logits.

        Returns:
            `(rows, vocabulary)` float32, whose largest entry per row is the token drawn.

        Raises:
            ValueError: If there are not as many rows as seeds: guidance is yet to come, or there are several images per prompt.
        """
        if len(scores) != len(self._generators):
            raise UsageError(
                f"scores: expected one row per seed ({len(self._generators)}), got {len(scores)}; put guidance before this "
                "processor, and give each image a prompt of its own"
            )
        logits = scores.float() / self.temperature
        if self.top_k and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        noise = torch.stack(
            [torch.rand(logits.shape[-1], generator=one, dtype=torch.float64) for one in self._generators]
        )
        # A uniform number of exactly 0 would give -inf for a token that can be drawn.
        gumbel = -torch.log(-torch.log(noise.clamp_min(1e-300)))
        return logits + gumbel.to(device=logits.device, dtype=torch.float32)
