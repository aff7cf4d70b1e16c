"""GenEval scores that others published, to show beside one's own.

They come from papers, model cards and issue threads, one row per model, source and kind of prompts, so that a claim stands
beside what others got from the same model. Few sources say how many images they scored or with which settings, and repeated
runs of one model differ by several points. So a model with a similar score is not a better or worse one.
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
        rewritten: Whether the prompts were rewritten, usually by a language model, which makes it another measurement. False
            where the source does not say so and its released code does not do it.
        reproduced: Whether somebody else than the authors of the model ran it, and says so.
        overall: The overall score as printed, in [0, 1]; None if only task scores were printed.
        tags: Task scores as printed, by tag; tags that were not printed are left out.
        settings: Size, steps, guidance and the like as far as they are known; may be empty.
        source: The publication.
        read_at: Where the scores were read.
        note: What else to know, such as search at test time or training on prompts of the benchmark; may be empty.
    """

    model: str
    rewritten: bool
    reproduced: bool
    overall: float | None
    tags: dict[str, float]
    settings: str
    source: str
    read_at: str
    note: str

    @property
    def label(self) -> str:
        """The name of the model, marked if others ran it."""
        return f"{self.model} (reproduced)" if self.reproduced else self.model


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
            rewritten=row["rewritten"] == "yes",
            reproduced=row["reproduced"] == "yes",
            overall=float(row["overall"]) if row["overall"] else None,
            tags={tag: float(row[tag]) for tag in TAGS if row[tag]},
            settings=row["settings"],
            source=row["source"],
            read_at=row["read_at"],
            note=row["note"],
        )
        for row in csv.DictReader(text.splitlines())
    ]
    return tuple(sorted(rows, key=lambda row: -1.0 if row.overall is None else row.overall, reverse=True))
