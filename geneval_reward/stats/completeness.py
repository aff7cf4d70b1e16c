"""`Tally`: from verdicts to the benchmark's numbers, and what is missing from them.

Source of the definitions: djghosh13/geneval `evaluation/summary_scores.py` (overall is the mean of the task means, and a
prompt counts as solved if any of its images is correct).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import UsageError
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import official_suite
from geneval_reward.prompts.vocabulary import TAGS

_NAMED = 5  # so many prompts are named in a message; the rest is counted


@dataclass
class Tally:
    """Credits of images, counted by prompt and tag.

    Attributes:
        tags: Tag of each image.
        prompts: Record of each image as JSON: images with equal records belong to one prompt.
        values: Credit of each image; for the official credit 0 or 1.

    Example:
        >>> tally = Tally()
        >>> tally.add("colors", "red dog", 1.0)
        >>> tally.add("counting", "two cats", 0.0)
        >>> tally.overall, tally.per_tag()
        (0.5, {'counting': 0.0, 'colors': 1.0})
    """

    tags: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, verdicts: Iterable[Verdict], credit: str = "official") -> Tally:
        """Tally verdicts by a credit of `geneval_reward.judge.CREDITS`."""
        tally = cls()
        for verdict in verdicts:
            tally.add(verdict.spec.tag, verdict.spec.to_json(), verdict.credit(credit))
        return tally

    def add(self, tag: str, prompt: str, value: float) -> None:
        """Count one image.

        Args:
            tag: One of the six tags.
            prompt: What identifies its prompt: the record as JSON.
            value: Its credit.

        Raises:
            ValueError: For an unknown tag, or a value that is not finite.
        """
        if tag not in TAGS:
            raise UsageError(f"tag: expected one of {', '.join(TAGS)}, got {tag!r}")
        if not math.isfinite(value):
            raise UsageError(f"value: expected a finite credit, got {value}; leave out images that could not be scored")
        self.tags.append(tag)
        self.prompts.append(prompt)
        self.values.append(float(value))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def overall(self) -> float:
        """The benchmark's overall: the mean of the means of the tags that are there. NaN without images."""
        means = list(self.per_tag().values())
        return float(np.mean(means)) if means else math.nan

    @property
    def micro(self) -> float:
        """Mean over images: what the benchmark calls "% correct images". NaN without images."""
        return float(np.mean(self.values)) if self.values else math.nan

    def per_tag(self) -> dict[str, float]:
        """Mean per tag, in the benchmark's order; tags without images are left out."""
        return {tag: float(values.mean()) for tag, values in self._by_tag().items()}

    def images_per_tag(self) -> dict[str, int]:
        """Number of images per tag; tags without images are left out."""
        return {tag: len(values) for tag, values in self._by_tag().items()}

    def missing_tags(self) -> tuple[str, ...]:
        """Tags without images: an overall without them is not the benchmark's."""
        return tuple(tag for tag in TAGS if tag not in set(self.tags))

    def prompts_solved(self) -> float:
        """Share of prompts with at least one correct image (a credit of 1): "% correct prompts". NaN without images."""
        best: dict[str, float] = {}
        for prompt, value in zip(self.prompts, self.values, strict=True):
            best[prompt] = max(best.get(prompt, -math.inf), value)
        return sum(value >= 1.0 for value in best.values()) / len(best) if best else math.nan

    def _by_tag(self) -> dict[str, npt.NDArray[np.float64]]:
        tags, values = np.array(self.tags, dtype=object), np.array(self.values)
        return {tag: values[tags == tag] for tag in TAGS if (tags == tag).any()}


@dataclass(frozen=True)
class Completeness:
    """How a set of scored images compares with the suite that it should be.

    Attributes:
        suite: What it is compared with: `official` or `custom`.
        prompts: Number of different prompts that are there.
        expected: Number of prompts of the suite; for `custom` those that are there.
        images_per_prompt: The most frequent number of images a prompt.
        missing: Texts of prompts of the suite without images.
        foreign: Texts of prompts that are not in the suite.
        short: Texts of prompts with fewer images than `images_per_prompt`, with their number.
        double: Texts of prompts with more, with their number.
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
    def complete(self) -> bool:
        """Whether every prompt is there equally often, none is foreign, and no tag lacks."""
        return not (self.missing or self.foreign or self.short or self.double or self.missing_tags)

    def problems(self) -> list[str]:
        """One sentence per thing that is wrong, naming prompts; empty if complete."""
        lines = []
        if self.missing_tags:
            lines.append(f"no images for {', '.join(self.missing_tags)}: the overall is over the other tags only")
        if self.missing:
            lines.append(f"{len(self.missing)} of {self.expected} prompts are missing: {_some(self.missing)}")
        if self.foreign:
            lines.append(f"{len(self.foreign)} prompts are not in the {self.suite} suite: {_some(self.foreign)}")
        for name, found in (("fewer", self.short), ("more", self.double)):
            if found:
                counted = [f"{prompt!r} ({count})" for prompt, count in found.items()]
                lines.append(f"{len(found)} prompts have {name} than {self.images_per_prompt} images: {_some(counted)}")
        return lines


def completeness(
    specs: Iterable[PromptSpec] | Mapping[PromptSpec, int], suite: Sequence[PromptSpec] | None = None
) -> Completeness:
    """Compare scored images with a suite.

    Args:
        specs: The record of each image, repeated as often as it has images; or number of images by record.
        suite: What should be there. None: the official suite if at least half of the prompts are of it, else no suite
            (`custom`), where only the number of images a prompt can be uneven.

    Returns:
        What is missing, foreign, short or double.
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
    wanted_tags = {spec.tag for spec in suite} if name == "given" else set(TAGS)
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


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
