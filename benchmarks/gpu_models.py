"""Models of the published sizes with random weights, for a machine without a network; and tiny ones of the same classes.

`tiny` stands for the dry run on a CPU in CI. Sizes are those of the published configurations: the benchmark's Swin-S
Mask2Former, OpenAI's CLIP ViT-L/14, Stable Diffusion 3.5 Medium and FLUX.1-dev.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import reward_throughput
import torch

from geneval_reward import GenEvalScorer
from geneval_reward.vision.colors.clip import ClipVerifier
from geneval_reward.vision.detectors.mask2former import Mask2FormerDetector
from geneval_reward.vision.detectors.mask2former_architecture import SWIN_S, Architecture, random_model
from geneval_reward.vision.detectors.mask2former_convert import load_converted

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "mask2former"


def side(tiny: bool) -> int | tuple[int, int]:
    """Height and width of the pictures to judge; a strip makes a small network input."""
    return (12, 400) if tiny else 512


@cache
def detector_weights(tiny: bool) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """Sizes and weights of a Mask2Former that sees about a dozen objects in a picture."""
    sizes = load_converted(GOLDEN / "checkpoint_2x.pth").architecture if tiny else SWIN_S
    model = reward_throughput.confident_model(sizes, side(tiny), "cpu" if tiny else "cuda")
    return sizes, model.state_dict()


def network(tiny: bool) -> Any:
    """A Mask2Former of those weights."""
    sizes, weights = detector_weights(tiny)
    model = random_model(sizes).eval().requires_grad_(False)
    model.load_state_dict(weights)
    return model


def detector(
    device: str, precision: str = "auto", *, tiny: bool = False, model: Any = None, **options: Any
) -> Mask2FormerDetector:
    """The `paper` detector of a `network`."""
    options |= {"weights_sha256": "random", "weights_status": "random weights"}
    return Mask2FormerDetector(network(tiny) if model is None else model, device=device, precision=precision, **options)


@cache
def clip_weights(tiny: bool) -> tuple[Any, Any, Any]:
    """CLIP ViT-L/14 with QuickGELU, its tokenizer and its transform."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    torch.manual_seed(0)
    if tiny:
        vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
        text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
        model = open_clip.CLIP(embed_dim=16, quick_gelu=True, vision_cfg=vision, text_cfg=text)
        cfg = PreprocessCfg(size=32)
    else:
        model = open_clip.create_model("ViT-L-14-quickgelu", pretrained=None)
        cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    return model, open_clip.get_tokenizer("ViT-L-14"), image_transform_v2(cfg, is_train=False)


def verifier(device: str, precision: str = "auto", *, tiny: bool = False) -> ClipVerifier:
    """The `paper` colour verifier with a copy of the weights of `clip_weights`."""
    model, tokenizer, transform = clip_weights(tiny)
    return ClipVerifier(
        copy.deepcopy(model), tokenizer, transform, identity="random weights", device=device, precision=precision
    )


def paper(device: str, precision: str = "auto", *, tiny: bool = False, batch_size: int = 8) -> GenEvalScorer:
    """The `paper` scorer with random weights."""
    found = detector(device, precision, tiny=tiny), verifier(device, precision, tiny=tiny)
    return GenEvalScorer(*found, batch_size=batch_size, name="paper")


def served() -> GenEvalScorer:
    """For `geneval-reward serve --backend gpu_models:served`."""
    return paper("cuda", batch_size=32)


def served_tiny() -> GenEvalScorer:
    return paper("cpu", tiny=True)


class HashTokenizer:
    """Stands for a tokenizer whose vocabulary is on the hub: a word's number is its hash, and the last one ends the text."""

    added_tokens_encoder: Mapping[str, int] = MappingProxyType({})

    def __init__(self, vocabulary: int, length: int) -> None:
        self.vocabulary, self.model_max_length = vocabulary, length

    def __call__(self, texts: list[str] | str, max_length: int | None = None, **options: Any) -> Any:
        limit = max_length or self.model_max_length
        rows = []
        for text in [texts] if isinstance(texts, str) else texts:
            row = [zlib.crc32(word.encode()) % (self.vocabulary - 1) for word in text.split()][: limit - 1]
            rows.append([*row, self.vocabulary - 1])
        width = limit if options.get("padding") == "max_length" else max(map(len, rows))
        ids = [row + [self.vocabulary - 1] * (width - len(row)) for row in rows]
        return SimpleNamespace(input_ids=torch.tensor(ids), attention_mask=torch.ones(len(ids), width))

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        return [""] * len(ids)

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def pipeline(family: str, device: str, dtype: torch.dtype, *, tiny: bool = False) -> Any:
    """Stable Diffusion 3.5 Medium (`sd3`) or FLUX.1-dev (`flux`) with all its encoders, made where it will run."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            transformer = _sd3(tiny) if family == "sd3" else _flux(tiny)
            clip, t5, vae = _clip_text(tiny, projection=family == "sd3"), _t5(tiny, dtype), _vae(tiny, family)
            big = _clip_text(tiny, big=True) if family == "sd3" else None
    finally:
        torch.set_default_dtype(before)
    words, long = HashTokenizer(99 if tiny else 49408, 77), HashTokenizer(99 if tiny else 32128, 512)
    parts = {"transformer": transformer, "vae": vae, "text_encoder": clip, "tokenizer": words}
    if family == "flux":
        return FluxPipeline(
            FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
            text_encoder_2=t5,
            tokenizer_2=long,
            **parts,
        )
    return StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder_2=big,
        tokenizer_2=words,
        text_encoder_3=t5,
        tokenizer_3=long,
        **parts,
    )


def _clip_text(tiny: bool, *, big: bool = False, projection: bool = True) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    width, layers, heads = (8, 1, 2) if tiny else (1280, 32, 20) if big else (768, 12, 12)
    config = CLIPTextConfig(
        vocab_size=99 if tiny else 49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act="gelu" if big else "quick_gelu",
        bos_token_id=0,
        eos_token_id=98 if tiny else 49407,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def _t5(tiny: bool, dtype: torch.dtype) -> Any:
    from transformers import T5Config, T5EncoderModel

    width, inner, layers, heads, vocabulary = (32, 32, 1, 2, 99) if tiny else (4096, 10240, 24, 64, 32128)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=64,
        d_ff=inner,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
    )
    model = T5EncoderModel(config).eval()
    if dtype == torch.float16:
        for name, part in model.named_modules():
            if name.endswith(".wo"):
                part.float()  # as transformers loads it, against overflow
    return model


def _sd3(tiny: bool) -> Any:
    from diffusers import SD3Transformer2DModel

    layers, heads, width = (2, 2, 16) if tiny else (24, 24, 64)
    return SD3Transformer2DModel(
        sample_size=8 if tiny else 128,
        patch_size=2,
        in_channels=4 if tiny else 16,
        out_channels=4 if tiny else 16,
        num_layers=layers,
        attention_head_dim=width,
        num_attention_heads=heads,
        joint_attention_dim=32 if tiny else 4096,
        caption_projection_dim=heads * width,
        pooled_projection_dim=16 if tiny else 2048,
        pos_embed_max_size=16 if tiny else 384,
        dual_attention_layers=(0,) if tiny else tuple(range(13)),
        qk_norm="rms_norm",
    )


def _flux(tiny: bool) -> Any:
    from diffusers import FluxTransformer2DModel

    if not tiny:
        return FluxTransformer2DModel(guidance_embeds=True)  # the defaults are FLUX.1's sizes
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )


def _vae(tiny: bool, family: str) -> Any:
    from diffusers import AutoencoderKL

    widths = (4, 4, 4, 4) if tiny else (128, 256, 512, 512)
    return AutoencoderKL(
        latent_channels=4 if tiny else 16,
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1 if tiny else 2,
        norm_num_groups=1 if tiny else 32,
        scaling_factor=0.3611 if family == "flux" else 1.5305,
        shift_factor=0.1159 if family == "flux" else 0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64 if tiny else 1024,
    )
