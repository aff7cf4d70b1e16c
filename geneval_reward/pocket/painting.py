"""Sampling of codes: masked decoding with Show-o's schedule, and the state of painting level by level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from geneval_reward.errors import UsageError
from geneval_reward.pocket.codes import BOOK, LENGTH, MASK

Through = Literal["none", "last", "all"]


@dataclass(frozen=True)
class Painting:
    """The result of `PocketTokens.paint`.

    Attributes:
        codes: `(n, 18)` int64 in [0, 128).
        commits: `(n, 18)` int64: the step, from 1, in which each code was fixed. The state that step `s` saw has `MASK`
            where `commits >= s` and is `codes` elsewhere, so log-probabilities can be computed afterwards.
        log_probs: `(n, 18)` float32: log-probability of each code in the step that fixed it, under the whole distribution at
            temperature 1. It is NaN if the network's logits were.
    """

    codes: Tensor
    commits: Tensor
    log_probs: Tensor

    def seen(self, step: int) -> Tensor:
        """Return the codes `(n, 18)` that were known before a step, from 1, with `MASK` elsewhere."""
        return self.codes.where(self.commits < step, MASK)


@dataclass(frozen=True)
class LevelState:
    """A batch that is being painted level by level; see `PocketTokens.start`.

    Attributes:
        text: `(n, 12)` word numbers of the prompts.
        codes: `(n, 18)` int64, `MASK` on the remaining levels.
        level: Number of levels painted so far, 0 to 6.
        generators: One per image; each level draws from them.
        guidance: See `PocketTokens.paint`.
        temperature: See `PocketTokens.paint`.
        top_k: See `PocketTokens.paint`.
    """

    text: Tensor
    codes: Tensor
    level: int
    generators: tuple[torch.Generator, ...]
    guidance: float
    temperature: float
    top_k: int

    def take(self, rows: Sequence[int], generators: Sequence[torch.Generator]) -> LevelState:
        """Select images, with repeats allowed, each with its own generator for the remaining levels.

        Raises:
            UsageError: If there are not as many generators as rows.
        """
        one_each("generators", generators, len(rows))
        index = torch.tensor(list(rows), dtype=torch.int64)
        return replace(self, text=self.text[index], codes=self.codes[index], generators=tuple(generators))


def masked_decode(
    logits: Callable[[Tensor], Tensor],
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    temperature: float = 1.0,
    top_k: int = 0,
    choice_noise: float = 1.0,
    through: Through = "none",
    tau: float = 1.0,
    device: torch.device | str = "cpu",
) -> tuple[Painting, Tensor]:
    """Draw all codes in several steps, as `PocketTokens.paint` and `PocketTokens.paint_soft` describe.

    Args:
        logits: Returns `(n, 18, 128)` logits for codes `(n, 18)`, or for weights `(n, 18, 129)` if gradient is wanted.
        generators: One per picture.
        steps: >= 1.
        temperature: See `PocketTokens.paint`.
        top_k: See `PocketTokens.paint`.
        choice_noise: See `PocketTokens.paint`.
        through: Which steps gradient flows through.
        tau: Temperature of the softmax that gives the gradient.
        device: Where the logits are.

    Returns:
        The painting, and `(n, 18, 129)` weights: one-hot, with gradient unless `through` is `none`.
    """
    at_least("steps", steps, 1)
    codes = torch.full((len(generators), LENGTH), MASK, device=device)
    commits = torch.zeros_like(codes)
    log_probs = torch.zeros(codes.shape, device=device)
    soft = functional.one_hot(codes, BOOK + 1).float()
    unknown = LENGTH
    for step in range(1, steps + 1):
        if not unknown:
            break
        left = max(min(math.floor(LENGTH * math.cos(math.pi * step / steps / 2)), unknown - 1), 0)
        left = 0 if step == steps else left
        choice_noise *= 1 - step / steps
        grad = torch.is_grad_enabled() and (through == "all" or (through == "last" and not left))
        with torch.set_grad_enabled(grad):
            scores = logits(codes if through == "none" else soft)
            gumbel = gumbel_noise(generators, LENGTH, BOOK + 1, device=device)
            drawn = draw_codes(scores.detach(), gumbel[..., :BOOK], temperature, top_k)
            likely = scores.detach().log_softmax(-1).gather(2, drawn[..., None])[..., 0]
            sure = (likely + choice_noise * gumbel[..., BOOK]).masked_fill(codes != MASK, math.inf)
            fixed = codes == MASK
            if left:
                fixed = fixed.scatter(1, sure.topk(left, 1, largest=False).indices, False)
            if through != "none":
                hard = functional.one_hot(drawn, BOOK + 1).float()
                if grad:
                    flow = functional.pad(((scores + gumbel[..., :BOOK]) / tau).softmax(-1), (0, 1))
                    hard = hard + flow - flow.detach()
                soft = torch.where(fixed[..., None], hard, soft)
        codes = torch.where(fixed, drawn, codes)
        commits = commits.masked_fill(fixed, step)
        log_probs = torch.where(fixed, likely, log_probs)
        unknown = left
    return Painting(codes, commits, log_probs), soft


def gumbel_noise(generators: Sequence[torch.Generator], *shape: int, device: torch.device | str) -> Tensor:
    """Draw Gumbel noise `(n, *shape)` on the CPU, one generator at a time, so that no image depends on batch or device."""
    uniform = [torch.rand(shape, generator=one, dtype=torch.float64) for one in generators]
    stacked = torch.stack(uniform) if uniform else torch.zeros(0, *shape, dtype=torch.float64)
    return -torch.log(-torch.log(stacked.clamp(1e-12, 1 - 1e-12))).float().to(device)


def draw_codes(logits: Tensor, gumbel: Tensor, temperature: float, top_k: int) -> Tensor:
    """Draw from logits `(..., k)` with Gumbel noise of the same shape; temperature 0 takes the most likely.

    Raises:
        UsageError: If an option is out of range.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"temperature: expected a number >= 0, got {temperature!r}")
    at_least("top_k", top_k, 0)
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, -1).values[..., -1:], -math.inf)
    return (logits / temperature + gumbel if temperature else logits).argmax(-1)


def at_least(name: str, value: int, least: int) -> None:
    """Raise a `UsageError` unless a value is an integer >= `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name}: expected an integer >= {least}, got {value!r}")


def one_each(name: str, values: Sequence[Any], count: int) -> None:
    """Raise a `UsageError` unless there are `count` values."""
    if len(values) != count:
        raise UsageError(f"{name}: expected {count}, one each, got {len(values)}")
