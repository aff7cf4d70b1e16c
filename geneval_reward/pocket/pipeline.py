"""`PocketPipeline`: an ordinary diffusers pipeline, text to image, small enough for a laptop's CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_output import StableDiffusion3PipelineOutput
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from transformers import T5EncoderModel

from geneval_reward.errors import UsageError
from geneval_reward.pocket.decoder import SceneDecoder
from geneval_reward.pocket.text import MAX_TOKENS, MAX_WORDS, PocketTokenizer, encode_text

# diffusers' own logger, so that its verbosity settings hold here too.
_log = logging.get_logger(__name__)

MAX_IMAGES = 4096
"""Most images per call; they take about 3 GB."""

Embeds = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]


class PocketPipeline(DiffusionPipeline):
    """Scenes of the pocket world from text.

    A small Stable Diffusion 3 pipeline: transformer, scheduler and T5 text encoder are of the same classes and called in the
    same way, so code that trains or prunes SD3's parts works on these. Instead of an autoencoder it has a
    `geneval_reward.pocket.decoder.SceneDecoder`, which draws the scene that a latent stands for.

    Prompts may hold any text. Words outside its vocabulary are read as "unknown" with a warning, words beyond the eleventh
    are cut with a warning, and an empty prompt gives any scene. No picture has more than four objects, whatever is asked.

    Args:
        transformer: Predicts the velocity from noise to scene.
        scheduler: Takes the steps.
        text_encoder: Reads prompts.
        tokenizer: Splits prompts into words.
        vae: Draws.

    Examples:
        >>> import torch
        >>> from geneval_reward.pocket import load_pipeline
        >>> pipe = load_pipeline()
        >>> generator = torch.Generator().manual_seed(0)
        >>> image = pipe("a photo of a red clock", generator=generator, num_inference_steps=8).images[0]
        >>> image.size
        (256, 256)
    """

    # Set by register_modules. Any, because diffusers types configs as plain dicts and steps as FloatTensor.
    transformer: Any
    scheduler: Any
    text_encoder: Any
    tokenizer: Any
    vae: Any

    model_cpu_offload_seq = "text_encoder->transformer->vae"  # type: ignore[assignment]  # its base says None
    _callback_tensor_inputs = ["latents", "prompt_embeds", "pooled_prompt_embeds"]  # noqa: RUF012

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        text_encoder: T5EncoderModel,
        tokenizer: PocketTokenizer,
        vae: SceneDecoder,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer, vae=vae
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    def encode_prompt(
        self,
        prompt: str | Sequence[str] | None,
        prompt_2: object = None,
        prompt_3: object = None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = False,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        max_sequence_length: int = MAX_TOKENS,
    ) -> Embeds:
        """Encode prompts, with the signature and result of Stable Diffusion 3's `encode_prompt`.

        Args:
            prompt: One text or several.
            prompt_2: Ignored: there is one text encoder, where SD3 has three.
            prompt_3: Ignored.
            device: Device to compute on; the pipeline's own if None.
            num_images_per_prompt: Copies of each row, one after another.
            do_classifier_free_guidance: Whether to encode the negative prompt too.
            negative_prompt: Text that guidance leads away from; the empty text if None.
            prompt_embeds: Token vectors `(n, 12, width)` in place of `prompt`.
            negative_prompt_embeds: The same for the negative prompt.
            pooled_prompt_embeds: Prompt vectors `(n, width)`; needed with `prompt_embeds`.
            negative_pooled_prompt_embeds: The same for the negative prompt.
            max_sequence_length: Ignored: every prompt has twelve tokens.

        Returns:
            `(prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds)`; the negative
            ones are None without guidance.

        Raises:
            UsageError: If there is neither a prompt nor its embeddings, or only half of the embeddings.
            TypeError: If a prompt is not text.
        """
        device = device or self._execution_device
        words, pooled = self._read("prompt", prompt, prompt_embeds, pooled_prompt_embeds, device)
        words, pooled = (part.repeat_interleave(num_images_per_prompt, 0) for part in (words, pooled))
        if not do_classifier_free_guidance:
            return words, None, pooled, None
        if negative_prompt is None and negative_prompt_embeds is None:
            negative_prompt = ""
        away, away_pooled = self._read(
            "negative_prompt", negative_prompt, negative_prompt_embeds, negative_pooled_prompt_embeds, device
        )
        if len(away) == 1:
            away, away_pooled = (part.expand(len(words), *part.shape[1:]) for part in (away, away_pooled))
        elif len(away) * num_images_per_prompt == len(words):
            away, away_pooled = (part.repeat_interleave(num_images_per_prompt, 0) for part in (away, away_pooled))
        else:
            raise UsageError(
                f"negative_prompt: expected one text or {len(words) // num_images_per_prompt}, as many as prompts, "
                f"got {len(away)}"
            )
        return words, away, pooled, away_pooled

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        num_inference_steps: int = 8,
        sigmas: list[float] | None = None,
        guidance_scale: float = 1.0,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, torch.Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> StableDiffusion3PipelineOutput | tuple[Any]:
        """Make images.

        Args:
            prompt: One text or several.
            num_inference_steps: Euler steps, >= 1.
            sigmas: Noise levels to use in place of the scheduler's own.
            guidance_scale: Classifier-free guidance above 1; 1 is none.
            negative_prompt: Text that guidance leads away from.
            num_images_per_prompt: Images of each prompt, which come one after another.
            generator: Source of the first noise; with a list, one per image, an image does not depend on its batch.
            latents: The first noise itself, `(n, channels, 2, 2)`.
            prompt_embeds: See `encode_prompt`.
            negative_prompt_embeds: See `encode_prompt`.
            pooled_prompt_embeds: See `encode_prompt`.
            negative_pooled_prompt_embeds: See `encode_prompt`.
            height: 256 or None: pictures have one size.
            width: 256 or None.
            output_type: `pil`, `pt` `(n, 3, 256, 256)` in [0, 1], `np` `(n, 256, 256, 3)` in [0, 1], or `latent`.
            return_dict: Whether to wrap the images.
            callback_on_step_end: As in diffusers: called with pipeline, step, timestep and tensors after each step.
            callback_on_step_end_tensor_inputs: Which tensors it gets.

        Returns:
            An output with `images`.

        Raises:
            UsageError: If an argument is out of range, or generators or latents are not one per image.
            TypeError: If a prompt is not text.
        """
        side = self.vae.config.sample_size
        self._check(num_inference_steps, num_images_per_prompt, output_type, height, width, side)
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]
        if unknown:
            raise UsageError(
                f"callback_on_step_end_tensor_inputs: expected names of {', '.join(self._callback_tensor_inputs)}, "
                f"got {unknown[0]!r}"
            )
        device = self._execution_device
        guided = guidance_scale > 1
        words, away, pooled, away_pooled = self.encode_prompt(
            prompt,
            device=device,
            num_images_per_prompt=num_images_per_prompt,
            do_classifier_free_guidance=guided,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
        )
        count = len(words)
        if count > MAX_IMAGES:
            raise UsageError(
                f"prompt: expected at most {MAX_IMAGES} images a call, got {count}; split the prompts, or use "
                "geneval_reward.generate.DiffusersGenerator, which does"
            )
        if guided:
            assert away is not None
            assert away_pooled is not None
            words, pooled = torch.cat([away, words]), torch.cat([away_pooled, pooled])
        latents = self.prepare_latents(count, words.dtype, device, generator, latents)
        if sigmas is None:
            self.scheduler.set_timesteps(num_inference_steps, device=device)
        else:
            self.scheduler.set_timesteps(sigmas=sigmas, device=device)
        timesteps = self.scheduler.timesteps
        for step, time in enumerate(self.progress_bar(timesteps)):
            twice = torch.cat([latents] * 2) if guided else latents
            velocity = self.transformer(
                hidden_states=twice,
                timestep=time.expand(len(twice)),
                encoder_hidden_states=words,
                pooled_projections=pooled,
                return_dict=False,
            )[0]
            if guided:
                without, towards = velocity.chunk(2)
                velocity = without + guidance_scale * (towards - without)
            latents = self.scheduler.step(velocity, time, latents, return_dict=False)[0]
            if callback_on_step_end is not None:
                at_hand = {"latents": latents, "prompt_embeds": words, "pooled_prompt_embeds": pooled}
                changed = callback_on_step_end(
                    self, step, time, {name: at_hand[name] for name in callback_on_step_end_tensor_inputs}
                )
                at_hand |= changed or {}
                latents, words, pooled = at_hand["latents"], at_hand["prompt_embeds"], at_hand["pooled_prompt_embeds"]
        images: Any = latents
        if output_type != "latent":
            # float32 for the picture's 256 levels, whatever the transformer computes in
            config = self.vae.config
            scaled = latents.float() / config.scaling_factor + config.shift_factor
            images = self.image_processor.postprocess(self.vae.decode(scaled).sample, output_type=output_type)
        self.maybe_free_model_hooks()
        return StableDiffusion3PipelineOutput(images=images) if return_dict else (images,)

    def prepare_latents(
        self,
        count: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The first noise `(count, channels, 2, 2)`: drawn, or checked if given.

        Raises:
            UsageError: If the generators are not as many as images, or the latents not of this shape.
        """
        side = self.transformer.config.sample_size
        shape = (count, self.transformer.config.in_channels, side, side)
        if latents is not None:
            if tuple(latents.shape) != shape:
                raise UsageError(f"latents: expected shape {shape}, got {tuple(latents.shape)}")
            return latents.to(device=device, dtype=dtype)
        if isinstance(generator, list) and len(generator) != count:
            raise UsageError(f"generator: expected one per image ({count}), got {len(generator)}")
        # Drawn in float32: one seed is one noise in every precision.
        noise: torch.Tensor = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        return noise.to(dtype)

    def _read(
        self,
        name: str,
        texts: str | Sequence[str] | None,
        words: torch.Tensor | None,
        pooled: torch.Tensor | None,
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if words is not None or pooled is not None:
            if texts is not None:
                raise UsageError(f"{name}: expected texts or embeddings, got both; leave one out")
            if words is None or pooled is None or len(words) != len(pooled):
                raise UsageError(
                    f"{name}_embeds: expected word vectors and pooled vectors of as many prompts, got "
                    f"{None if words is None else tuple(words.shape)} and {None if pooled is None else tuple(pooled.shape)}"
                )
            dtype = self.transformer.dtype
            return words.to(device, dtype), pooled.to(device, dtype)
        if texts is None:
            raise UsageError(f"{name}: expected a text or a list of texts, got None; or pass {name}_embeds")
        texts = [texts] if isinstance(texts, str) else list(texts)
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name}[{index}]: expected a string, got {type(text).__name__}")
        if not texts:
            raise UsageError(f"{name}: expected at least one text, got an empty list")
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        )
        self._warn(texts)
        words, pooled = encode_text(self.text_encoder, tokens.input_ids.to(device), tokens.attention_mask.to(device))
        dtype = self.transformer.dtype
        return words.to(dtype), pooled.to(dtype)

    def _warn(self, texts: list[str]) -> None:
        unknown: dict[str, None] = {}
        for index, text in enumerate(texts):
            words = self.tokenizer.tokenize(text)
            if len(words) > MAX_WORDS:
                _log.warning(
                    f"prompt[{index}]: expected at most {MAX_WORDS} words, got {len(words)}; the rest is cut: "
                    f"{' '.join(words[MAX_WORDS:])!r}"
                )
            if self.tokenizer.unk_token in words:
                kept = self.tokenizer.backend_tokenizer
                for word in kept.normalizer.normalize_str(text).split():
                    if kept.token_to_id(word) is None:
                        unknown[word] = None
        if unknown:
            _log.warning(
                f"prompt: expected words of the pocket model's vocabulary, got {', '.join(map(repr, list(unknown)[:8]))}; "
                "they are read as unknown words, see docs/pocket.md"
            )

    @staticmethod
    def _check(steps: int, per_prompt: int, output_type: str, height: int | None, width: int | None, side: int) -> None:
        for name, value in (("num_inference_steps", steps), ("num_images_per_prompt", per_prompt)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name}: expected an integer >= 1, got {value!r}")
        if output_type not in ("pil", "pt", "np", "latent"):
            raise UsageError(f"output_type: expected pil, pt, np or latent, got {output_type!r}")
        for name, length in (("height", height), ("width", width)):
            if length not in (None, side):
                raise UsageError(f"{name}: expected {side} or None, got {length}; pocket pictures have one size")
