"""Tiny random pipelines, for tests and dry runs: the real diffusers classes, a few thousand weights, no download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geneval_reward.generate.seeds import seed_for
from geneval_reward.prompts import CLASS_NAMES, COLORS, RELATIONS


def tiny_sd3(seed: int = 0) -> Any:
    """A Stable Diffusion 3 pipeline of 32 px with random weights; prompts are embedded by their hash.

    Source: the sizes are those of diffusers' own tests.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    class TinySD3(StableDiffusion3Pipeline):
        def encode_prompt(self, prompt: list[str], **kwargs: Any) -> tuple[Tensor, ...]:
            embeds, pooled = _given(kwargs) or _embed(prompt, 6, 32, 64, kwargs["device"])
            return embeds, torch.zeros_like(embeds), pooled, torch.zeros_like(pooled)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
        )
        vae = tiny_vae(4)
    parts = dict.fromkeys(
        ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    )
    return TinySD3(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae, **parts)


def tiny_flux(seed: int = 0) -> Any:
    """A FLUX pipeline of 32 px with random weights; prompts are embedded by their hash.

    Source: the sizes are those of diffusers' own tests.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    class TinyFlux(FluxPipeline):
        def encode_prompt(self, prompt: list[str], **kwargs: Any) -> tuple[Tensor, ...]:
            embeds, pooled = _given(kwargs) or _embed(prompt, 6, 32, 32, kwargs["device"])
            return embeds, pooled, torch.zeros(6, 3, device=embeds.device)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        )
        vae = tiny_vae(1)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipeline: Any = TinyFlux(transformer=transformer, scheduler=scheduler, vae=vae, **parts)
    pipeline.default_sample_size = 8
    return pipeline


def tiny_janus(seed: int = 0, words: Sequence[str] = ()) -> tuple[Any, Any]:
    """A Janus with random weights and its processor: 64 image tokens of 32 codes, pictures of 16 px.

    Args:
        seed: Seed of the weights.
        words: Words that its tokenizer knows in addition to those of GenEval's records; others are unknown.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusImageProcessor,
        JanusProcessor,
        PreTrainedTokenizerFast,
    )

    special = ["<pad>", "<s>", "</s>", "<boi>", "<eoi>", "<image>"]
    known = "User Assistant : . , ? * a an and are at is of photo there two what which".split()
    known += sorted({word for name in (*CLASS_NAMES, *COLORS, *RELATIONS) for word in name.split()})
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *known, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=special[0],
        pad_token=special[0],
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    )
    content = "{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }} {% endfor %}"
    template = "{% for m in messages %}<s> User : " + content + "{% endfor %}Assistant : "
    processor = JanusProcessor(
        JanusImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3), fast, template, num_image_tokens=64
    )
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 4, "max_position_embeddings": 256, "vocab_size": len(vocabulary)}
    config = JanusConfig(
        text_config={**text, "model_type": "llama", "pad_token_id": 0, "bos_token_id": 1},
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 2,
            "projection_dim": 32,
            "num_image_tokens": 64,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 32,
            "latent_channels": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "num_patches": 8,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
        image_token_id=5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = JanusForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3.0)  # as initialised, every token is as likely as any other, and the picture is flat
    model.generation_config.generation_kwargs = {"boi_token_id": 3}
    model.generation_config.pad_token_id, model.generation_config.bos_token_id = 0, 1
    return model, processor


def tiny_vae(channels: int) -> Any:
    """An autoencoder of 32 px with random weights, for latents of `channels` channels."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
        sample_size=32,
    )


def _given(kwargs: dict[str, Any]) -> tuple[Tensor, Tensor] | None:
    embeds = kwargs.get("prompt_embeds")
    return None if embeds is None else (embeds, kwargs["pooled_prompt_embeds"])


def _embed(prompts: list[str], tokens: int, width: int, pooled: int, device: Any) -> tuple[Tensor, Tensor]:
    """Make a fixed random embedding per prompt, the same in every process."""
    generators = [
        torch.Generator().manual_seed(seed_for(0, hashlib.sha256(prompt.encode()).hexdigest(), 0)) for prompt in prompts
    ]
    embeds = torch.stack([torch.randn(tokens, width, generator=g) for g in generators])
    return embeds.to(device), torch.stack([torch.randn(pooled, generator=g) for g in generators]).to(device)
