"""Images in batches that shrink when memory runs out: what every generator that runs a model shares."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import torch
from PIL import Image

from geneval_reward.errors import UsageError

_log = logging.getLogger(__name__)

_OUT_OF_MEMORY: Final = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")


class Batches:
    """Splits requests into batches, and halves them for good when memory runs out.

    Args:
        call: Makes one image per prompt from prompts and as many seeds.
        batch_size: Most images a call, >= 1.

    Attributes:
        batch_size: Its present value.

    Raises:
        ValueError: If `batch_size` is not an integer >= 1.

    Example:
        >>> batches = Batches(lambda prompts, seeds: [Image.new("RGB", (4, 4)) for _ in prompts], 2)
        >>> len(batches.run(["a", "b", "c"], [1, 2, 3]))
        3
    """

    def __init__(self, call: Callable[[list[str], list[int]], list[Image.Image]], batch_size: int) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UsageError(f"batch_size: expected an integer >= 1, got {batch_size!r}")
        self._call = call
        self.batch_size = batch_size

    def run(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make one image per prompt, in order.

        Raises:
            ValueError: If there are not as many seeds as prompts.
            TypeError: If a prompt is not text (a single string would be read letter by letter).
            torch.OutOfMemoryError: If memory runs out with a single image.
        """
        texts, numbers = check_request(prompts, seeds)
        images: list[Image.Image] = []
        while len(images) < len(texts):
            part = slice(len(images), len(images) + self.batch_size)
            try:
                images += self._call(texts[part], numbers[part])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.batch_size == 1:
                    raise
                # What follows stands outside of this block, so that the failed call's tensors are gone by then.
            else:
                continue
            self.batch_size //= 2
            _log.warning("out of memory; going on with batches of %d images", self.batch_size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return images


def check_request(prompts: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], list[int]]:
    """Prompts and seeds as lists of one length.

    Raises:
        ValueError: If there are not as many seeds as prompts.
        TypeError: If a prompt is not text (a single string would be read letter by letter).
    """
    if isinstance(prompts, str):
        raise TypeError("prompts: expected a list of strings, got one string; put it in a list")
    texts, numbers = list(prompts), list(seeds)
    if len(texts) != len(numbers):
        raise UsageError(f"seeds: expected one per prompt ({len(texts)}), got {len(numbers)}")
    for index, prompt in enumerate(texts):
        if not isinstance(prompt, str):
            raise TypeError(f"prompts[{index}]: expected a string, got {type(prompt).__name__}")
    return texts, numbers


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: only CUDA has an exception of its own, others say it in words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)
