"""`generation.json` beside a prompt's record: what the generator got, the images' seeds, and what selected an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from geneval_reward.errors import FileError
from geneval_reward.results.generator_notes import NO_NOTES, GeneratorNotes
from geneval_reward.support.files import read_json

GENERATION: Final = "generation.json"
"""Name of the file."""


@dataclass(frozen=True)
class Generation:
    """What is said of a prompt's images; nothing if there is no file.

    Attributes:
        text: What the generator got; None if it is not said.
        seeds: Seeds by name of the image.
        selected: The reward by which a search selected an image, and among how many candidates, by name of the image.
        notes: What else must be known of the generator.
    """

    text: str | None = None
    seeds: dict[str, int] = field(default_factory=dict)
    selected: dict[str, tuple[str, int]] = field(default_factory=dict)
    notes: GeneratorNotes = NO_NOTES


def read_generation(folder: Path) -> Generation:
    """Read the file of a prompt's folder.

    Raises:
        FileError: If it is there and says something else.
    """
    file = folder / GENERATION
    if not file.exists():
        return Generation()
    try:
        # A pipe or a device of that name would be read for ever.
        found: Any = read_json(file) if file.is_file() else None
        seeds = {str(name): int(seed) for name, seed in found["seeds"].items()}
        if not isinstance(found["text"], str):
            raise TypeError(f"text is {found['text']!r}")
        return Generation(
            found["text"], seeds, _selected(found), GeneratorNotes.from_dict(found.get("generator"), "generator")
        )
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"expected text and seeds, got something else ({error})") from error


def _selected(found: Any) -> dict[str, tuple[str, int]]:
    searches = found.get("search", {})
    return {name: (str(one["selected_by"]), int(one["n"])) for name, one in searches.items() if one["selected_by"]}


def selection_marks(selected: tuple[str, int] | None, judge: str) -> dict[str, Any]:
    """What a row says of the selection of its image at sampling time.

    Args:
        selected: Name of the reward that selected, and number of candidates; None for an image that was not selected.
        judge: Name of the scorer that reports. If it selected as well, the image was chosen by this very metric.
    """
    by, candidates = selected or (None, None)
    return {"selected_by": by, "best_of": candidates if by == judge else None}
