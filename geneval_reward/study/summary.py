"""The benchmark's table from one results file, with intervals and with what is missing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from geneval_reward.errors import ResultsError, name_some
from geneval_reward.judge.rules import Rules
from geneval_reward.prompts.pairs import counterfactual_pairs
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.vocabulary import TAGS, sort_tags
from geneval_reward.results import GeneratorNotes, Results
from geneval_reward.results.generator_notes import generator_marks
from geneval_reward.results.notation import (
    ESTIMATE_COLUMNS,
    ROW_NAMES,
    estimate_cells,
    percent_text,
    rules_text,
    score_text,
)
from geneval_reward.results.tables import Document, Table, html
from geneval_reward.stats import Estimate, ScoreIntervals, clustered_bootstrap
from geneval_reward.stats.completeness import Completeness, completeness
from geneval_reward.support.counts import counted


@dataclass(frozen=True, repr=False)
class Summary:
    """The numbers of one results file.

    Attributes:
        credit: The credit that was averaged.
        scores: Overall, micro, per tag and pass@k, each with an interval clustered by prompt.
        completeness: What is missing or too much.
        failed: Images that could not be scored, with the reason.
        notes: Further sentences that a reader must know: a cut line, chosen or rewritten images, several judges in one file.
        rules: The rules of the verdicts; None if the file does not record them or holds several.
        backend: The backend that judged; None if the file does not record one or holds several.
        fingerprint: Short identifier of the scorer; None likewise.
        rejudged: Whether stored detections were judged again by `rules`.
        cut: Whether the last line of the file is unfinished.
        duplicates: Number of images that occur more than once; each occurrence is counted.
        rewritten: Number of images that were generated from rewritten prompts.
        selected_by: Names of the rewards by which a search selected images.
        generators: What must be known of the generators, each once.
        best_of: The largest number of candidates among which one image was chosen by this metric; 0 if none was chosen.
        pairs: By task, the credit of counterfactual pairs: the smaller one of an image and of its partner with the same number
            under the opposite prompt, so that for the official credit both must be right. Empty if the file has no such pair.
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
    generators: tuple[GeneratorNotes, ...] = ()
    best_of: int = 0
    selected_by: tuple[str, ...] = ()
    pairs: Mapping[str, Estimate] = field(default_factory=dict)

    def __repr__(self) -> str:
        one, judge = self.scores.overall, self.backend or "not one known judge"
        return f"Summary({self.overall_label} {score_text(one)}, {self.standing}; {judge})"

    def _repr_html_(self) -> str:
        return html(self.document())

    @property
    def complete(self) -> bool:
        """Whether nothing is missing or double: no failed or repeated image, no cut line, and the official suite whole.

        In a set of one's own, uneven prompts and absent tasks are noted and do not count. For such a set this means that the
        file is sound, not that it holds the benchmark; `standing` puts that into words.
        """
        whole = self.completeness.suite == "custom" or self.completeness.complete
        return whole and not self.failed and not self.cut and not self.duplicates

    @property
    def standing(self) -> str:
        """What the numbers stand for, as a caption says it: which suite, all or part of it, chosen or rewritten images."""
        found = self.completeness
        if found.suite != "official":
            parts = [f"{counted(found.prompts, 'prompt')}, not the official suite"]
            parts += [] if self.complete else ["INCOMPLETE"]
        elif self.complete:
            parts = ["complete"]
        elif found.missing:
            parts = [f"PARTIAL ({found.covered} of {found.expected} prompts)"]
        else:
            parts = ["INCOMPLETE"]
        if self.rewritten:
            parts.append("rewritten prompts")
        if self.selected_by:
            parts.append(f"selected by {', '.join(self.selected_by)}")
        parts += generator_marks(self.generators)
        if self.best_of:
            parts.append(f"best of {self.best_of} chosen by this metric")
        return ", ".join(parts)

    @property
    def verdict_on_suite(self) -> str:
        """One sentence on how much of the official suite the file holds."""
        found = self.completeness
        if found.suite != "official":
            return f"{counted(found.prompts, 'prompt')}, not of the official suite"
        if self.complete:
            each = counted(found.images_per_prompt, "image")
            return f"complete: all {found.expected} prompts of the official suite, {each} each"
        what = "the full suite" if found.missing else "complete"
        more = "" if found.missing else ", but see the notes"
        return f"NOT {what}: {found.covered} of {found.expected} prompts{more}"

    @property
    def overall_label(self) -> str:
        """The name of the overall score, which says so if tasks are missing."""
        missing = len(self.completeness.missing_tags)
        there = sum(tag in TAGS for tag in self.scores.tags)
        return f"overall of {there} of {there + missing} tasks" if missing else "overall"

    @property
    def judged_by(self) -> str:
        """What judged the images, and by which rules, in one sentence."""
        judge = f"{self.backend or 'an unknown backend'} {self.fingerprint or ''}".strip()
        if self.rejudged:
            return f"detections of {judge}, JUDGED AGAIN by the rules {rules_text(self.rules)}"
        return f"judged by {judge}, rules {rules_text(self.rules)}"

    @property
    def problems(self) -> list[str]:
        """One sentence for everything that keeps this from being the benchmark's full number."""
        lines = self.completeness.problems()
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            lines.append(f"{counted(len(self.failed), 'image')} could not be scored, such as {name}: {reason}")
        return lines + list(self.notes)

    def estimates(self) -> dict[str, Estimate]:
        """Every score by the name that CSV and JSON give it."""
        return self.scores.figures() | {f"pairs_{tag}": estimate for tag, estimate in self.pairs.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values.

        `complete` is true of a set of one's own if its file is sound. The numbers are the benchmark's full ones if `complete`
        is true and `suite` is `official`.
        """
        found = self.completeness
        return {
            "credit": self.credit,
            "overall": self.scores.overall.to_dict(),
            "overall_is_complete": not found.missing_tags,
            "images_correct": self.scores.micro.to_dict(),
            "tags": {tag: self.scores.tags[tag].to_dict() for tag in sort_tags(self.scores.tags)},
            "prompts_correct": None if self.scores.pass_any is None else self.scores.pass_any.to_dict(),
            "counterfactual_pairs": {tag: estimate.to_dict() for tag, estimate in self.pairs.items()},
            "pass_at_k": {str(k): estimate.to_dict() for k, estimate in self.scores.pass_at_k.items()},
            "suite": found.suite,
            "prompts": found.prompts,
            "prompts_expected": found.expected,
            "images_per_prompt": found.images_per_prompt,
            "complete": self.complete,
            "standing": self.standing,
            "duplicates": self.duplicates,
            "generator": [notes.to_dict() for notes in self.generators],
            "problems": self.problems,
            "rules": None if self.rules is None else dict(self.rules),
            "rejudged": self.rejudged,
            "backend": self.backend,
            "fingerprint": self.fingerprint,
        }

    def document(self) -> Document:
        """The table in every format that it can be printed in."""
        estimates = self.estimates()
        names = {
            **ROW_NAMES,
            "overall": self.overall_label,
            **{f"pairs_{tag}": f"{tag}, both of a pair" for tag in self.pairs},
        }
        level = percent_text(self.scores.overall.interval.level)
        rows: list[list[object]] = []
        for name, one in estimates.items():
            rows += [[]] if name == "overall" else []
            rows.append([names.get(name, name), score_text(one), one.images, one.prompts])
        table = Table(
            f"GenEval, credit {self.credit}, {self.standing}; {level} intervals, clustered by prompt",
            ["task", "score", "images", "prompts"],
            rows,
            [self.judged_by],
            strong=(len(self.scores.tags) + 1,),
        )
        # Without a column for them, scores under other rules would look like those of the run.
        again = [rules_text(self.rules)] if self.rejudged else []
        values = [[name, *estimate_cells(one), *again] for name, one in estimates.items()]
        header = ["task", *ESTIMATE_COLUMNS, *(["rules"] if again else [])]
        return Document(
            [table],
            Table("", header, values),
            self.to_dict(),
            problems=self.problems,
            conclusions=[self.verdict_on_suite],
        )


def summarize(
    results: Results,
    credit: str = "official",
    rules: Rules | Mapping[str, Any] | str | None = None,
    *,
    draws: int = 10_000,
) -> Summary:
    """Summarise a results file.

    Args:
        results: What `geneval_reward.results.read_results` returns.
        credit: The credit to average.
        rules: Rules by which to judge the stored detections again, starting from those of the file; None takes the verdicts as
            they are.
        draws: Bootstrap draws of the intervals.

    Raises:
        ResultsError: If the file has no row, or lacks the credit or the detections that are asked for.
        UsageError: If the rules are not valid, or ask for a colour or a confidence that was not stored.
    """
    if not len(results):
        raise ResultsError(f"{results.path}: expected at least one scored image, got none; see its failures")
    judge = results.identities[0] if len(results.identities) == 1 else None
    stated = [
        None if text is None else json.loads(text) for text in dict.fromkeys(one.rules for one in results.identities)
    ]
    if rules is None:
        values = results.credit(credit)
        shown = stated[0] if len(stated) == 1 else None
    else:
        values = np.array([row.verdict(rules).credit(credit) for row in results.rows()])
        # Pairs change only what they name, so each judge of a mixed file keeps the rest of its own rules.
        applied = {Rules.parse(rules, base=Rules.parse(own)) for own in stated}
        shown = applied.pop().to_dict() if len(applied) == 1 else None
    double = results.duplicates()
    counts: Counter[PromptSpec] = Counter()
    specs = results.specs()
    for spec, images in zip(specs, np.bincount(results.prompt_ids).tolist(), strict=True):
        counts[spec] += images
    return Summary(
        credit=credit,
        scores=clustered_bootstrap(values, results.prompt_ids, results.tags, draws=draws),
        completeness=completeness(counts),
        failed=results.failed,
        notes=tuple(_notes(results, double)),
        rules=shown,
        backend=None if judge is None else judge.backend,
        fingerprint=None if judge is None else judge.fingerprint,
        rejudged=rules is not None,
        cut=results.cut is not None,
        duplicates=len(double),
        rewritten=int(results.rewritten.sum()),
        generators=tuple(results.generators),
        best_of=int(results.best_of.max()),
        selected_by=results.selecting_rewards(),
        pairs=_pairs(results, specs, values, draws),
    )


def _pairs(
    results: Results, specs: Sequence[PromptSpec], values: npt.NDArray[np.float64], draws: int
) -> dict[str, Estimate]:
    """The credit of counterfactual pairs by task, clustered by pair of prompts; images meet by their numbers.

    A task counts if at least half of its prompts are in a pair: a few pairs that stand in a set by chance are no measurement.
    """
    pairs = counterfactual_pairs(specs)
    prompts = Counter(spec.tag for spec in specs)
    paired = Counter(specs[row].tag for pair in pairs for row in pair)
    found: dict[str, list[tuple[float, int]]] = {}
    for number, (a, b) in enumerate(pairs):
        if 2 * paired[specs[a].tag] < prompts[specs[a].tag]:
            continue
        sides = [
            dict(zip(results.index[rows].tolist(), values[rows].tolist(), strict=True))
            for rows in (np.flatnonzero(results.prompt_ids == prompt) for prompt in (a, b))
        ]
        for index in sorted(sides[0].keys() & sides[1].keys() - {-1}):
            found.setdefault(specs[a].tag, []).append((min(side[index] for side in sides), number))
    return {
        tag: clustered_bootstrap([v for v, _ in rows], [n for _, n in rows], [tag] * len(rows), draws=draws).micro
        for tag, rows in found.items()
    }


def _notes(results: Results, double: list[str]) -> list[str]:
    notes = []
    tags = sort_tags(results.tags.tolist())
    own = [tag for tag in tags if tag not in TAGS]
    if 0 < len(own) < len(tags):
        notes.append(f"the overall is over the benchmark's tasks only, without {name_some(own)}")
    if len(results.identities) > 1:
        parts = "; ".join(results.identities[0].differences(results.identities[1]))
        notes.append(f"more than one judge in this file: {parts}")
    if results.cut is not None:
        notes.append(f"line {results.cut.number} is cut off and left out; score with --resume")
    if double:
        occur, are = ("images occur", "are") if len(double) > 1 else ("image occurs", "is")
        notes.append(
            f"{len(double):,} {occur} more than once and {are} counted each time: {name_some(double, separator='; ')}"
        )
    if results.rewritten.any():
        notes.append(f"{_images_were(int(results.rewritten.sum()))} generated from rewritten prompts")
    if by := results.selecting_rewards():
        count = sum(name is not None for name in results.selected_by)
        notes.append(f"{_images_were(count)} selected at sampling time by {', '.join(by)}")
    notes += [f"generator: {mark}" for mark in generator_marks(results.generators)]
    if results.best_of.any():
        chosen = results.best_of[results.best_of > 0]
        notes.append(
            f"{_images_were(len(chosen))} chosen by this very metric, best of {int(chosen.max())}: "
            "their score is no measure of the generator"
        )
    return notes


def _images_were(number: int) -> str:
    return counted(number, "image", "were")
