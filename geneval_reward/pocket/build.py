"""A new, untrained pocket pipeline: the sizes of its parts."""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from geneval_reward.pocket.codec import CHANNELS, SIDE
from geneval_reward.pocket.decoder import SceneDecoder
from geneval_reward.pocket.pipeline import PocketPipeline
from geneval_reward.pocket.text import MAX_WORDS, PocketTextConfig, PocketTextEncoder, make_tokenizer, vocabulary


def build_pipeline(
    seed: int = 0, *, layers: int = 4, heads: int = 4, head_width: int = 32, text_width: int = 64
) -> PocketPipeline:
    """An untrained pipeline.

    Args:
        seed: Of the first weights; torch's global state is left as it was.
        layers: Blocks of the transformer.
        heads: Attention heads of each.
        head_width: Width of a head; `heads * head_width` is the transformer's width.
        text_width: Width of the word vectors.

    Returns:
        A pipeline with random weights, 2.3 million with the defaults.
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
        text_encoder = PocketTextEncoder(
            PocketTextConfig(vocab_size=len(vocabulary()), hidden_size=text_width, max_words=MAX_WORDS)
        )
    return PocketPipeline(
        transformer.eval(),
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        text_encoder.eval(),
        make_tokenizer(),
        SceneDecoder(),
    )
