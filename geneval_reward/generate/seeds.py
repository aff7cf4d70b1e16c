"""One seed per (prompt, index), so that neither batch size nor world size ever changes an image."""

from __future__ import annotations

import hashlib
import operator

from geneval_reward.errors import UsageError


def seed_for(base_seed: int, prompt: str, index: int) -> int:
    """Compute the seed of the `index`-th image of a prompt.

    It depends only on its arguments, not on Python's hash seed, the machine, or library versions.

    Args:
        base_seed: Seed of the whole run, any integer.
        prompt: The prompt text.
        index: Which image of the prompt, >= 0.

    Returns:
        An integer in `[0, 2**63)`, as `torch.Generator.manual_seed` and `numpy.random.default_rng` take it.

    Raises:
        TypeError: If `base_seed` or `index` is not an integer, or `prompt` not a string.
        ValueError: If `index` is negative.

    Examples:
        >>> seed_for(0, "a photo of a dog", 0)
        2955272999524787639
    """
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected a string, got {type(prompt).__name__}")
    base, number = operator.index(base_seed), operator.index(index)
    if number < 0:
        raise UsageError(f"index: expected an integer >= 0, got {number}")
    # The length prefix distinguishes (seed, prompt, index) from any other split of the same characters.
    text = f"geneval-reward\0{base}\0{number}\0{len(prompt)}\0{prompt}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1
