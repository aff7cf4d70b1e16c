"""Tiny random pipelines, for tests and dry runs: the real diffusers classes, a few thousand weights, no download."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from geneval_reward.generate.seeds import seed_for


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
