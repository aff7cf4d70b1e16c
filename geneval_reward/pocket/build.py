"""A new, untrained pocket pipeline and the sizes of its parts."""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import T5Config, T5EncoderModel

from geneval_reward.pocket.codec import CHANNELS, SIDE
from geneval_reward.pocket.decoder import SceneDecoder
from geneval_reward.pocket.pipeline import PocketPipeline
from geneval_reward.pocket.text import MAX_TOKENS, make_tokenizer, vocabulary


def build_pipeline(
    seed: int = 0,
    *,
    layers: int = 8,
    heads: int = 6,
    head_width: int = 16,
    text_layers: int = 6,
    text_width: int = 64,
) -> PocketPipeline:
    """Build an untrained pipeline.

    Args:
        seed: Seed of the initial weights; torch's global random state is left as it was.
        layers: Blocks of the transformer.
        heads: Attention heads per block.
        head_width: Width of a head; `heads * head_width` is the transformer's width.
        text_layers: Blocks of the text encoder.
        text_width: Width of the text encoder's token vectors.

    Returns:
        A pipeline with random weights: 2.6 million in the transformer and 0.25 million in the text encoder by default.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = heads * head_width
        transformer = SD3Transformer2DModel(
            sample_size=SIDE,
            patch_size=1,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_layers=layers,
            attention_head_dim=head_width,
            num_attention_heads=heads,
            caption_projection_dim=width,
            joint_attention_dim=text_width,
            pooled_projection_dim=text_width,
            pos_embed_max_size=SIDE,
        )
        # The T5 1.1 family, as in SD3, PixArt and FLUX: gated GELU, no dropout.
        text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(vocabulary()),
                d_model=text_width,
                d_kv=16,
                num_heads=text_width // 16,
                d_ff=2 * text_width,
                num_layers=text_layers,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                relative_attention_max_distance=MAX_TOKENS,
            )
        )
    return PocketPipeline(
        transformer.eval(),
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        text_encoder.eval(),
        make_tokenizer(),
        SceneDecoder(),
    )
