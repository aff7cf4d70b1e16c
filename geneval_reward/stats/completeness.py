"""Comparing a set of scored images with the prompt suite that it should cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from geneval_reward.errors import name_some
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import official_suite
from geneval_reward.prompts.vocabulary import TAGS


@dataclass(frozen=True)
class Completeness:
    """How a set of scored images compares with the suite that it should cover.

    Attributes:
        suite: What the images are compared with: `official`, `custom` (no suite) or `given`.
        prompts: Number of distinct prompts that have images, whether or not they belong to the suite.
        expected: Number of prompts in the suite; for `custom`, the number that have images.
        images_per_prompt: The most frequent number of images per prompt.
        missing: Texts of the suite's prompts that have no images.
        foreign: Texts of prompts that are not in the suite.
        short: Texts of prompts with fewer images than `images_per_prompt`, with their image counts.
        double: Texts of prompts with more images, with their image counts.
        missing_tags: Tags without images.
    """

    suite: str
    prompts: int
    expected: int
    images_per_prompt: int
    missing: tuple[str, ...]
    foreign: tuple[str, ...]
    short: dict[str, int]
    double: dict[str, int]
    missing_tags: tuple[str, ...]

    @property
    def covered(self) -> int:
        """Number of the suite's prompts that have images."""
        return self.expected - len(self.missing)

    @property
    def complete(self) -> bool:
        """Whether every prompt of the suite has equally many images, no other prompt has any, and no tag is missing."""
        return not (self.missing or self.foreign or self.short or self.double or self.missing_tags)

    def problems(self) -> list[str]:
        """List the problems, one sentence per kind, naming prompts; empty if the set is complete."""
        lines = []
        if self.missing_tags:
            lines.append(f"no images for {', '.join(self.missing_tags)}: the overall is over the other tasks only")
        if self.missing:
            lines.append(f"{len(self.missing)} of {self.expected} prompts are missing: {name_some(self.missing)}")
        if self.foreign:
            are = "prompt is" if len(self.foreign) == 1 else "prompts are"
            lines.append(f"{len(self.foreign)} {are} not in the {self.suite} suite: {name_some(self.foreign)}")
        for name, found in (("fewer", self.short), ("more", self.double)):
            if found:
                counts = [f"{prompt!r} ({count})" for prompt, count in found.items()]
                have = "prompt has" if len(found) == 1 else "prompts have"
                images = "1 image" if self.images_per_prompt == 1 else f"{self.images_per_prompt} images"
                lines.append(f"{len(found)} {have} {name} than {images}: {name_some(counts)}")
        return lines


def completeness(
    specs: Iterable[PromptSpec] | Mapping[PromptSpec, int], suite: Sequence[PromptSpec] | None = None
) -> Completeness:
    """Compare scored images with a suite.

    Args:
        specs: One record per image, or the number of images of each record.
        suite: The expected records. None means the official suite if at least half of the prompts belong to it, and otherwise
            no suite (`custom`), where the only possible problem is an uneven number of images per prompt.

    Returns:
        The prompts that are missing, foreign, or have too few or too many images.
    """
    counts = Counter(specs)
    name = "given"
    if suite is None:
        official = set(official_suite())
        is_official = 0 < len(counts) <= 2 * len(official & counts.keys())
        name, suite = ("official", official_suite()) if is_official else ("custom", tuple(counts))
    usual = Counter(counts.values()).most_common(1)[0][0] if counts else 0
    expected = set(suite)
    tags = {spec.tag for spec in counts}
    # A set of tasks of one's own lacks none of the six.
    wanted_tags = {spec.tag for spec in suite} if name == "given" or (tags and tags.isdisjoint(TAGS)) else set(TAGS)
    return Completeness(
        suite=name,
        prompts=len(counts),
        expected=len(expected),
        images_per_prompt=usual,
        missing=tuple(spec.prompt for spec in suite if spec not in counts),
        foreign=tuple(spec.prompt for spec in counts if spec not in expected),
        short={spec.prompt: count for spec, count in counts.items() if count < usual},
        double={spec.prompt: count for spec, count in counts.items() if count > usual},
        missing_tags=tuple(tag for tag in TAGS if tag in wanted_tags - tags),
    )
