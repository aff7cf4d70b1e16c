"""`GeneratorNotes`: what must be known of a generator to read its score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from geneval_reward.errors import FileError


@dataclass(frozen=True, slots=True)
class GeneratorNotes:
    """What a generator got beside the text of the prompt, and whether it was trained on the benchmark's wording.

    Each makes a score another measurement than that of a model which gets the plain prompt. A rewritten prompt is recorded apart,
    because it differs from image to image.

    Attributes:
        template: The text around every prompt, such as `Generate an image: {prompt}`; None if there is none, or it is unknown.
        negative_prompt: The text that guidance leads away from; None likewise.
        trained_on_template: Whether the training data held prompts in the benchmark's own wording.

    Examples:
        >>> GeneratorNotes(template="Draw {prompt}").marks
        ("template 'Draw {prompt}'",)
    """

    template: str | None = None
    negative_prompt: str | None = None
    trained_on_template: bool = False

    def __bool__(self) -> bool:
        return self.template is not None or self.negative_prompt is not None or self.trained_on_template

    @property
    def marks(self) -> tuple[str, ...]:
        """What a table or caption says of it; empty if there is nothing to say."""
        found = []
        if self.template is not None:
            found.append(f"template {_short(self.template)}")
        if self.negative_prompt is not None:
            found.append(f"negative prompt {_short(self.negative_prompt)}")
        if self.trained_on_template:
            found.append("trained on the benchmark's wording")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; only what is set."""
        values = {"template": self.template, "negative_prompt": self.negative_prompt}
        found: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
        return found | ({"trained_on_template": True} if self.trained_on_template else {})

    @classmethod
    def from_dict(cls, value: Any, where: str) -> GeneratorNotes:
        """Read what `to_dict` wrote; keys that a later version adds are left alone.

        Args:
            value: The object; None counts as an empty one.
            where: What error messages call it.

        Raises:
            FileError: If it is no object, or a value is of another type.
        """
        if value is None:
            return cls()
        if not isinstance(value, Mapping):
            raise FileError(f"{where}: expected an object, got a JSON {type(value).__name__}")
        for name, kind in (("template", str), ("negative_prompt", str), ("trained_on_template", bool)):
            if value.get(name) is not None and not isinstance(value[name], kind):
                raise FileError(f"{where}: {name}: expected a {kind.__name__} or null, got {value[name]!r:.60}")
        return cls(value.get("template"), value.get("negative_prompt"), bool(value.get("trained_on_template")))


NO_NOTES: Final = GeneratorNotes()
"""Nothing to say, or nothing known."""


def generator_marks(notes: Iterable[GeneratorNotes]) -> list[str]:
    """Collect the marks of several generators, each once."""
    return list(dict.fromkeys(mark for one in notes for mark in one.marks))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
