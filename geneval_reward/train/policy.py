"""`FlowPolicy`: what reinforcement learning needs from a diffusers pipeline: encode, velocity, decode, noise levels.

The same code serves Stable Diffusion 3 and 3.5, FLUX and the packaged pocket model. Latents are always `(B, C, H, W)` and
times lie in [0, 1]. What else a transformer needs (timesteps up to 1000, packed tokens, position ids) stays in this file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from geneval_reward import generate
from geneval_reward.errors import ImageError, UsageError
from geneval_reward.support.devices import stack_to_device

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DECODE_POSITIONS: Final = 4 * 64 * 64  # of latents: four pictures of 512 x 512
_FAMILIES: Final = {"SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}


@dataclass(frozen=True)
class Conditions:
    """Encoded prompts.

    Attributes:
        embeds: Token embeddings, (B, L, D).
        pooled: Pooled embeddings, (B, P).
    """

    embeds: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.embeds)

    def rows(self, index: Tensor | slice) -> Conditions:
        """Select rows, in the given order."""
        return Conditions(self.embeds[index], self.pooled[index])


@final  # lets jsonargparse take its arguments without a class path: `--model.policy.pipeline`
class FlowPolicy:
    """A text-to-image pipeline as a flow policy.

    It is a plain object, not an `nn.Module`, so that a LightningModule that holds one does not register the text encoders
    and the decoder: they stay out of checkpoints, optimizers and DDP.

    Args:
        pipeline: `pocket`, the packaged model; a name or folder that diffusers loads; `module:function`, a function without
            arguments that returns a pipeline (such as `geneval_reward.train.tiny:tiny_sd3`); or a pipeline. It needs a
            `transformer` of the SD3 or FLUX kind, a `vae`, `encode_prompt` and a `FlowMatchEulerDiscreteScheduler`.
        dtype: Precision in which diffusers loads it: `fp32`, `bf16` or `fp16`.
        resolution: Height and width of images in pixels; None for the pipeline's own.
        guidance_scale: Classifier-free guidance for SD3 in sampling and in training (1 means none), or FLUX's embedded
            guidance.
        max_sequence_length: Number of text tokens for the T5 encoder.
        gradient_checkpointing: Recompute the transformer's activations in the backward pass, to save memory.

    Raises:
        UsageError: If the dtype is unknown, or the pipeline does not exist or is of another kind.
    """

    def __init__(
        self,
        pipeline: Any = "pocket",
        *,
        dtype: str = "fp32",
        resolution: int | None = None,
        guidance_scale: float = 1.0,
        max_sequence_length: int = 128,
        gradient_checkpointing: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise UsageError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        # The decoder stays in float32, as in the released code; see `decode`.
        pipeline = generate.load_pipeline(pipeline, dtype, float32=("vae",))
        transformer = getattr(pipeline, "transformer", None)
        kinds = {kind.__name__ for kind in type(transformer).__mro__}
        families = [family for name, family in _FAMILIES.items() if name in kinds]
        if not families:
            raise UsageError(
                f"pipeline: expected a transformer of {' or '.join(_FAMILIES)}, got {type(transformer).__name__} in "
                f"{type(pipeline).__name__}; other models need a velocity in geneval_reward/train/policy.py"
            )
        if not hasattr(pipeline.scheduler, "sigmas"):
            raise UsageError(
                f"pipeline.scheduler: expected FlowMatchEulerDiscreteScheduler, got {type(pipeline.scheduler).__name__}"
            )
        if guidance_scale < 0:
            raise UsageError(f"guidance_scale: expected a number >= 0, got {guidance_scale}")
        self.family = families[0]
        self.pipeline = pipeline
        self.transformer: Any = pipeline.transformer  # diffusers has no types
        self.guidance_scale = guidance_scale
        self.max_sequence_length = max_sequence_length
        self.device = torch.device("cpu")
        self._negative: Conditions | None = None
        self.latent_shape = self._latent_shape(resolution)
        for part in self._frozen():
            part.requires_grad_(False).eval()
        # The released code decodes float32 weights: half precision has too few bits for 256 levels, or overflows.
        if isinstance(pipeline.vae, nn.Module):
            pipeline.vae.float()
        if gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing()

    def to(self, device: torch.device) -> FlowPolicy:
        """Move the text encoders and the decoder; the transformer moves with the module that trains it."""
        self.device = device
        for part in self._frozen():
            part.to(device)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditions:
        """Encode prompts, each distinct text once.

        Autocast is off: T5 in fp16 keeps some of its weights in float32 to avoid overflow, and an autocast context around
        a whole epoch would cast them down again.

        Returns:
            `Conditions` with one row per prompt.
        """
        distinct = list(dict.fromkeys(prompts))
        encoded = self._encode(distinct)
        index = torch.tensor([distinct.index(prompt) for prompt in prompts])
        return encoded.rows(index.to(encoded.embeds.device, non_blocking=True))

    def noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw noise (B, C, H, W), each sample from its own generator, so that it depends on neither batch nor rank."""
        rows = [torch.randn(self.latent_shape, generator=g, device=g.device) for g in generators]
        return stack_to_device(rows, self.device)

    def velocity(self, transformer: Any, conditions: Conditions) -> Callable[[Tensor, Tensor], Tensor]:
        """Return `velocity(x, t) -> v` under encoded prompts: x is (B, C, H, W), t is (B,), v is float32 like x."""
        return lambda x, t: self._velocity(transformer, x, t, conditions)

    def sigmas(self, steps: int) -> Tensor:
        """Return the scheduler's own noise levels: (steps + 1,) on the CPU, from 1 or slightly less down to 0."""
        # Use a copy, because setting timesteps changes the scheduler that the pipeline keeps using.
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        options: dict[str, Any] = {}
        if scheduler.config.get("use_dynamic_shifting"):
            options["mu"] = _dynamic_shift(scheduler.config, self._tokens())
        if self.family == "flux":
            options["sigmas"] = np.linspace(1.0, 1.0 / steps, steps)
            scheduler.set_timesteps(device="cpu", **options)
        else:
            scheduler.set_timesteps(steps, device="cpu", **options)
        levels: Tensor = scheduler.sigmas.float().clone()
        return levels

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, H, W) to images, uint8 (B, 3, h, w); see `decode_latents`."""
        return decode_latents(self.pipeline.vae, latents)

    def _latent_shape(self, resolution: int | None) -> tuple[int, int, int]:
        """Compute channels, height and width of the latents for a resolution in pixels."""
        pipeline, config = self.pipeline, self.transformer.config
        channels, side = int(config.in_channels), int(getattr(config, "sample_size", None) or 0)
        factor = getattr(pipeline, "vae_scale_factor", None)
        if factor is None:  # a model with one fixed size, such as the pocket model
            if resolution is not None and resolution != pipeline.vae.config.sample_size:
                raise UsageError(
                    f"resolution: expected {pipeline.vae.config.sample_size} or None, got {resolution}; this model has one size"
                )
            return channels, side, side
        pixels = resolution or int(getattr(pipeline, "default_sample_size", None) or side) * factor
        unit = factor * 2 if self.family == "flux" else factor * int(config.patch_size)
        if pixels % unit:
            raise UsageError(f"resolution: expected a multiple of {unit}, got {pixels}")
        # FLUX's transformer packs 2 x 2 latents into one token.
        return channels // 4 if self.family == "flux" else channels, pixels // factor, pixels // factor

    def _frozen(self) -> list[nn.Module]:
        parts = [part for name, part in self.pipeline.components.items() if name != "transformer"]
        return [part for part in parts if isinstance(part, nn.Module)]

    def _tokens(self) -> int:
        _, height, width = self.latent_shape
        patch = 2 if self.family == "flux" else int(self.transformer.config.patch_size)
        return (height // patch) * (width // patch)

    def _encode(self, prompts: list[str]) -> Conditions:
        options: dict[str, Any] = {"device": self.device, "max_sequence_length": self.max_sequence_length}
        with _without_autocast(self.device):
            if self.family == "flux":
                embeds, pooled, _ = self.pipeline.encode_prompt(prompt=prompts, prompt_2=None, **options)
            else:
                embeds, _, pooled, _ = self.pipeline.encode_prompt(
                    prompt=prompts, prompt_2=None, prompt_3=None, do_classifier_free_guidance=False, **options
                )
        return Conditions(embeds, pooled)

    def _velocity(self, transformer: Any, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        if len(conditions) != len(x):
            raise UsageError(f"conditions: expected {len(x)} rows, one per sample, got {len(conditions)}")
        if self.family == "flux":
            return self._flux(transformer, x, t, conditions)
        if self.guidance_scale in (0.0, 1.0):
            return self._sd3(transformer, x, t, conditions)
        if self._negative is None:
            self._negative = self._encode([""])
        negative = self._negative.rows(torch.zeros(len(x), dtype=torch.long, device=self._negative.embeds.device))
        both = Conditions(
            torch.cat([negative.embeds, conditions.embeds]), torch.cat([negative.pooled, conditions.pooled])
        )
        v_negative, v = self._sd3(transformer, torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return v_negative + self.guidance_scale * (v - v_negative)

    def _sd3(self, transformer: Any, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        dtype = transformer.dtype
        v: Tensor = transformer(
            hidden_states=x.to(dtype),
            timestep=t.float() * 1000,
            encoder_hidden_states=conditions.embeds.to(dtype),
            pooled_projections=conditions.pooled.to(dtype),
            return_dict=False,
        )[0]
        return v.float()

    def _flux(self, transformer: Any, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        dtype = transformer.dtype
        batch, channels, height, width = x.shape
        packed = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        packed = packed.reshape(batch, (height // 2) * (width // 2), channels * 4)
        rows, columns = torch.meshgrid(
            torch.arange(height // 2, device=x.device), torch.arange(width // 2, device=x.device), indexing="ij"
        )
        image_ids = torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).to(dtype)
        text_ids = torch.zeros(conditions.embeds.shape[1], 3, device=x.device, dtype=dtype)
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full((batch,), self.guidance_scale, device=x.device)
        v: Tensor = transformer(
            hidden_states=packed.to(dtype),
            timestep=t.float(),
            guidance=guidance,
            pooled_projections=conditions.pooled.to(dtype),
            encoder_hidden_states=conditions.embeds.to(dtype),
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        v = v.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return v.reshape(batch, channels, height, width).float()


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Decode latents to images with a diffusers autoencoder, outside of autocast.

    Args:
        vae: The autoencoder, in float32.
        latents: (B, C, H, W), as the transformer or UNet produces them.

    Returns:
        uint8 (B, 3, h, w).

    Raises:
        ImageError: If an image has NaN or infinite pixels, which would pass for a black image as uint8.
    """
    scaling = getattr(vae.config, "scaling_factor", None) or 1.0
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    # A few at a time: float32 maps of one picture of 512 x 512 take about a GB, and more pictures keep a GPU no busier.
    at_once = max(1, _DECODE_POSITIONS // latents[0, 0].numel()) if latents.device.type == "cuda" else len(latents)
    scaled = (latents / scaling + shift).to(vae.dtype)
    with _without_autocast(latents.device):
        parts = [vae.decode(part, return_dict=False)[0].float() for part in scaled.split(at_once)]
    images = torch.cat(parts)
    broken = (~images.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise ImageError(
            f"images[{broken[0]}]: expected finite pixels, got NaN or infinity ({len(broken)} of {len(images)} images); "
            "the weights have diverged, or a half precision has overflowed"
        )
    return ((images / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)


def _without_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)


def _dynamic_shift(config: Any, tokens: int) -> float:
    """Compute FLUX's resolution-dependent shift, which is linear in the number of image tokens."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(base + (top - base) * (tokens - low) / (high - low))
