"""Sampling images from the module's `generate`, a function, a generator, or a diffusers pipeline that the module holds."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.support.counts import counted
from geneval_reward.support.imports import import_object
from geneval_reward.support.signatures import check_part, takes_nothing
from geneval_reward.vision.images import as_images, refuse_invalid_casts

_CPU = torch.device("cpu")

SampleFn = Callable[[Any, Sequence[str], Sequence[int]], Any]
"""`(pl_module, prompts, seeds) -> images`, one image per prompt, each from its own seed."""


def read_sample_fn(sample_fn: Any, kwargs: Mapping[str, Any]) -> Any:
    """Import a `sample_fn` that is given by its import path, and refuse one that does not take what it will get.

    Args:
        sample_fn: What `Sampler` takes, or the import path of it or of a class without arguments that makes it.
        kwargs: Names of further arguments of every call.

    Raises:
        UsageError: If its signature is another one; the message has the expected one.
    """
    if isinstance(sample_fn, str):
        sample_fn = import_object(sample_fn, "sample_fn")
        if callable(sample_fn) and takes_nothing(sample_fn):
            sample_fn = sample_fn()
    more = "".join(f", {name}=" for name in kwargs)
    if callable(getattr(sample_fn, "generate", None)):
        check_part("sample_fn", sample_fn, f"generate(prompts, seeds{more})")
    elif callable(sample_fn):
        check_part("sample_fn", sample_fn, f"(pl_module, prompts, seeds{more})")
    return sample_fn


class Sampler:
    """Makes images with the module being trained.

    Args:
        pl_module: The module.
        sample_fn: A `SampleFn`, or an object with `generate(prompts, seeds)`; None for `pl_module.generate`, or
            otherwise the only diffusers pipeline that the module holds.
        kwargs: Passed to every call, for example `num_inference_steps`.
        batch_size: Maximum images per call of the pipeline.

    Raises:
        UsageError: If there is nothing to sample with, or more than one pipeline.
    """

    def __init__(
        self,
        pl_module: nn.Module,
        sample_fn: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        batch_size: int = 8,
    ) -> None:
        self._module = pl_module
        self._kwargs = dict(kwargs or {})
        self._batch_size = batch_size
        self.pipelines = _pipelines(pl_module)
        self._call = self._resolve(sample_fn)

    def modules(self) -> list[nn.Module]:
        """The module, and the other modules of its pipelines (text encoders, decoders)."""
        parts = [part for pipeline in self.pipelines for part in pipeline.components.values()]
        return [self._module, *(part for part in parts if isinstance(part, nn.Module))]

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Put modules in eval mode, silence pipelines and copy their schedulers, whose state a training step may be using."""
        before = [(pipe, pipe.scheduler, getattr(pipe, "_progress_bar_config", None)) for pipe in self.pipelines]
        for module in self.modules():
            module.eval()
        try:
            for pipe, scheduler, bar in before:
                pipe.scheduler = copy.deepcopy(scheduler)
                pipe.set_progress_bar_config(**(bar or {}) | {"disable": True})
            yield
        finally:
            for pipe, scheduler, bar in before:
                pipe.scheduler = scheduler
                pipe.set_progress_bar_config(**(bar or {}))

    def sample(self, prompts: list[str], seeds: list[int], device: torch.device) -> list[torch.Tensor]:
        """Sample images for prompts and check them.

        Args:
            prompts: Texts.
            seeds: One per prompt.
            device: The module's device; images may be there or on the CPU.

        Returns:
            uint8 RGB tensors `(3, h, w)`.

        Raises:
            ImageError: If there is not one valid image in range per prompt; the message names the index.
        """
        return sample("sample_fn", self._call, prompts, seeds, device)

    def _resolve(self, sample_fn: Any) -> Callable[[list[str], list[int]], Any]:
        if sample_fn is not None:
            if callable(getattr(sample_fn, "generate", None)):
                return lambda prompts, seeds: sample_fn.generate(prompts, seeds, **self._kwargs)
            if callable(sample_fn):
                return lambda prompts, seeds: sample_fn(self._module, prompts, seeds, **self._kwargs)
            raise UsageError(
                "sample_fn: expected a function of (pl_module, prompts, seeds) or an object with generate(prompts, seeds), "
                f"got {type(sample_fn).__name__}"
            )
        generate = getattr(self._module, "generate", None)
        if callable(generate):
            return lambda prompts, seeds: generate(prompts, seeds, **self._kwargs)
        if len(self.pipelines) != 1:
            raise UsageError(
                f"sample_fn: expected {type(self._module).__name__}.generate(prompts, seeds), one diffusers pipeline as an "
                f"attribute, or a sample_fn, got {len(self.pipelines)} pipelines and neither of the others; pass sample_fn"
            )
        from geneval_reward.generate import DiffusersGenerator

        pipeline = DiffusersGenerator(self.pipelines[0], batch_size=self._batch_size, **self._kwargs)
        return lambda prompts, seeds: pipeline.generate(prompts, seeds)


def _pipelines(pl_module: nn.Module) -> list[Any]:
    """Find diffusers pipelines among the module's attributes. If diffusers was never imported, there are none."""
    diffusers = sys.modules.get("diffusers")
    if diffusers is None:
        return []
    found = (value for value in vars(pl_module).values() if isinstance(value, diffusers.DiffusionPipeline))
    return list({id(pipeline): pipeline for pipeline in found}.values())


def sample(
    name: str,
    function: Callable[[list[str], list[int]], Any],
    prompts: list[str],
    seeds: list[int],
    device: torch.device | None,
) -> list[torch.Tensor]:
    """Call a function of prompts and seeds, and check its images with `check_images`.

    Raises:
        ImageError: If the images are invalid, or the function converted NaN to integers, which would give black pictures.
    """
    with refuse_invalid_casts(name):
        images = function(prompts, seeds)
    return check_images(images, len(prompts), device, name)


def check_images(images: Any, count: int, device: torch.device | None, name: str) -> list[torch.Tensor]:
    """Check a sampler's images.

    Args:
        images: Images, or a pipeline's output object with `images`.
        count: The expected number of images.
        device: A device on which they may be besides the CPU; None for any.
        name: The sampler's name in errors.

    Returns:
        uint8 RGB tensors `(3, h, w)`.

    Raises:
        ImageError: If there are not `count` valid images in range; the message names the index.
    """
    images = getattr(images, "images", images)
    got = str(len(images)) if hasattr(images, "__len__") else type(images).__name__
    if got != str(count):
        raise ImageError(f"{name}: expected {counted(count, 'image')}, one per prompt, got {got}; return them in order")
    for index, image in enumerate(images):
        elsewhere = device is not None and isinstance(image, torch.Tensor) and image.device not in (device, _CPU)
        if elsewhere:
            raise ImageError(
                f"{name}: images[{index}]: expected an image on {device} or the CPU, got one on {image.device}; move it"
            )
    try:
        return as_images(images)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
