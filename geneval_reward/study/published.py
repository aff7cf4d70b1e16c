"""GenEval scores that others published, to show beside one's own.

They come from papers, model cards and issue threads, each with its source. Few sources say how many images they scored, and
repeated runs of one model differ by several points. So a model with a similar score is not a better or worse one.
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
    """The published scores of one model.

    Attributes:
        model: Name of the model, with what was done to it.
        overall: The overall score as printed, in [0, 1]; None if only task scores were printed.
        tags: Task scores as printed, by tag; tags that were not printed are left out.
        rewritten: Whether the prompts were rewritten, usually by a language model, which makes it another measurement.
        source: The publication.
        read_at: Where the scores were read.
        note: What else to know, such as search at test time; may be empty.
    """

    model: str
    overall: float | None
    tags: dict[str, float]
    rewritten: bool
    source: str
    read_at: str
    note: str


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
    """Return published scores, the highest overall first; rows without an overall come last.

    Args:
        minimum: Only rows with at least this overall, in [0, 1].
        maximum: Only rows with at most this overall, in [0, 1].
        rewritten: Only rows with (True) or without (False) rewritten prompts; None for both.
        model: Only rows whose model name contains this text, whatever its case.

    Raises:
        UsageError: If a bound is not a share.

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
