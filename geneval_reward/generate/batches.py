"""Batches of a generator that runs a model, and the checks that all generators share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from geneval_reward.errors import UsageError
from geneval_reward.support.inference import run_in_batches


class Batches:
    """Splits requests into batches, and halves the batch for good when memory runs out.

    Args:
        call: Makes one image per prompt from a list of prompts and a list of as many seeds.
        batch_size: Largest number of images per call, >= 1.

    Attributes:
        batch_size: The largest number of images per call now.

    Raises:
        UsageError: If `batch_size` is not an integer >= 1.

    Examples:
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
            UsageError: If there are not as many seeds as prompts.
            TypeError: If a prompt is not a string, or `prompts` is a single string, which would be read letter by letter.
            torch.OutOfMemoryError: If memory runs out with a single image.
        """
        texts, numbers = check_request(prompts, seeds)
        images, self.batch_size = run_in_batches(
            lambda part: self._call(texts[part], numbers[part]), len(texts), self.batch_size, name="generator"
        )
        return images


def check_request(prompts: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], list[int]]:
    """Return prompts and seeds as lists of the same length.

    Raises:
        UsageError: If there are not as many seeds as prompts.
        TypeError: If a prompt is not a string, or `prompts` is a single string, which would be read letter by letter.
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
