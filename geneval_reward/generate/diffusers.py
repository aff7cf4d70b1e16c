"""`DiffusersGenerator`: a diffusers pipeline as a generator, one seed per image."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from PIL import Image

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.generate.batches import Batches
from geneval_reward.generate.callable import as_pil, global_seed
from geneval_reward.results.generator_notes import GeneratorNotes

_OURS: Final = ("prompt", "generator", "num_images_per_prompt", "output_type", "return_dict", "latents")


class DiffusersGenerator:
    """Makes images with any text-to-image pipeline of diffusers.

    Each image starts from noise drawn on the CPU from its own seed, so it does not depend on the batch, the number of
    processes or the kind of GPU (apart from rounding in the network). Schedulers that draw noise in every step use the same
    generators.

    GLM-Image draws tokens before it denoises, from torch's global generator, which it seeds with the seed of the only
    generator that it accepts. It makes one image per call.

    If memory runs out, the batch is halved for good, and the images are made again from the same seeds.

    Args:
        pipe: The pipeline, used as it is; the caller sets device, precision and adapters.
        batch_size: Images per call of the pipeline, >= 1.
        **call_kwargs: Passed with every call, such as `num_inference_steps`, `guidance_scale`, `height`.

    Raises:
        UsageError: If the pipeline takes no prompt or generator, or `call_kwargs` names an argument that it does not take
            or that is set here.

    Examples:
        >>> from geneval_reward.pocket import load_pipeline
        >>> generator = DiffusersGenerator(load_pipeline(), num_inference_steps=4)
        >>> image, = generator.generate(["a photo of two clocks"], seeds=[0])
        >>> image.size
        (256, 256)
    """

    def __init__(self, pipe: Any, *, batch_size: int = 8, **call_kwargs: Any) -> None:
        self._batches = Batches(self._call, batch_size)
        taken = inspect.signature(type(pipe).__call__).parameters
        self._draws_tokens = "prior_token_ids" in taken
        if self._draws_tokens:
            self._batches.batch_size = 1
        for name in ("prompt", "generator"):
            if name not in taken:
                raise UsageError(
                    f"pipe: expected a text-to-image pipeline that takes {name!r}, got {type(pipe).__name__}; wrap it in an "
                    "object with generate(prompts, seeds)"
                )
        for name in call_kwargs:
            if name in _OURS:
                raise UsageError(
                    f"{name}: expected it to be left out, got {call_kwargs[name]!r}; it is set for each image"
                )
            if name not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
                raise UsageError(
                    f"{name}: expected an argument that {type(pipe).__name__} takes, got one that it does not"
                )
        self.pipe = pipe
        self.call_kwargs = call_kwargs

    @property
    def batch_size(self) -> int:
        """Images per call of the pipeline; fewer than asked for once memory has run out."""
        return self._batches.batch_size

    @property
    def notes(self) -> GeneratorNotes:
        """The negative prompt, if `call_kwargs` has one."""
        negative = self.call_kwargs.get("negative_prompt")
        return GeneratorNotes(negative_prompt=negative if isinstance(negative, str) and negative else None)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make images.

        Args:
            prompts: Texts.
            seeds: One integer >= 0 per prompt.

        Returns:
            One RGB image per prompt, in order.

        Raises:
            ImageError: If an image has NaN or infinite pixels, or the safety checker replaced it.
            UsageError: If there are not as many seeds as prompts.
            TypeError: If a prompt is not text (a single string would be read letter by letter).
            torch.OutOfMemoryError: If memory runs out with a single image.
        """
        return self._batches.run(prompts, seeds)

    def _call(self, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        def describe(index: int) -> str:
            return f" (prompt {prompts[index]!r}, seed {seeds[index]})"

        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        # Use floats, because NaN becomes 0 in uint8: a model that diverged would seem to paint black images.
        with _finite_decoder(self.pipe, describe(0) if len(prompts) == 1 else f" (prompts {prompts[0]!r} and more)"):
            if self._draws_tokens:
                with global_seed(seeds[0]):
                    out = self.pipe(prompt=prompts, generator=generators[0], output_type="np", **self.call_kwargs)
            else:
                out = self.pipe(prompt=prompts, generator=generators, output_type="np", **self.call_kwargs)
        images = as_pil(out.images, len(prompts), "pipe", describe)
        for index, flagged in enumerate(getattr(out, "nsfw_content_detected", None) or ()):
            if flagged:
                raise ImageError(
                    f"pipe: images[{index}]: expected an image, got the black one of the safety checker{describe(index)}; "
                    "load the pipeline with safety_checker=None, or take a model without one"
                )
        return images


@contextmanager
def _finite_decoder(pipe: Any, origin: str) -> Iterator[None]:
    """Raise if the decoder's output is infinite, which the pipeline would clamp to black or white."""
    decoder = getattr(getattr(pipe, "vae", None), "decoder", None)
    if not isinstance(decoder, torch.nn.Module):
        yield
        return

    def check(module: torch.nn.Module, args: Any, output: Any) -> None:
        pixels = getattr(output, "sample", output)
        if isinstance(pixels, torch.Tensor) and bool(pixels.isinf().any()):
            raise ImageError(
                f"pipe: expected finite pixels of the decoder, got infinity{origin}; a half precision has overflowed "
                "(try bf16 or fp32) or the weights have diverged"
            )

    hook = decoder.register_forward_hook(check)
    try:
        yield
    finally:
        hook.remove()
