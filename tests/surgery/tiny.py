"""Tiny pipelines from configurations with text encoders of the real classes: SD3, SD3.5, FLUX, PixArt-Sigma, Sana, pocket."""

import torch

from geneval_reward.pocket.build import build_pipeline
from geneval_reward.pocket.text import make_tokenizer, vocabulary
from geneval_reward.train.tiny import tiny_vae

FAMILIES = ("sd3", "sd35", "flux", "pixart", "sana", "pocket")
WORDS = len(vocabulary())
_PLAIN_PROMPT = {"complex_human_instruction": None, "clean_caption": False}


def t5(layers=3, width=32):
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=WORDS,
        d_model=width,
        d_kv=8,
        num_heads=2,
        d_ff=48,
        num_layers=layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        initializer_factor=4.0,
    )
    return T5EncoderModel(config).eval()


def clip(width=32, layers=3, projection=True):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=2,
        initializer_factor=4.0,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def gemma(layers=3, width=16):
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=WORDS,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=8,
        initializer_range=0.5,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    return Gemma2Model(config).eval()


def tiny(family, layers=3):
    """A pipeline with random weights whose prompts are read by its own text encoders; it makes 32 px images (pocket: its own)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "pocket":
            pipeline = build_pipeline(layers=layers, text_layers=3)
        else:
            pipeline = {"sd3": _sd3, "sd35": _sd35, "flux": _flux, "pixart": _pixart, "sana": _sana}[family](layers)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                # The real classes start with gates at zero, where a block changes nothing.
                for tensor in part.parameters():
                    if not tensor.any():
                        torch.nn.init.normal_(tensor, std=0.2)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def settings(family):
    """Arguments of a call that makes a small latent."""
    if family == "pocket":
        return {}
    more = {
        "pixart": {"use_resolution_binning": False, "clean_caption": False},
        "sana": {"use_resolution_binning": False} | _PLAIN_PROMPT,
    }
    return {"height": 32, "width": 32} | more.get(family, {})


def _sd3(layers, **more):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=16,
        **more,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(4),
        text_encoder=clip(),
        tokenizer=make_tokenizer(),
        text_encoder_2=clip(),
        tokenizer_2=make_tokenizer(),
        text_encoder_3=t5(width=64),
        tokenizer_3=make_tokenizer(),
    )


def _sd35(layers):
    return _sd3(layers, qk_norm="rms_norm", dual_attention_layers=(0, 1))


def _flux(layers):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=layers,
        num_single_layers=layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_vae(1),
        text_encoder=clip(projection=False),
        tokenizer=make_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=make_tokenizer(),
    )
    pipeline.default_sample_size = 8
    return pipeline


def _pixart(layers):
    from diffusers import DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=layers,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        use_additional_conditions=False,
    )
    return PixArtSigmaPipeline(
        tokenizer=make_tokenizer(),
        text_encoder=t5(),
        vae=tiny_vae(4),
        transformer=transformer.eval(),
        scheduler=DDIMScheduler(),
    )


def _sana(layers):
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=32,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return SanaPipeline(
        tokenizer=make_tokenizer(),
        text_encoder=gemma(),
        vae=vae,
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


def run(pipeline, family, prompt="a photo of a red clock", steps=1):
    """Latents of one seed."""
    with torch.no_grad():
        return pipeline(
            prompt=prompt,
            num_inference_steps=steps,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
            **settings(family),
        ).images
