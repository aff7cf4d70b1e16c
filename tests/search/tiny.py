"""Tiny diffusion pipelines from configurations: the real classes with a few thousand weights; prompts are embedded by a hash."""

import zlib

import torch


def _embed(prompt, tokens, width):
    generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
    return torch.randn(1, tokens, width, generator=generator)


def _unet(**more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=4,
        attention_head_dim=4,
        **more,
    )


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=16,
    )


def tiny_sd():
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    class TinySD(StableDiffusionPipeline):
        def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance, *_, **__):
            texts = [prompt] if isinstance(prompt, str) else prompt
            found = torch.cat([_embed(text, 5, 16) for text in texts])
            return found, torch.cat([_embed("", 5, 16)] * len(texts)) if do_classifier_free_guidance else None

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinySD(
            vae=_vae(),
            text_encoder=None,
            tokenizer=None,
            unet=_unet(),
            scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def tiny_sdxl():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    class TinySDXL(StableDiffusionXLPipeline):
        def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance, **_):
            found, away = _embed(prompt, 5, 16), _embed("", 5, 16)
            return found, away, found[:, 0, :8], away[:, 0, :8]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = _unet(
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8 + 6 * 4
        )
        parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        return TinySDXL(
            vae=_vae(), unet=unet, scheduler=EulerDiscreteScheduler(steps_offset=1), add_watermarker=False, **parts
        )


def tiny_pixart():
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    class TinyPixArt(PixArtAlphaPipeline):
        def encode_prompt(self, prompt, do_classifier_free_guidance=True, **_):
            mask = torch.ones(1, 5)
            return _embed(prompt, 5, 16), mask, _embed("", 5, 16), mask

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=16,
            in_channels=4,
            cross_attention_dim=16,
            out_channels=8,
            use_additional_conditions=False,
        )
        return TinyPixArt(
            tokenizer=None,
            text_encoder=None,
            vae=_vae(),
            transformer=transformer,
            scheduler=DPMSolverMultistepScheduler(),
        )
