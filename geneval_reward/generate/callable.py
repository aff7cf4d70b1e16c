"""`CallableGenerator`: a plain function as a generator, for autoregressive and unified models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from geneval_reward.errors import UsageError
from geneval_reward.generate.batches import Batches

Seeding = Literal["given", "global"]


class CallableGenerator:
    """Makes images with a function `(prompts, seeds) -> images`.

    Two ways for an image to depend on its own seed alone, whatever batch it is made in:

    * `seeding="given"`: the function draws image i from `seeds[i]`. For models that sample token by token,
      `geneval_reward.generate.SeededTokens` does that in `transformers`' `generate`.
    * `seeding="global"`: the function draws from torch's global generators. It is then called with one image at a time,
      its seed set before; the state of those generators is given back afterwards.

    If memory runs out the batch is halved, for good, and the images are made again from the same seeds.

    Args:
        function: Gets a list of prompts and a list of as many seeds (integers in `[0, 2**63)`). Returns as many images:
            PIL images, `(H, W, 3)` uint8 arrays, `(3, H, W)` tensors (uint8, or floats in [0, 1]), or one array or tensor of
            such with a leading batch dimension.
        batch_size: Most images a call, >= 1; always 1 with `seeding="global"`.
        seeding: `given` or `global`.

    Raises:
        TypeError: If `function` cannot be called.
        ValueError: If `batch_size` or `seeding` is not valid.

    Example:
        >>> def paint(prompts, seeds):
        ...     return [np.full((8, 8, 3), seed % 256, np.uint8) for seed in seeds]
        >>> generator = CallableGenerator(paint, batch_size=2)
        >>> [image.getpixel((0, 0))[0] for image in generator.generate(["a dog", "a cat", "a cup"], [3, 4, 5])]
        [3, 4, 5]
    """

    def __init__(
        self,
        function: Callable[[list[str], list[int]], Any],
        *,
        batch_size: int = 8,
        seeding: Seeding = "given",
    ) -> None:
        if not callable(function):
            raise TypeError(f"function: expected something to call, got {type(function).__name__}")
        if seeding not in ("given", "global"):
            raise UsageError(f"seeding: expected 'given' or 'global', got {seeding!r}")
        self.function = function
        self.seeding = seeding
        self._batches = Batches(self._call, batch_size)
        if seeding == "global":
            self._batches.batch_size = 1

    @property
    def batch_size(self) -> int:
        """Most images a call; less than asked for once memory has run out."""
        return self._batches.batch_size

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make images.

        Args:
            prompts: Texts.
            seeds: One integer >= 0 per prompt.

        Returns:
            One RGB image per prompt, in order.

        Raises:
            ValueError: If there are not as many seeds as prompts, or the function gives another number of images or
                something that is no image.
            TypeError: If a prompt is not text.
        """
        return self._batches.run(prompts, seeds)

    def _call(self, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        if self.seeding == "given":
            return as_pil(self.function(prompts, seeds), len(prompts))
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seeds[0])
            return as_pil(self.function(prompts, seeds), len(prompts))


def as_pil(images: Any, count: int, name: str = "function") -> list[Image.Image]:
    """RGB images from what a model gives.

    Args:
        images: See `CallableGenerator`.
        count: How many there must be.
        name: What gave them, for messages.

    Raises:
        ValueError: For another number, or something that is no image; the message names the index.

    Example:
        >>> as_pil(torch.ones(1, 3, 4, 6), 1)[0].size
        (6, 4)
    """
    try:
        found = list(images)
    except TypeError as error:
        raise UsageError(f"{name}: expected a list of images, got {type(images).__name__}") from error
    if len(found) != count:
        raise UsageError(f"{name}: expected {count} images, one per prompt, got {len(found)}")
    return [_one(image, index, name) for index, image in enumerate(found)]


def _one(image: Any, index: int, name: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, torch.Tensor):
        tensor = image.detach().to("cpu")
        array: npt.NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 and array.shape[0] == 3 else array
    else:
        array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3:
        raise UsageError(
            f"{name}: images[{index}]: expected (height, width, 3), or (3, height, width) in a tensor, got {array.shape}"
        )
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):
            raise UsageError(
                f"{name}: images[{index}]: expected floats in [0, 1], got {low:.3g}..{high:.3g}; "
                "scale and clamp them, or give uint8"
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UsageError(f"{name}: images[{index}]: expected uint8 or floats, got {array.dtype}")
    return Image.fromarray(array)
