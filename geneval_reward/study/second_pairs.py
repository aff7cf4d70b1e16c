"""A pairwise judge on pairs of one prompt of which the first judge finds one image right and one wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geneval_reward.errors import ResultsError
from geneval_reward.judges.pairwise import TASK_ASPECTS, Comparison, PairJudge
from geneval_reward.prompts.vocabulary import sort_tags
from geneval_reward.results import Results
from geneval_reward.results.notation import kappa_text, rounded, share_with_interval
from geneval_reward.results.tables import Document, Table
from geneval_reward.stats import cohen_kappa, wilson
from geneval_reward.support.counts import counted
from geneval_reward.vision.images import load_image

_BATCH = 16


@dataclass(frozen=True)
class JudgedPair:
    """Two images of one prompt.

    Attributes:
        a: Row of the one.
        b: Row of the other.
        first_says: 1 if the first judge finds a right and b wrong, else -1.
        found: What the pairwise judge says of a and b.
    """

    a: int
    b: int
    first_says: int
    found: Comparison

    @property
    def differs(self) -> bool:
        """Whether the pairwise judge prefers the image that the first judge finds wrong."""
        return self.found.preference == -self.first_says


@dataclass(frozen=True)
class PairOpinion:
    """What a pairwise judge says of pairs that the first judge tells apart.

    Attributes:
        pairs: The pairs.
        tags: The task of each.
        prompts: The prompt number of each.
        problems: What was left out.
    """

    pairs: list[JudgedPair]
    tags: list[str]
    prompts: list[int]
    problems: list[str]

    @property
    def differ(self) -> list[JudgedPair]:
        """The pairs of which the two say the opposite."""
        return [pair for pair in self.pairs if pair.differs]

    def document(self) -> Document:
        """The table in every format: agreement where the judge decides, kappa, ties, order consistency and unread answers."""
        rows, values = [], []
        for name in (*sort_tags(self.tags), "all"):
            places = [i for i, tag in enumerate(self.tags) if name in (tag, "all")]
            some = [self.pairs[i] for i in places]
            read = [pair for pair in some if pair.found.preference is not None]
            decided = [i for i in places if self.pairs[i].found.preference]
            agree = sum(not self.pairs[i].differs for i in decided)
            ties, consistent = len(read) - len(decided), sum(pair.found.consistent for pair in some)
            interval = wilson(agree, len(decided)) if decided else None
            ends = (math.nan, math.nan) if interval is None else (interval.low, interval.high)
            kappa = cohen_kappa(
                [self.pairs[i].first_says > 0 for i in decided],
                [self.pairs[i].found.preference == 1 for i in decided],
                [self.prompts[i] for i in decided],
                [self.tags[i] for i in decided],
            )
            share = agree / len(decided) if decided else math.nan
            rows.append(
                [
                    name,
                    len(some),
                    share_with_interval(share, *ends),
                    kappa_text(*kappa),
                    ties,
                    f"{consistent} of {len(read)}",
                    len(some) - len(read),
                ]
            )
            numbers = map(rounded, (share, *ends, *kappa))
            values.append([name, len(some), len(decided), *numbers, ties, consistent, len(some) - len(read)])
        header = ["task", "pairs", "agreement where decided", "kappa", "ties", "same in both orders", "unread"]
        table = Table(
            "A pairwise judge on pairs of a right and a wrong image of one prompt",
            header,
            rows,
            strong=(len(rows) - 1,),
        )
        ends_of = [f"{name}{end}" for name in ("agreement", "kappa") for end in ("", "_low", "_high")]
        names = ["task", "pairs", "decided", *ends_of, "ties", "consistent", "unread"]
        record = {str(row[0]): dict(zip(names[1:], row[1:], strict=True)) for row in values}
        return Document(
            [table], Table("", names, values), {**record, "problems": self.problems}, problems=self.problems
        )


def judge_pairs(
    first: Results,
    paths: Sequence[Path | None],
    judge: PairJudge,
    *,
    per_prompt: int = 2,
    aspect: str | None = None,
    seed: int = 0,
) -> PairOpinion:
    """Show a pairwise judge pairs of one prompt, one image of which the first judge finds right and the other wrong.

    Args:
        first: The first judge's file.
        paths: `(n,)` its images; None for one that was not found.
        judge: The pairwise judge.
        per_prompt: At most this many pairs of a prompt; no image is used twice.
        aspect: The criterion; None takes the one of the prompt's task.
        seed: Seed of which images meet, and of which is called a.

    Raises:
        ResultsError: If no prompt has a right and a wrong image that are there.
    """
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, int, int]] = []
    for prompt in range(len(first.records)):
        rows = [row for row in np.flatnonzero(first.prompt_ids == prompt).tolist() if paths[row] is not None]
        sides = [
            rng.permutation([row for row in rows if bool(first.correct[row]) is want]).tolist()
            for want in (True, False)
        ]
        for right, wrong in list(zip(*sides, strict=False))[:per_prompt]:
            chosen.append((right, wrong, 1) if rng.random() < 0.5 else (wrong, right, -1))
    if not chosen:
        raise ResultsError(f"{first.path}: expected a prompt with a right and a wrong image to compare, got none")
    specs = first.specs()
    pairs = []
    for start in range(0, len(chosen), _BATCH):
        part = chosen[start : start + _BATCH]
        asked = []
        for a, b, _ in part:
            spec = specs[int(first.prompt_ids[a])]
            images = [load_image(path) for path in (paths[a], paths[b]) if path is not None]
            asked.append((images[0], images[1], spec.prompt, aspect or TASK_ASPECTS[spec.tag]))
        found = judge.compare(asked)
        pairs += [JudgedPair(a, b, says, one) for (a, b, says), one in zip(part, found, strict=True)]
    unread = sum(pair.found.preference is None for pair in pairs)
    problems = [f"{counted(unread, 'answer')} could not be read as two integers from 1 to 5"] if unread else []
    missing = sum(path is None for path in paths)
    problems += [f"{counted(missing, 'image')} of {first.path.name} were not found"] if missing else []
    return PairOpinion(
        pairs,
        [str(first.tags[pair.a]) for pair in pairs],
        [int(first.prompt_ids[pair.a]) for pair in pairs],
        problems,
    )
