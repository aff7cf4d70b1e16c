"""Mask2Former's decoder for inference: only the last prediction is kept, and no random number is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class LeanMaskDecoder(nn.Module):
    """Takes the place of the decoder in `transformers`' Mask2Former; parameters and names stay the same.

    That one keeps the masks of all ten predictions, 160 MB per image at 800 x 800 in float32, and up to version 5.17 it draws
    from the process's random numbers in every layer, also in inference, so that scoring would change a training beside it.

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
        normed = self.layernorm(hidden)
        logits, masked = self.mask_predictor(normed, pixel_embeddings, feature_size_list[0])
        for index, layer in enumerate(self.layers):
            # A query whose mask is empty attends to everything.
            masked = masked & ~masked.all(-1, keepdim=True)
            hidden = layer(
                hidden,
                level_index=index % self.levels,
                position_embeddings=multi_stage_positional_embeddings,
                query_position_embeddings=query_position_embeddings,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=masked,
            )[0]
            normed = self.layernorm(hidden)
            size = feature_size_list[(index + 1) % self.levels]
            logits, masked = self.mask_predictor(normed, pixel_embeddings, size)
        return Mask2FormerMaskedAttentionDecoderOutput(
            last_hidden_state=hidden.transpose(1, 0),
            intermediate_hidden_states=(normed,),
            masks_queries_logits=(logits,),
        )
