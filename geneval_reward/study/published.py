"""GenEval scores that others published, to put beside one's own.

They come from papers, model cards and issue threads, each with its source. Few say how many images stand behind them, and
re-runs of one model differ by several points: read a neighbour as a neighbour, not as a rank.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from geneval_reward.errors import UsageError
from geneval_reward.prompts.vocabulary import TAGS


@dataclass(frozen=True, slots=True)
class PublishedScore:
    """A published row.

    Attributes:
        model: The model, with what was done to it.
        overall: The overall score as printed, in [0, 1]; None if only task scores were.
        tags: Task scores as printed, by tag; tags that were not printed are left out.
        rewritten: Whether the prompts were rewritten, usually by a language model: another measurement than on the prompts
            themselves.
        source: Who published it.
        read_at: Where the figure was read.
        note: What to know about it, such as search at test time; may be empty.
    """

    model: str
    overall: float | None
    tags: dict[str, float]
    rewritten: bool
    source: str
    read_at: str
    note: str

    @property
    def mean_of_tags(self) -> float | None:
        """Mean of the six task scores; None unless all six were printed. Differs from `overall` by rounding, or more."""
        return sum(self.tags.values()) / len(TAGS) if len(self.tags) == len(TAGS) else None


@cache
def _table() -> tuple[PublishedScore, ...]:
    text = (files("geneval_reward") / "data" / "published_scores.csv").read_text("utf-8")
    return tuple(
        PublishedScore(
            model=row["model"],
            overall=float(row["overall"]) if row["overall"] else None,
            tags={tag: float(row[tag]) for tag in TAGS if row[tag]},
            rewritten=row["prompt_rewritten"] == "yes",
            source=row["source"],
            read_at=row["read_at"],
            note=row["note"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def published(
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    rewritten: bool | None = None,
    model: str | None = None,
) -> list[PublishedScore]:
    """Published rows, by falling overall; rows without an overall come last.

    Args:
        minimum: Only rows with at least this overall, in [0, 1].
        maximum: Only rows with at most this overall, in [0, 1].
        rewritten: Only rows with (True) or without (False) rewritten prompts; None for both.
        model: Only rows whose model name contains this text, whatever its case.

    Raises:
        ValueError: If a bound is not a share.

    Example:
        >>> [row.overall for row in published(model="stable diffusion v")]
        [0.5, 0.43]
    """
    for name, value in (("minimum", minimum), ("maximum", maximum)):
        if value is not None and not 0 <= value <= 1:
            raise UsageError(f"{name}: expected a share in [0, 1], got {value!r}; 66 points are 0.66")
    low, high = -1.0 if minimum is None else minimum, 2.0 if maximum is None else maximum
    bounded = minimum is not None or maximum is not None
    rows = [
        row
        for row in _table()
        if (not bounded if row.overall is None else low <= row.overall <= high)
        and (rewritten is None or row.rewritten == rewritten)
        and (model is None or model.lower() in row.model.lower())
    ]
    return sorted(rows, key=lambda row: -1.0 if row.overall is None else row.overall, reverse=True)


def neighbours(overall: float, count: int = 6, *, rewritten: bool | None = False) -> list[PublishedScore]:
    """The published rows nearest to a score, by falling overall.

    Args:
        overall: The score, in [0, 1].
        count: How many rows, >= 1. A model is listed once, with its nearest figure.
        rewritten: As in `published`; by default only figures on the prompts themselves.

    Example:
        >>> [row.model for row in neighbours(0.43, 1)]
        ['Stable Diffusion v1.5']
    """
    if not 0 <= overall <= 1:
        raise UsageError(f"overall: expected a share in [0, 1], got {overall!r}; 66 points are 0.66")
    if count < 1:
        raise UsageError(f"count: expected an integer >= 1, got {count!r}")
    rows = published(minimum=0.0, rewritten=rewritten)
    nearest: dict[str, PublishedScore] = {}
    for row in sorted(rows, key=lambda row: abs((row.overall or 0.0) - overall)):
        nearest.setdefault(row.model, row)
    return sorted(list(nearest.values())[:count], key=lambda row: row.overall or 0.0, reverse=True)
