"""Mask2Former's decoder for inference: only the last prediction is kept, and no random number is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class LeanMaskDecoder(nn.Module):
    """Takes the place of the decoder in `transformers`' Mask2Former; parameters and names stay the same.

    That one keeps the masks of all ten predictions, 160 MB per image at 800 x 800 in float32, and up to version 5.17 it draws
    from the process's random numbers in every layer, also in inference, so that scoring would change a training beside it.

    All predictions but the last only say where the next layer looks, on a coarser grid. There the mask features are resized once
    per grid instead of the masks once per layer; both are linear, so the result is the same but for rounding.

    Args:
        original: The module to replace.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        source: Any = original
        self.layers = source.layers
        self.layernorm = source.layernorm
        self.mask_predictor = source.mask_predictor
        self.levels: int = source.num_feature_levels

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        multi_stage_positional_embeddings: Sequence[torch.Tensor],
        pixel_embeddings: torch.Tensor,
        encoder_hidden_states: Sequence[torch.Tensor],
        query_position_embeddings: torch.Tensor,
        feature_size_list: Sequence[Any],
        **_: Any,
    ) -> Any:
        """The signature of the module it replaces; its output has one prediction in place of ten."""
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerMaskedAttentionDecoderOutput

        hidden = inputs_embeds
        features = [
            functional.interpolate(pixel_embeddings, size=size, mode="bilinear", align_corners=False)
            for size in feature_size_list
        ]
        normed = self.layernorm(hidden)
        for index, layer in enumerate(self.layers):
            level = index % self.levels
            hidden = layer(
                hidden,
                level_index=level,
                position_embeddings=multi_stage_positional_embeddings,
                query_position_embeddings=query_position_embeddings,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=self._hidden_places(self._masks(normed, features[level])),
            )[0]
            normed = self.layernorm(hidden)
        return Mask2FormerMaskedAttentionDecoderOutput(
            last_hidden_state=hidden.transpose(1, 0),
            intermediate_hidden_states=(normed,),
            masks_queries_logits=(self._masks(normed, pixel_embeddings),),
        )

    def _masks(self, normed: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Mask logits `(B, Q, h, w)` of queries `(Q, B, C)`."""
        embedded = self.mask_predictor.mask_embedder(normed.transpose(0, 1))
        return torch.einsum("bqc,bchw->bqhw", embedded, features)

    def _hidden_places(self, masks: torch.Tensor) -> torch.Tensor:
        """Where attention may not look, `(B * heads, Q, h * w)`: off the mask, unless the mask is empty."""
        outside = masks.flatten(2) < 0
        outside &= ~outside.all(-1, keepdim=True)
        return outside.repeat_interleave(self.mask_predictor.num_heads, 0)
