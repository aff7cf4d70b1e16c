"""GenEval scores that others published, to show beside one's own.

They come from papers, model cards and issue threads, each with its source. Few sources say how many images they scored, and
repeated runs of one model differ by several points. So a model with a similar score is not a better or worse one.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

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
def published() -> tuple[PublishedScore, ...]:
    """Return published scores, the highest overall first; rows without an overall come last.

    Examples:
        >>> [row.overall for row in published() if row.model.startswith("Stable Diffusion v")]
        [0.5, 0.43]
    """
    text = (files("geneval_reward") / "data" / "published_scores.csv").read_text("utf-8")
    rows = [
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
    ]
    return tuple(sorted(rows, key=lambda row: -1.0 if row.overall is None else row.overall, reverse=True))
