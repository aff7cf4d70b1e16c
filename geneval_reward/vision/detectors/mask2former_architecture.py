"""Reads the sizes of a Mask2Former-Swin from the tensors of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from geneval_reward.errors import WeightsError

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

_LEVELS: Final = 3
_POINTS: Final = 4


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a Mask2Former-Swin, as its tensors show them.

    Four sizes cannot be seen in a checkpoint and are constants of mmdet and transformers: 4 sampling points per level, the same
    number of heads in the pixel decoder and in the decoder, 32 groups in group norms, and strides of 4, 8, 16 and 32 pixels.
    """

    embed_dim: int
    patch_size: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int
    mlp_ratio: float
    feature_size: int
    mask_feature_size: int
    encoder_layers: int
    encoder_feedforward_dim: int
    attention_heads: int
    hidden_dim: int
    num_queries: int
    decoder_layers: int
    dim_feedforward: int
    num_classes: int

    @classmethod
    def of(cls, state_dict: Mapping[str, torch.Tensor]) -> Architecture:
        """Read the sizes from tensors with mmdet 3.x names.

        Raises:
            WeightsError: If a tensor that shows a size is missing, or the sizes are those of another architecture.
        """

        def shape(name: str) -> torch.Size:
            if name not in state_dict:
                raise WeightsError(
                    f"checkpoint: expected mmdet's Mask2Former with a Swin backbone, got no tensor {name!r}; "
                    "use the file that `geneval-reward weights list` names"
                )
            return state_dict[name].shape

        def count(pattern: str) -> int:
            numbers = {int(match[1]) for name in state_dict if (match := re.match(pattern, name))}
            return len(numbers)

        stages = count(r"backbone\.stages\.(\d+)\.")
        depths = tuple(count(rf"backbone\.stages\.{stage}\.blocks\.(\d+)\.") for stage in range(stages))
        tables = [
            shape(f"backbone.stages.{stage}.blocks.0.attn.w_msa.relative_position_bias_table")
            for stage in range(stages)
        ]
        pixel, decoder = "panoptic_head.pixel_decoder", "panoptic_head.transformer_decoder"
        embed_dim, _, patch_size, _ = shape("backbone.patch_embed.projection.weight")
        levels = shape(f"{pixel}.level_encoding.weight")[0]
        if stages != 4 or levels != _LEVELS:
            raise WeightsError(
                f"checkpoint: expected 4 backbone stages and {_LEVELS} feature levels, got {stages} and {levels}"
            )
        return cls(
            embed_dim=embed_dim,
            patch_size=patch_size,
            depths=depths,
            num_heads=tuple(table[1] for table in tables),
            window_size=(round(tables[0][0] ** 0.5) + 1) // 2,
            mlp_ratio=shape("backbone.stages.0.blocks.0.ffn.layers.0.0.weight")[0] / embed_dim,
            feature_size=shape(f"{pixel}.input_convs.0.conv.weight")[0],
            mask_feature_size=shape(f"{pixel}.mask_feature.weight")[0],
            encoder_layers=count(rf"{re.escape(pixel)}\.encoder\.layers\.(\d+)\."),
            encoder_feedforward_dim=shape(f"{pixel}.encoder.layers.0.ffn.layers.0.0.weight")[0],
            attention_heads=shape(f"{pixel}.encoder.layers.0.self_attn.attention_weights.weight")[0]
            // (_LEVELS * _POINTS),
            hidden_dim=shape("panoptic_head.query_feat.weight")[1],
            num_queries=shape("panoptic_head.query_feat.weight")[0],
            decoder_layers=count(rf"{re.escape(decoder)}\.layers\.(\d+)\."),
            dim_feedforward=shape(f"{decoder}.layers.0.ffn.layers.0.0.weight")[0],
            num_classes=shape("panoptic_head.cls_embed.weight")[0] - 1,
        )


SWIN_S: Final = Architecture(
    embed_dim=96,
    patch_size=4,
    depths=(2, 2, 18, 2),
    num_heads=(3, 6, 12, 24),
    window_size=7,
    mlp_ratio=4.0,
    feature_size=256,
    mask_feature_size=256,
    encoder_layers=6,
    encoder_feedforward_dim=1024,
    attention_heads=8,
    hidden_dim=256,
    num_queries=100,
    decoder_layers=9,
    dim_feedforward=2048,
    num_classes=80,
)
"""Sizes of the published checkpoint (757 tensors)."""


def random_model(sizes: Architecture) -> Mask2FormerForUniversalSegmentation:
    """Make a `transformers` model of the given sizes with random weights.

    Raises:
        WeightsError: If there is no Mask2Former of these sizes.
    """
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    # "out_features" and "num_labels" are accepted but not declared as fields.
    backbone = SwinConfig(  # type: ignore[call-arg]
        embed_dim=sizes.embed_dim,
        patch_size=sizes.patch_size,
        depths=list(sizes.depths),
        num_heads=list(sizes.num_heads),
        window_size=sizes.window_size,
        mlp_ratio=sizes.mlp_ratio,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(  # type: ignore[call-arg]
        backbone_config=backbone,
        feature_size=sizes.feature_size,
        mask_feature_size=sizes.mask_feature_size,
        hidden_dim=sizes.hidden_dim,
        encoder_layers=sizes.encoder_layers,
        encoder_feedforward_dim=sizes.encoder_feedforward_dim,
        # transformers counts the prediction before the first layer as a layer.
        decoder_layers=sizes.decoder_layers + 1,
        num_attention_heads=sizes.attention_heads,
        dim_feedforward=sizes.dim_feedforward,
        num_queries=sizes.num_queries,
        num_labels=sizes.num_classes,
        dropout=0.0,
    )
    try:
        return Mask2FormerForUniversalSegmentation(config)
    except ValueError as error:
        raise WeightsError(f"checkpoint: expected sizes that make a Mask2Former, got {sizes}: {error}") from error
