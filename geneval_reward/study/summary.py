"""`Summary`: the benchmark's table from a results file, with intervals and what is missing."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geneval_reward.errors import ResultsError
from geneval_reward.judge.rules import Rules
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.vocabulary import TAGS
from geneval_reward.results import Results
from geneval_reward.stats import Estimate, ScoreIntervals, clustered_bootstrap
from geneval_reward.stats.completeness import Completeness, completeness

_NAMED = 5  # so many repeated images are named in a note; the rest is counted


@dataclass(frozen=True)
class Summary:
    """The numbers of one results file.

    Attributes:
        credit: What was averaged.
        scores: Overall, micro, per tag and pass@k, each with an interval clustered by prompt.
        completeness: What is missing or double.
        failed: Images that could not be scored, with the reason.
        notes: Further things a reader must know: a cut line, chosen or rewritten images, several judges in one file.
        rules: The rules of the verdicts.
        backend: What judged; None if the file does not say.
        fingerprint: Its short id; None if the file does not say.
        rejudged: Whether stored detections were judged again by `rules`.
        cut: Whether the file's last line is unfinished.
        duplicates: Number of images that occur more than once; each occurrence is counted.
        rewritten: Number of images generated from rewritten prompts.
        best_of: Among how many images, at most, one was chosen by this metric; 0 if none was.
    """

    credit: str
    scores: ScoreIntervals
    completeness: Completeness
    failed: Mapping[str, str]
    notes: tuple[str, ...]
    rules: Mapping[str, Any] | None
    backend: str | None
    fingerprint: str | None
    rejudged: bool
    cut: bool
    duplicates: int = 0
    rewritten: int = 0
    best_of: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is missing or double: no failed or repeated image, no cut line, the official suite whole and even.

        A custom set is what it is: uneven prompts and absent tasks are noted and do not count. So for such a set this says
        that the file is sound, not that it is the benchmark; `standing` puts that into words.
        """
        whole = self.completeness.suite == "custom" or self.completeness.complete
        return whole and not self.failed and not self.cut and not self.duplicates

    @property
    def standing(self) -> str:
        """What the numbers stand for, for a caption: the suite or not, all of it or not, chosen or rewritten images."""
        found = self.completeness
        if found.suite != "official":
            prompts = "1 prompt" if found.prompts == 1 else f"{found.prompts:,} prompts"
            parts = [f"{prompts}, not the official suite", *([] if self.complete else ["INCOMPLETE"])]
        elif self.complete:
            parts = ["complete"]
        elif found.prompts < found.expected:
            parts = [f"PARTIAL ({found.prompts} of {found.expected} prompts)"]
        else:
            parts = ["INCOMPLETE"]
        if self.rewritten:
            parts.append("rewritten prompts")
        if self.best_of:
            parts.append(f"best of {self.best_of} chosen by this metric")
        return ", ".join(parts)

    @property
    def problems(self) -> list[str]:
        """One sentence for everything that keeps this from being the benchmark's full number."""
        lines = self.completeness.problems()
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            lines.append(f"{len(self.failed)} images could not be scored, such as {name}: {reason}")
        return lines + list(self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON.

        `complete` is `complete`: true of a custom set says that its file is sound; whether it is the benchmark's
        full number is `complete` together with `suite == "official"`.
        """
        found = self.completeness
        return {
            "credit": self.credit,
            "overall": _estimate(self.scores.overall),
            "overall_is_complete": not found.missing_tags,
            "images_correct": _estimate(self.scores.micro),
            "tags": {tag: _estimate(self.scores.tags[tag]) for tag in TAGS if tag in self.scores.tags},
            "prompts_correct": None if self.scores.pass_any is None else _estimate(self.scores.pass_any),
            "pass_at_k": {str(k): _estimate(estimate) for k, estimate in self.scores.pass_at_k.items()},
            "suite": found.suite,
            "prompts": found.prompts,
            "prompts_expected": found.expected,
            "images_per_prompt": found.images_per_prompt,
            "complete": self.complete,
            "standing": self.standing,
            "duplicates": self.duplicates,
            "problems": self.problems,
            "rules": None if self.rules is None else dict(self.rules),
            "rejudged": self.rejudged,
            "backend": self.backend,
            "fingerprint": self.fingerprint,
        }


def summarize(
    results: Results,
    credit: str = "official",
    rules: Rules | Mapping[str, Any] | str | None = None,
    *,
    draws: int = 10_000,
) -> Summary:
    """Summarise a results file.

    Args:
        results: What `geneval_reward.results.read_results` gives.
        credit: What is averaged.
        rules: Judge the stored detections again by these, starting from the rules of the file; None takes the verdicts as they
            are.
        draws: Bootstrap draws of the intervals.

    Raises:
        ResultsError: If there is not one row, a credit or detections are not in the file.
        ValueError: If the rules are not valid, or ask for a colour or confidence that was not stored.
    """
    if not len(results):
        raise ResultsError(f"{results.path}: expected at least one scored image, got none; see its failures")
    notes = []
    shown: Mapping[str, Any] | None
    if rules is None:
        values = results.credit(credit)
        stated = {identity.rules for identity in results.identities}
        shown = _loads(stated.pop()) if len(stated) == 1 else None
    else:
        values = np.array([row.verdict(rules).credit(credit) for row in results.rows()])
        # Pairs change only what they name, so each judge of a mixed file keeps the rest of its own rules.
        stated = {identity.rules for identity in results.identities}
        applied = [Rules.parse(rules, base=Rules.parse(_loads(text))) for text in stated]
        shown = applied[0].to_dict() if len(set(applied)) == 1 else None
    if len(results.identities) > 1:
        parts = "; ".join(results.identities[0].differences(results.identities[1]))
        notes.append(f"more than one judge in this file: {parts}")
    if results.cut is not None:
        notes.append(f"line {results.cut.number} is cut off and left out; score with --resume")
    double = results.duplicates()
    if double:
        many = f"{len(double):,} images occur" if len(double) > 1 else "1 image occurs"
        more = f"; and {len(double) - _NAMED:,} more" if len(double) > _NAMED else ""
        each = "are counted each time" if len(double) > 1 else "is counted each time"
        notes.append(f"{many} more than once and {each}: {'; '.join(double[:_NAMED])}{more}")
    if results.rewritten.any():
        notes.append(f"{int(results.rewritten.sum())} images were generated from rewritten prompts")
    if results.best_of.any():
        chosen = results.best_of[results.best_of > 0]
        notes.append(
            f"{len(chosen)} images were chosen by this very metric, best of {int(chosen.max())}: "
            "their score is no measure of the generator"
        )
    counts: Counter[PromptSpec] = Counter()
    for spec, images in zip(results.specs(), np.bincount(results.prompt_ids).tolist(), strict=True):
        counts[spec] += images
    scores = clustered_bootstrap(values, results.prompt_ids, results.tags, draws=draws)
    judge = results.identities[0] if len(results.identities) == 1 else None
    return Summary(
        credit=credit,
        scores=scores,
        completeness=completeness(counts),
        failed=results.failed,
        notes=tuple(notes),
        rules=shown,
        backend=None if judge is None else judge.backend,
        fingerprint=None if judge is None else judge.fingerprint,
        rejudged=rules is not None,
        cut=results.cut is not None,
        duplicates=len(double),
        rewritten=int(results.rewritten.sum()),
        best_of=int(results.best_of.max()),
    )


def _loads(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def _estimate(estimate: Estimate) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return None if math.isnan(value) else round(value, 6)

    return {
        "value": plain(estimate.value),
        "low": plain(estimate.interval.low),
        "high": plain(estimate.interval.high),
        "images": estimate.images,
        "prompts": estimate.prompts,
    }
