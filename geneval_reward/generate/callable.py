"""`CallableGenerator`: a plain function as a generator, for autoregressive and unified models."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from geneval_reward.errors import ImageError, UsageError
from geneval_reward.generate.batches import Batches
from geneval_reward.results.generator_notes import NO_NOTES, GeneratorNotes
from geneval_reward.support.counts import counted
from geneval_reward.support.signatures import check_part
from geneval_reward.vision.images import refuse_invalid_casts

Seeding = Literal["given", "global"]


class CallableGenerator:
    """Makes images with a function `(prompts, seeds) -> images`.

    There are two ways to make an image depend on its own seed alone, whatever batch it is made in:

    * `seeding="given"`: the function draws image i from `seeds[i]`. For models that sample token by token,
      `geneval_reward.generate.SeededTokens` does that inside the `generate` of `transformers`.
    * `seeding="global"`: the function draws from the global generators of torch, NumPy and Python. It is then called with
      one image at a time, after they are seeded; their state is restored afterwards.

    If memory runs out, the batch is halved for good, and the images are made again from the same seeds.

    Args:
        function: Gets a list of prompts and a list of as many seeds, integers in `[0, 2**63)`. `numpy.random.seed` and the
            `seed_everything` and `set_seed` of other libraries take at most `2**32 - 1`: hand them `seed % 2**32`. Returns
            one image per prompt: PIL images, `(H, W, 3)` uint8 arrays, `(3, H, W)` tensors (uint8, or floats in [0, 1]), or one
            array or tensor of such with a leading batch dimension.
        batch_size: Largest number of images per call, >= 1; always 1 with `seeding="global"`.
        seeding: `given` or `global`.
        notes: What a reader of its score must know about the model.

    Raises:
        TypeError: If `function` cannot be called.
        UsageError: If `batch_size` or `seeding` is not valid, or `function` does not take prompts and seeds.

    Examples:
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
        notes: GeneratorNotes = NO_NOTES,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function: expected something to call, got {type(function).__name__}")
        check_part("function", function, "(prompts, seeds)")
        if seeding not in ("given", "global"):
            raise UsageError(f"seeding: expected 'given' or 'global', got {seeding!r}")
        self.function = function
        self.seeding = seeding
        self.notes = notes
        self._batches = Batches(self._call, batch_size)
        if seeding == "global":
            self._batches.batch_size = 1

    @property
    def batch_size(self) -> int:
        """Largest number of images per call; smaller than asked for once memory has run out."""
        return self._batches.batch_size

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make images.

        Args:
            prompts: Texts.
            seeds: One integer >= 0 per prompt.

        Returns:
            One RGB image per prompt, in order.

        Raises:
            UsageError: If there are not as many seeds as prompts, or the function returns the wrong number of images or
                something that is not an image.
            ImageError: If an image has NaN or infinite values.
            TypeError: If a prompt is not text.
        """
        return self._batches.run(prompts, seeds)

    def _call(self, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        def describe(index: int) -> str:
            return f" (prompt {prompts[index]!r}, seed {seeds[index]})"

        with global_seed(seeds[0]) if self.seeding == "global" else contextlib.nullcontext():
            try:
                with refuse_invalid_casts(f"function{describe(0)}" if len(prompts) == 1 else "function"):
                    images = self.function(prompts, seeds)
            except ValueError as error:
                # NumPy, Lightning and transformers word it differently, but all name the bound.
                if any(bound in str(error) for bound in ("2**32", "4294967295")):
                    raise UsageError(
                        f"function: expected one that takes seeds of up to 63 bits, got {error}; hand seed % 2**32 to what "
                        "takes 32 bits"
                    ) from error
                raise
        return as_pil(images, len(prompts), describe=describe)


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python for a block, and restore their state afterwards.

    Args:
        seed: An integer in `[0, 2**63)`. NumPy takes 32 bits, so it gets the seed modulo `2**32`.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the sampler's global state
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def as_pil(
    images: Any, count: int, name: str = "function", describe: Callable[[int], str] = lambda index: ""
) -> list[Image.Image]:
    """Convert the output of a model to RGB images.

    Args:
        images: Images in any form that `CallableGenerator` takes.
        count: Expected number of images.
        name: Name of what made them, for messages.
        describe: Describes what the image at an index was made from, such as prompt and seed, for messages.

    Raises:
        ImageError: If an image has NaN or infinite values, which would pass for a black image as uint8.
        UsageError: If the number of images is wrong, or something is not an image; the message names the index.

    Examples:
        >>> as_pil(torch.ones(1, 3, 4, 6), 1)[0].size
        (6, 4)
    """
    try:
        found = list(images)
    except TypeError as error:
        raise UsageError(f"{name}: expected a list of images, got {type(images).__name__}") from error
    if len(found) != count:
        raise UsageError(f"{name}: expected {counted(count, 'image')}, one per prompt, got {len(found)}")
    return [_one(image, f"{name}: images[{index}]", describe(index)) for index, image in enumerate(found)]


def _one(image: Any, where: str, origin: str) -> Image.Image:
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
            f"{where}: expected (height, width, 3), or (3, height, width) in a tensor, got {array.shape}{origin}"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ImageError(
                f"{where}: expected finite pixels, got NaN or infinity{origin}; a half precision has "
                "overflowed (try bf16 or fp32) or the weights have diverged"
            )
        low, high = float(array.min()), float(array.max())
        if not (low >= 0.0 and high <= 1.0):
            raise UsageError(
                f"{where}: expected floats in [0, 1], got {low:.3g}..{high:.3g}{origin}; scale and clamp them, or give uint8"
            )
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UsageError(f"{where}: expected uint8 or floats, got {array.dtype}{origin}")
    return Image.fromarray(array)
