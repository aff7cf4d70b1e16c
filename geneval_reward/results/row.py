"""`ResultRow`: one line of a results file, and `FailedImage`: the line of an image that could not be scored.

The first seven keys of a row are those of the benchmark's own `results.jsonl`, so its summary script reads our files as
they are (djghosh13/geneval `evaluation/evaluate_images.py`, `summary_scores.py`). The other keys are ours. Heavy keys
come last, so that a reader that does not need them can stop before them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from geneval_reward.errors import ResultsError, SpecError, UsageError
from geneval_reward.judge import Detections, Rules, Verdict, judge
from geneval_reward.judge.detections import shortest
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.results.generator_notes import NO_NOTES, GeneratorNotes
from geneval_reward.results.record import (
    OFFICIAL_KEYS,
    OUR_KEYS,
    SCHEMA,
    check_record,
    dump_record,
    index_of,
    load_line,
)


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What must be equal for two results to be comparable. A part is None if the file does not say, as in official files.

    Attributes:
        rules: The rules as JSON.
        backend: Name of the backend.
        fingerprint: Short id of detector, verifier and versions.
    """

    rules: str | None = None
    backend: str | None = None
    fingerprint: str | None = None

    @classmethod
    def of(cls, rules: Rules | Mapping[str, Any] | None, backend: str | None, fingerprint: str | None) -> RunIdentity:
        """Make an identity from rules in any form."""
        values = rules.to_dict() if isinstance(rules, Rules) else rules
        return cls(None if values is None else json.dumps(values, sort_keys=True), backend, fingerprint)

    def differences(self, other: RunIdentity) -> list[str]:
        """Name each part that differs, with both values."""
        found = []
        if self.rules != other.rules:
            ours, theirs = json.loads(self.rules or "{}"), json.loads(other.rules or "{}")
            names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
            if self.rules is None or other.rules is None:
                found.append("rules known in one of them only")
            else:
                found.append("rules " + ", ".join(f"{name} {ours.get(name)} / {theirs.get(name)}" for name in names))
        found += [
            f"{name} {getattr(self, name)} / {getattr(other, name)}"
            for name in ("backend", "fingerprint")
            if getattr(self, name) != getattr(other, name)
        ]
        return found


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image that could not be scored. It has no verdict, and is never counted as a zero.

    Attributes:
        filename: The image's name, as in a row.
        error: Why it could not be scored.
    """

    filename: str
    error: str

    def to_json(self) -> str:
        """Write the row as a line without its newline."""
        return dump_record({"filename": self.filename, "error": self.error, "schema": SCHEMA}, self.filename)


@dataclass(frozen=True, eq=False)
class ResultRow:
    """One judged image.

    Attributes:
        filename: The image below the scored folder, with forward slashes.
        tag: The task.
        prompt: The record's prompt text.
        correct: The official verdict.
        reason: The official wording of its failures.
        metadata: The record as JSON. Images with equal `metadata`, further keys aside, belong to one
            prompt.
        details: Boxes `[x1, y1, x2, y2, confidence]` of the objects that counted, by class name, as JSON.
        index: Number of the image within its prompt, from 0.
        seed: The seed it was generated from, if known.
        credits: Value of each credit by name; empty in an official file.
        image_size: `(width, height)` in pixels.
        rules: The rules it was judged by.
        backend: Name of the backend.
        fingerprint: Short id of what judged.
        rewritten: The text that the generator got, if it was not `prompt`.
        generator: What else must be known of the generator: template, negative prompt, training on the benchmark's wording.
        best_of: Number of candidates from which this very metric chose the image; None if it did not.
        selected_by: Name of the reward by which a search selected the image; None if none did.
        min_confidence: Detections at or below it were not kept, so rules cannot go lower; None if unknown.
        clauses: The official checks, one by one.
        detections: Everything that was seen, raw; None in an official file, or where the judge answers questions.
        schema: Version of our keys; None in an official file.

    Examples:
        >>> spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}]})
        >>> verdict = judge(spec, Detections.empty((64, 64)))
        >>> row = ResultRow.from_verdict(verdict, "00000/samples/0002.png", backend="lite", fingerprint="abc")
        >>> row.index, row.reason
        (2, 'expected dog>=1, found 0')
        >>> ResultRow.from_json(row.to_json()).verdict().reason == row.reason
        True
    """

    filename: str
    tag: str
    prompt: str
    correct: bool
    reason: str
    metadata: str
    details: str = "{}"
    index: int | None = None
    seed: int | None = None
    credits: Mapping[str, float] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    rules: Mapping[str, Any] | None = None
    backend: str | None = None
    fingerprint: str | None = None
    rewritten: str | None = None
    generator: GeneratorNotes = NO_NOTES
    best_of: int | None = None
    selected_by: str | None = None
    min_confidence: float | None = None
    clauses: Sequence[Mapping[str, Any]] = ()
    detections: Detections | None = None
    schema: int | None = SCHEMA

    @classmethod
    def from_verdict(
        cls,
        verdict: Verdict,
        filename: str,
        *,
        index: int | None = None,
        seed: int | None = None,
        backend: str | None = None,
        fingerprint: str | None = None,
        rewritten: str | None = None,
        generator: GeneratorNotes | None = None,
        best_of: int | None = None,
        selected_by: str | None = None,
        min_confidence: float | None = None,
    ) -> ResultRow:
        """Make the row of a verdict.

        Args:
            verdict: What the scorer said.
            filename: The image's name; also gives `index` if that is None and the name is a number.
            index: Number of the image within its prompt.
            seed: The seed it was generated from.
            backend: Name of the backend.
            fingerprint: Short id of what judged.
            rewritten: The text that the generator got, if it was not the record's.
            generator: What else must be known of the generator.
            best_of: Number of candidates from which the image was chosen by this very metric.
            selected_by: Name of the reward by which a search selected the image.
            min_confidence: Detections at or below it were not kept.
        """
        return cls(
            filename=filename,
            tag=verdict.spec.tag,
            prompt=verdict.spec.prompt,
            correct=verdict.correct,
            reason=verdict.reason,
            metadata=verdict.spec.to_json(),
            details=json.dumps({name: [shortest(box) for box in boxes] for name, boxes in verdict.objects().items()}),
            index=index_of(filename) if index is None else index,
            seed=seed,
            credits=verdict.credits(),
            image_size=verdict.detections.image_size,
            rules=verdict.rules.to_dict(),
            backend=backend,
            fingerprint=fingerprint,
            rewritten=rewritten,
            generator=generator or NO_NOTES,
            best_of=best_of,
            selected_by=selected_by,
            min_confidence=min_confidence,
            clauses=tuple(finding.to_dict() for finding in verdict.findings),
            detections=verdict.detections if verdict.has_detections else None,
        )

    @cached_property
    def spec(self) -> PromptSpec:
        """The record, parsed."""
        try:
            return PromptSpec.parse(self.metadata)
        except SpecError as error:
            raise ResultsError(f"{self.filename}: metadata: {error}") from error

    @property
    def identity(self) -> RunIdentity:
        """What judged the image."""
        return RunIdentity.of(self.rules, self.backend, self.fingerprint)

    def counted(self) -> dict[str, list[list[float]]]:
        """The boxes `[x1, y1, x2, y2, confidence]` of the objects that counted, by class, from `details`.

        Raises:
            ResultsError: If `details` holds something else.
        """
        try:
            found = load_line(self.details, self.filename)
            return {name: [[float(value) for value in box] for box in boxes] for name, boxes in found.items()}
        except (TypeError, ValueError) as error:
            raise ResultsError(
                f"{self.filename}: details: expected an object of lists [x1, y1, x2, y2, confidence], "
                f"got {self.details[:60]!r}"
            ) from error

    def verdict(self, rules: Rules | Mapping[str, Any] | str | None = None) -> Verdict:
        """Judge the stored detections, without a model.

        Args:
            rules: Other rules, as `Rules.parse` takes them; pairs and mappings change only the fields that they name. None
                takes the rules that the row was judged by.

        Raises:
            ResultsError: If the file holds no detections (the official script or a judge that answers questions wrote it), or
                the rules ask for less confident ones than were kept.
            UsageError: If the rules are not valid, or look at a box whose colour was not asked for.
        """
        if self.detections is None:
            raise ResultsError(
                f"{self.filename}: expected stored detections, got none; files of the official script and of judges "
                "that answer questions cannot be judged again"
            )
        if not isinstance(rules, Rules):
            rules = Rules.parse(rules, base=Rules.parse(self.rules))
        floor = self.min_confidence
        if floor is not None and rules.threshold(self.tag) < floor:
            raise ResultsError(
                f"{self.filename}: expected rules with a threshold of at least {floor}, got {rules.threshold(self.tag)}; less "
                "confident detections were not kept, so score the images again"
            )
        return judge(self.spec, self.detections, rules)

    def to_json(self) -> str:
        """Write the row as a line without its newline.

        Raises:
            ResultsError: If a number is not finite.
        """
        record: dict[str, Any] = {name: getattr(self, name) for name in OFFICIAL_KEYS}
        if self.schema is not None:
            record |= {
                "index": self.index,
                "seed": self.seed,
                "credits": dict(self.credits),
                "image_size": None if self.image_size is None else list(self.image_size),
                "rules": None if self.rules is None else dict(self.rules),
                "backend": self.backend,
                "fingerprint": self.fingerprint,
                "schema": self.schema,
                "rewritten": self.rewritten,
                **({"generator": self.generator.to_dict()} if self.generator else {}),
                "best_of": self.best_of,
                **({} if self.selected_by is None else {"selected_by": self.selected_by}),
                "min_confidence": self.min_confidence,
                "clauses": [dict(clause) for clause in self.clauses],
                "detections": None if self.detections is None else self.detections.to_dict(),
            }
        return dump_record(record, self.filename)

    @classmethod
    def from_json(cls, line: str, where: str = "line") -> ResultRow:
        """Read a row from its line.

        Args:
            line: JSON; our keys, or only the official seven.
            where: File and line, for messages.

        Raises:
            ResultsError: If it is not a row; the message says where and why.
        """
        record = load_line(line, where)
        check_record(record, where)
        return cls.from_record(record, where)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str) -> ResultRow:
        """Make a row from a record that `check_record` has checked."""
        values = {name: record[name] for name in OFFICIAL_KEYS}
        if "schema" not in record:
            return cls(**values, index=index_of(record["filename"]), schema=None)
        size = record["image_size"]
        return cls(
            **values,
            **{name: record[name] for name in OUR_KEYS if name not in ("image_size", "detections", "clauses")},
            selected_by=record.get("selected_by"),
            generator=GeneratorNotes.from_dict(record.get("generator"), f"{where}: generator"),
            image_size=None if size is None else (int(size[0]), int(size[1])),
            clauses=_check_clauses(record["clauses"], where),
            detections=_read_detections(record["detections"], size, where),
        )


def _check_clauses(clauses: Sequence[Any], where: str) -> tuple[Mapping[str, Any], ...]:
    for clause in clauses:
        if not isinstance(clause, Mapping):
            raise ResultsError(
                f"{where}: clauses: expected a list of objects, got a JSON {type(clause).__name__} in it"
            )
    return tuple(clauses)


def _read_detections(record: Mapping[str, Any] | None, size: Sequence[int] | None, where: str) -> Detections | None:
    if record is None:
        return None
    if size is None:
        raise ResultsError(f"{where}: detections: expected parallel lists and an image_size, got null for that")
    try:
        return Detections.from_dict(record, size)
    except UsageError as error:
        raise ResultsError(f"{where}: {error}") from error
