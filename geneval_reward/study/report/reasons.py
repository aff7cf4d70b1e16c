"""Failures grouped by what went wrong, as read from the official wording of the reasons.

This works on anybody's results file, because the wording is the benchmark's own (djghosh13/geneval `evaluate_images.py`). A line
that is worded in another way is kept under "other".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from geneval_reward.prompts.vocabulary import sort_tags


@dataclass(frozen=True, slots=True)
class Cause:
    """A way to fail.

    Attributes:
        key: Name in data and addresses.
        title: Name in words.
        text: What it means.
    """

    key: str
    title: str
    text: str


CAUSES: Final = (
    Cause("missing", "object missing", "no object of the class was found"),
    Cause("too_few", "too few", "some were found, fewer than asked"),
    Cause("too_many", "too many", "more than the record allows"),
    Cause("color", "wrong colour", "the objects are there, in another colour"),
    Cause("position", "wrong place", "both objects are there, in another relation"),
    Cause("no_target", "nothing to relate to", "the object it should be placed by failed its own check"),
    Cause("other", "other", "worded in another way than the benchmark's"),
)
"""All causes, in the order in which reports show them."""

_COUNT: Final = re.compile(r"expected (.+?)(>=|==)(\d+), found (\d+)")
_MANY: Final = re.compile(r"expected (.+?)<(\d+), found (\d+)")
_COLOR: Final = re.compile(r"expected (\w+) (.+?)>=(\d+), found \d+ \w+; and(.*)")
_PLACE: Final = re.compile(r"expected (.+?) (left of|right of|above|below) target, found (.*?) ?target")
_TARGET: Final = re.compile(r"no target for (.+?) to be (left of|right of|above|below)")
_EXAMPLES: Final = 5


def causes(reason: str) -> list[tuple[str, str]]:
    """Find the causes in a row's `reason`.

    Args:
        reason: The failures, one per line.

    Returns:
        For each line, a key of `CAUSES` and what the failure was about.

    Examples:
        >>> causes("expected red dog>=1, found 0 red; and 1 blue")
        [('color', 'red → blue')]
        >>> causes("expected cat>=2, found 0")
        [('missing', 'cat')]
    """
    return [_cause(line) for line in reason.split("\n") if line.strip()]


def _cause(line: str) -> tuple[str, str]:
    if match := _COLOR.fullmatch(line):
        wanted, _, _, rest = match.groups()
        shown = [re.sub(r"^\d+ ", "", part.strip()) for part in rest.split(",") if part.strip()]
        others = [name for name in shown if name != wanted]
        return "color", f"{wanted} → {' / '.join(others) or 'unknown'}"
    if match := _COUNT.fullmatch(line):
        name, _, wanted, found = match.groups()
        if found == "0":
            return "missing", name
        # Flow-GRPO's exact count (==) can fail by too many as well.
        return ("too_few" if int(found) < int(wanted) else "too_many"), f"{wanted} → {found}"
    if match := _MANY.fullmatch(line):
        return "too_many", f"{int(match[2]) - 1} → {match[3]}"
    if match := _PLACE.fullmatch(line):
        return "position", f"{match[2]} → {match[3].strip() or 'neither side'}"
    if match := _TARGET.fullmatch(line):
        return "no_target", match[1]
    return "other", line


@dataclass(frozen=True)
class FailureGroup:
    """The images that failed in one way.

    Attributes:
        cause: The way in which they failed.
        rows: Row numbers of the images; an image is in each of its groups.
        tags: Number of images by tag, in the benchmark's order.
        details: What the failures were about and how often, the most frequent first.
    """

    cause: Cause
    rows: tuple[int, ...]
    tags: dict[str, int]
    details: tuple[tuple[str, int], ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.rows)


def group_failures(reasons: Sequence[str], correct: Sequence[bool], tags: Sequence[str]) -> list[FailureGroup]:
    """Group failed images by cause.

    Args:
        reasons: `(n,)` failures in the official wording, one per line.
        correct: `(n,)` verdicts.
        tags: `(n,)` tag names.

    Returns:
        Groups with at least one image, the largest first. An image with two failures is in two groups; a wrong image
        without any reason is in "other".
    """
    rows: dict[str, list[int]] = {}
    details: dict[str, Counter[str]] = {}
    for row, (reason, right) in enumerate(zip(reasons, correct, strict=True)):
        if right:
            continue
        for key, about in causes(reason) or [("other", "no reason given")]:
            found = rows.setdefault(key, [])
            if not found or found[-1] != row:
                found.append(row)
            details.setdefault(key, Counter())[about] += 1
    groups = []
    for cause in CAUSES:
        if cause.key in rows:
            counts = Counter(tags[row] for row in rows[cause.key])
            by_tag = {tag: counts[tag] for tag in sort_tags(counts)}
            top = tuple(details[cause.key].most_common(_EXAMPLES))
            groups.append(FailureGroup(cause, tuple(rows[cause.key]), by_tag, top))
    return sorted(groups, key=lambda group: -group.images)
