"""`RewardTokens` and `RewardGuidance`: tell a text-to-image model how good its image shall be, as MIRO does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from geneval_reward.errors import UsageError

Place = Literal["append", "padding", "masked"]

_MASKED: Final = -10_000.0  # what PixArt and Sana add to the attention of padding
_CLOSED: Final = 1e-12
_WIDTH: Final = 64
_BATCHED: Final = ("hidden_states", "timestep", "guidance", "pooled_projections")
"""Inputs of diffusers' transformers, besides the text, that have a row per image."""


class RewardTokens(nn.Module):
    """One token per reward, after the tokens of the text.

    A level in [0, 1] becomes a sinusoid, and an MLP of its own turns that into the reward's token. An unknown level (NaN) has
    a learned token. The last layer of each MLP starts at zero, and its bias serves as the learned position. Where the token
    goes depends on the model, so that a model that has not been trained with it gives the same images as before:

    - `padding`, for models that attend to the padding of their text (SD3, FLUX): the tokens are added to the last positions,
      which must be padding: encode with a `max_sequence_length` that leaves room.
    - `masked`, for models that mask padding (PixArt, Sana): the tokens are appended, with a learned gate on the attention that
      they get. The gate starts closed (a weight of 1e-12), since even a token of zeros would take its share of the attention.
    - `append`, for training from nothing (the pocket model): the tokens are appended. At first the model computes what it
      would with as many zero vectors more after its text.

    Args:
        names: The rewards, as `RewardBins.names`.
        dim: Width of the text embeddings.
        place: `append`, `padding` or `masked`.

    Raises:
        UsageError: If there is no reward, or the place is not known.

    Source: MIRO (arXiv 2510.25897): a sinusoid of the level and a two-layer MLP per reward with a learned position. Its own
    model mixes text and reward tokens by two self-attention layers; here the model's own attention does. The gate and the
    unknown token are this project's.

    Examples:
        >>> tokens = RewardTokens(["geneval", "aesthetic"], dim=8)
        >>> embeds, mask = tokens(torch.randn(3, 12, 8), None, torch.tensor([1.0, float("nan")]))
        >>> tuple(embeds.shape), mask is None
        ((3, 14, 8), True)
    """

    def __init__(self, names: Sequence[str], dim: int, place: Place = "append") -> None:
        super().__init__()
        if not names or dim < 1:
            raise UsageError(f"names, dim: expected at least one reward and a width >= 1, got {list(names)} and {dim}")
        if place not in ("append", "padding", "masked"):
            raise UsageError(f"place: expected append, padding or masked, got {place!r}")
        self.names, self.place = tuple(names), place
        self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(_WIDTH, dim), nn.SiLU(), nn.Linear(dim, dim)) for _ in names)
        self.unknown = nn.Parameter(torch.zeros(len(names), dim))
        self.gate = nn.Parameter(torch.full((len(names),), _CLOSED)) if place == "masked" else None
        mlp: Any
        for mlp in self.mlps:
            nn.init.zeros_(mlp[2].weight)
            nn.init.zeros_(mlp[2].bias)

    def forward(self, prompt_embeds: Tensor, mask: Tensor | None, levels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Add the tokens to encoded prompts.

        Args:
            prompt_embeds: `(n, length, dim)`.
            mask: 1 for tokens and 0 for padding, `(n, length)`, for `masked`; otherwise None.
            levels: `(n, rewards)` or `(rewards,)` in [0, 1]; NaN for unknown.

        Returns:
            The embeddings, with as many positions more as there are rewards, unless they took the place of padding; and the
            mask as what is added to the attention, `(n, 1, length + rewards)`, which PixArt and Sana take as
            `encoder_attention_mask`; None without a mask.

        Raises:
            UsageError: If a shape differs, a level is outside [0, 1], there is less room than tokens, or a mask is missing or
                not expected.
        """
        count, length, dim = prompt_embeds.shape
        # Levels that are on a GPU already are not looked at, which would wait for it in every step.
        if levels.device.type == "cpu" and bool(((levels < 0) | (levels > 1)).any()):
            raise UsageError(f"levels: expected numbers in [0, 1] or NaN, got {levels.tolist()}")
        levels = levels.to(prompt_embeds.device, torch.float32).expand(count, -1)
        if levels.shape[1] != len(self.names) or dim != self.unknown.shape[1]:
            raise UsageError(
                f"levels, prompt_embeds: expected {len(self.names)} rewards and width {self.unknown.shape[1]}, got "
                f"{levels.shape[1]} and {dim}"
            )
        if (mask is None) != (self.gate is None):
            raise UsageError(
                f"mask: expected {'none' if self.gate is None else 'one'} with place={self.place!r}, got "
                f"{'none' if mask is None else 'one'}; PixArt and Sana mask their padding and need place='masked'"
            )
        tokens = self.tokens(levels).to(prompt_embeds.dtype)
        if mask is not None and self.gate is not None:
            bias = (1 - mask.to(torch.float32)) * _MASKED
            gate = self.gate.abs().clamp_min(_CLOSED * 1e-6).log().expand(count, -1)
            return torch.cat([prompt_embeds, tokens], 1), torch.cat([bias, gate], 1)[:, None].to(prompt_embeds.dtype)
        if self.place == "append":
            return torch.cat([prompt_embeds, tokens], 1), None
        if length <= len(self.names):
            raise UsageError(
                f"prompt_embeds: expected more than {len(self.names)} positions, got {length}; encode with a longer "
                "max_sequence_length"
            )
        return prompt_embeds + functional.pad(tokens, (0, 0, length - len(self.names), 0)), None

    def target(self, target: float | Mapping[str, float | None] | None) -> Tensor:
        """Return the levels to ask for, `(rewards,)`.

        Args:
            target: A level for all rewards, or a level for each of some rewards. None means unknown, and so do rewards that the
                mapping leaves out.

        Raises:
            UsageError: If a reward is not known or a level is outside [0, 1].
        """
        wanted = target if isinstance(target, Mapping) else dict.fromkeys(self.names, target)
        unknown = sorted(set(wanted) - set(self.names))
        if unknown:
            raise UsageError(f"target: expected rewards of {', '.join(self.names)}, got {unknown[0]!r}")
        for name, level in wanted.items():
            if level is not None and not 0 <= level <= 1:
                raise UsageError(f"target[{name!r}]: expected a level in [0, 1] or None, got {level}")
        levels = [wanted.get(name) for name in self.names]
        return torch.tensor([math.nan if level is None else level for level in levels])

    def tokens(self, levels: Tensor) -> Tensor:
        """Compute the tokens `(n, rewards, dim)` of levels `(n, rewards)`."""
        unknown = levels.isnan()
        frequencies = math.pi * torch.linspace(0, 8, _WIDTH // 2, device=levels.device).exp2()
        angles = levels.masked_fill(unknown, 0.0)[..., None] * frequencies
        waves = torch.cat([angles.sin(), angles.cos()], -1).to(self.unknown.dtype)
        found = torch.stack([mlp(waves[:, row]) for row, mlp in enumerate(self.mlps)], 1)
        return torch.where(unknown[..., None], self.unknown, found)


class RewardGuidance:
    """Guidance from low rewards to high ones: `(1 + w) v(caption, s+) - w v(caption or nothing, s-)`.

    Args:
        tokens: What the model was trained with.
        s_plus: Levels to ask for, `(rewards,)`, or `(n, rewards)` for images of different targets.
        s_minus: Levels to lead away from, likewise.
        scale: The weight w, >= 0. With 0 each step takes one forward pass, otherwise two.
        empty: The encoded empty prompt, as keyword arguments of the transformer with one row each
            (`encoder_hidden_states`, and `pooled_projections` or `encoder_attention_mask` where the model has them); then it
            replaces the caption in the second pass. The paper keeps the caption in both passes (its equation 3); the released
            code empties it, and so mixes guidance by text with guidance by rewards.

    Raises:
        UsageError: If the weight is negative.

    Source: MIRO (arXiv 2510.25897), equation 3; its best weights were 5 to 7 with all of s+ at 1 and all of s- at 0.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> pipe = load_pipeline()
        >>> tokens = RewardTokens(["geneval"], pipe.transformer.config.joint_attention_dim)
        >>> with RewardGuidance(tokens, torch.ones(1), torch.zeros(1), scale=2.0).applied_to(pipe.transformer):
        ...     image = pipe("a photo of a red clock", num_inference_steps=4).images[0]
    """

    def __init__(
        self,
        tokens: RewardTokens,
        s_plus: Tensor,
        s_minus: Tensor | None = None,
        scale: float = 0.0,
        empty: dict[str, Tensor] | None = None,
    ) -> None:
        if not scale >= 0:
            raise UsageError(f"scale: expected a number >= 0, got {scale}")
        if scale and s_minus is None:
            raise UsageError(f"s_minus: expected levels to lead away from with scale {scale}, got None")
        self.tokens, self.s_plus, self.s_minus, self.scale, self.empty = tokens, s_plus, s_minus, scale, empty

    @contextmanager
    def applied_to(self, transformer: nn.Module) -> Iterator[None]:
        """Give every call of a transformer the tokens, and guide it; calls need the text as keyword arguments.

        It works for the transformers of SD3, FLUX, PixArt, Sana and the pocket model, called by their pipelines (with their
        own guidance off) or by anything else.
        """
        hooks = [
            transformer.register_forward_pre_hook(self._before, with_kwargs=True),
            transformer.register_forward_hook(self._after),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if "encoder_hidden_states" not in kwargs:
            raise UsageError(
                "transformer: expected a call with encoder_hidden_states=..., got it as a position, or no text"
            )
        text, mask = kwargs["encoder_hidden_states"], kwargs.get("encoder_attention_mask")
        parts = [self.tokens(text, mask, self.s_plus)]
        kwargs = dict(kwargs)
        if self.scale:
            assert self.s_minus is not None
            if self.empty is not None:
                count = len(text)
                text = self.empty["encoder_hidden_states"].to(text).expand(count, -1, -1)
                if mask is not None:
                    mask = self.empty["encoder_attention_mask"].to(mask).expand(count, -1)
            parts.append(self.tokens(text, mask, self.s_minus))
            args = tuple(_twice(value) for value in args)
            pooled = kwargs.get("pooled_projections")
            kwargs |= {name: _twice(kwargs[name]) for name in _BATCHED if name in kwargs}
            if "added_cond_kwargs" in kwargs:
                kwargs["added_cond_kwargs"] = {k: _twice(v) for k, v in (kwargs["added_cond_kwargs"] or {}).items()}
            if self.empty is not None and pooled is not None:
                nothing = self.empty["pooled_projections"].to(pooled).expand_as(pooled)
                kwargs["pooled_projections"] = torch.cat([pooled, nothing])
        kwargs["encoder_hidden_states"] = torch.cat([embeds for embeds, _ in parts])
        if mask is not None:
            kwargs["encoder_attention_mask"] = torch.cat([bias for _, bias in parts if bias is not None])
        return args, kwargs

    def _after(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.scale:
            return output
        high, low = output[0].chunk(2)
        guided = (1 + self.scale) * high - self.scale * low
        return (guided, *output[1:]) if isinstance(output, tuple) else type(output)(sample=guided)


def _twice(value: Any) -> Any:
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim else value
