"""`Generator`: the protocol for making images from prompts that callbacks, recipes and the command line use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from PIL import Image

from geneval_reward.results.generator_notes import GeneratorNotes


@runtime_checkable
class Generator(Protocol):
    """Makes one image per prompt.

    Any object with this method will do. An image must depend on its own prompt and seed alone, not on the other images of
    the call, so that batch size and world size never change one.
    """

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Make images.

        Args:
            prompts: Texts.
            seeds: One integer >= 0 per prompt; see `geneval_reward.generate.seed_for`.

        Returns:
            One RGB image per prompt, in order.
        """
        ...


def notes_of(generator: object) -> GeneratorNotes:
    """Read a generator's notes from its `notes`, or from `template`, `negative_prompt` and `trained_on_template`."""
    notes = getattr(generator, "notes", None)
    if isinstance(notes, GeneratorNotes):
        return notes
    values = {name: getattr(generator, name, None) for name in ("template", "negative_prompt", "trained_on_template")}
    return GeneratorNotes.from_dict(values, type(generator).__name__)
