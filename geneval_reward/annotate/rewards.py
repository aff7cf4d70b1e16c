"""The rewards of an annotation: credits of one verdict per image, rewards by name, and functions of one's own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from geneval_reward.annotate.captions import UnscorableError
from geneval_reward.errors import GenEvalError, ImageError, ScoringError, SpecError, UsageError
from geneval_reward.judge.credits import CREDITS, value_of
from geneval_reward.judge.verdict import Verdict
from geneval_reward.judges.load import load_scorer
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.reward.models import MODEL_NAMES, model_reward
from geneval_reward.reward.parts import accepted_arguments, as_column
from geneval_reward.scorer import LazyScorer, Scorer, fingerprint_id, refusal
from geneval_reward.support.imports import import_object, is_import_path, source_file
from geneval_reward.support.signatures import check_part, takes_nothing
from geneval_reward.version import __version__

_PREFIX: Final = "geneval_"
_CREDIT: Final = "credit"
_HOPELESS: Final = 3  # batches without a single value before a reward is given up

RewardSpecs = str | Sequence[str] | Mapping[str, "str | Callable[..., Any]"]


@dataclass(frozen=True)
class RewardSpec:
    """One column that is asked for.

    Attributes:
        name: Its name.
        kind: `credit` (read from the verdict), `model` (a reward by name) or `function` (of images).
        source: The name of the credit or model, an import path, or a function.
    """

    name: str
    kind: str
    source: str | Callable[..., Any]


def parse_rewards(rewards: RewardSpecs) -> tuple[RewardSpec, ...]:
    """Read the rewards that are asked for.

    Args:
        rewards: Names, as a sequence or separated by commas; or a mapping of column names to names or functions. A name is
            `geneval_CREDIT` (`geneval` for all five), one of `geneval_reward.reward.models`, or the import path
            (`module:attribute` or `file.py:attribute`, with `NAME=` before it to name the column) of a function of images, of a
            function of a verdict, or of a function without arguments that makes a reward.

    Raises:
        UsageError: If there is none, one is unknown, or two columns have the same name.
    """
    named: list[tuple[str, Any]] = []
    if isinstance(rewards, Mapping):
        named = list(rewards.items())
    else:
        for text in rewards.split(",") if isinstance(rewards, str) else rewards:
            name, path = (re.fullmatch(r"(?:(\w+)=)?(.*)", text.strip()) or ["", None, text]).groups()  # type: ignore[union-attr]
            if path == "geneval":
                named += [(_PREFIX + credit, _PREFIX + credit) for credit in CREDITS]
            else:
                named.append((name or path, path))
    specs = tuple(_spec(name, source) for name, source in named)
    names = [spec.name for spec in specs]
    if not specs:
        raise UsageError("rewards: expected at least one, got none")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"rewards: expected each column once, got {', '.join(twice)} twice; name one with NAME=")
    return specs


def _spec(name: str, source: Any) -> RewardSpec:
    if isinstance(source, str) and source.startswith(_PREFIX) and source.removeprefix(_PREFIX) in CREDITS:
        return RewardSpec(name, "credit", source.removeprefix(_PREFIX))
    if isinstance(source, str) and source in MODEL_NAMES:
        return RewardSpec(name, "model", source)
    if isinstance(source, str) and (file := source_file(source)) is not None:
        # A worker of a cluster has another working folder.
        source = f"{file}:{source.rpartition(':')[2]}"
    if isinstance(source, str) and not is_import_path(source):
        known = ", ".join((*(_PREFIX + credit for credit in CREDITS), *MODEL_NAMES))
        raise UsageError(f"rewards: expected {known}, module:function or file.py:function, got {source!r}")
    found = import_object(source, "rewards") if isinstance(source, str) else source
    if not callable(found):
        raise UsageError(f"rewards: {name}: expected a function, got {type(found).__name__}")
    if _takes_images(name, found) or takes_nothing(found):
        return RewardSpec(name, "function", source)
    check_part(f"rewards: {name}", found, "(verdict)")
    return RewardSpec(name, "credit", source)


def _takes_images(name: str, function: Any) -> bool:
    try:
        accepted_arguments(name, function)
    except TypeError as error:
        if "images" in inspect.signature(function).parameters:
            raise UsageError(f"rewards: {error}") from error
        return False
    return True


def is_credit(identity: str) -> bool:
    """Whether a reward of this identity is read from a verdict."""
    return identity.startswith(f"{_CREDIT} ")


@dataclass
class Row:
    """A sample on its way through the rewards.

    Attributes:
        values: Its cells.
        todo: Names of the rewards that it still needs.
        image: `(3, h, w)` uint8; None if there is nothing to score.
        spec: Its record, if it has one.
        reasons: Why a reward has no value, by name.
    """

    values: dict[str, Any]
    todo: set[str] = field(default_factory=set)
    image: torch.Tensor | None = None
    spec: PromptSpec | None = None
    reasons: dict[str, str] = field(default_factory=dict)


class RewardSet:
    """The rewards that are asked for, loaded in this process.

    Args:
        specs: The rewards.
        scorer: What judges, for `geneval_*`: as `load_scorer` takes it, or a scorer, or a function that makes one.
        options: Options of `load_scorer`.
    """

    def __init__(
        self, specs: Sequence[RewardSpec], scorer: Any = "lite", options: Mapping[str, Any] | None = None
    ) -> None:
        self.specs, self.names = tuple(specs), tuple(spec.name for spec in specs)
        self.scorer: Scorer | None = None
        options = dict(options or {})
        self._credits: dict[str, str | Callable[[Verdict], float]] = {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._accepts: dict[str, tuple[str, ...]] = {}
        self._failures = dict.fromkeys(self.names, 0)
        self.identities: dict[str, str] = {}
        for spec in specs:
            if spec.kind == "credit":
                is_own = not (isinstance(spec.source, str) and spec.source in CREDITS)
                own = import_object(spec.source, spec.name) if is_own and isinstance(spec.source, str) else spec.source
                self._credits[spec.name] = own
                self.identities[spec.name] = f"{_CREDIT} {_source_text(own) if is_own else own}"
                continue
            function: Any = spec.source
            if spec.kind == "model":
                function = model_reward(str(spec.source), device=options.get("device", "auto"))
                self.identities[spec.name] = repr(function)
            else:
                function = import_object(function, spec.name) if isinstance(function, str) else function
                self.identities[spec.name] = _source_text(function)
                if not _takes_images(spec.name, function):
                    function = function()
            try:
                self._accepts[spec.name] = accepted_arguments(spec.name, function)
            except TypeError as error:
                raise UsageError(f"rewards: {error}") from error
            self._functions[spec.name] = function
        if self._credits:
            self.scorer = (
                load_scorer(scorer, **options) if isinstance(scorer, str) else LazyScorer(scorer, **options).load()
            )
        self.judge = None if self.scorer is None else f"{self.scorer.name} {fingerprint_id(self.scorer)}"
        self.rules = None if self.scorer is None else json.dumps(self.scorer.rules.to_dict(), sort_keys=True)
        self.batch_size = int(getattr(self.scorer, "batch_size", 16))

    def needs_record(self, name: str) -> bool:
        """Whether a reward is read from a verdict."""
        return name in self._credits

    def needs_caption(self, name: str) -> bool:
        """Whether a reward of images reads the caption."""
        return "prompts" in self._accepts.get(name, ())

    @property
    def read_records(self) -> bool:
        """Whether a reward reads records."""
        return bool(self._credits) or any("metadata" in accepted for accepted in self._accepts.values())

    def versions(self, names: Sequence[str]) -> dict[str, str]:
        """What the rewards were computed with."""
        found = {"geneval_reward": __version__}
        found |= {name: self.identities[name] for name in names if name in self._functions}
        if any(spec.kind == "model" and spec.name in names for spec in self.specs):
            found["transformers"] = importlib.metadata.version("transformers")
        return found

    def score(self, rows: Sequence[Row]) -> None:
        """Fill in the values that rows still need.

        Raises:
            GenEvalError: If a reward cannot be loaded, or has failed for the first three batches.
        """
        judged = [
            row for row in rows if row.image is not None and row.spec is not None and row.todo & set(self._credits)
        ]
        if judged and self.scorer is not None:
            for row, verdict in zip(judged, self._verdicts(self.scorer, judged), strict=True):
                for name in row.todo & set(self._credits):
                    self._settle(row, name, verdict)
            for name in self._credits:
                # A record with other words than the judge's is not the reward's fault.
                tried = [
                    row for row in judged if name in row.todo and not row.reasons.get(name, "").startswith("record: ")
                ]
                self._give_up_if_hopeless(name, tried)
        for name in self._functions:
            waiting = [row for row in rows if row.image is not None and name in row.todo]
            if not waiting:
                continue
            answers = _one_by_one(lambda part, name=name: self._call(name, part), waiting)  # type: ignore[misc]
            for row, answer in zip(waiting, answers, strict=True):
                self._settle(row, name, answer)
            self._give_up_if_hopeless(name, waiting)
        for row in rows:
            done = [name for name in row.todo if row.values.get(name) is not None]
            if done:
                old = json.loads(row.values["versions"]) if row.values.get("versions") else {}
                row.values["versions"] = json.dumps(old | self.versions(done), sort_keys=True)
            if any(name in self._credits for name in done):
                row.values |= {"judge": self.judge, "rules": self.rules}

    def _settle(self, row: Row, name: str, answer: Any) -> None:
        if isinstance(answer, Verdict):
            credit = self._credits[name]
            try:
                answer = answer.credit(credit) if isinstance(credit, str) else value_of(credit, answer)
            except Exception as error:  # noqa: BLE001 - a function of the user's may raise anything
                answer = error
        if isinstance(answer, Exception):
            row.reasons[name] = (
                str(answer) if isinstance(answer, UnscorableError) else f"{name}: {type(answer).__name__}: {answer}"
            )
        elif answer is None:
            row.reasons[name] = f"{name}: expected a finite number, got None, NaN or an infinity"
        else:
            row.values[name] = answer

    def _verdicts(self, scorer: Scorer, rows: Sequence[Row]) -> list[Any]:
        answers: list[Any] = [refusal(scorer, row.spec) for row in rows if row.spec is not None]
        known = [index for index, answer in enumerate(answers) if answer is None]
        found = _one_by_one(lambda part: _judge(scorer, part), [rows[index] for index in known])
        for index, answer in zip(known, found, strict=True):
            answers[index] = answer
        return [UnscorableError(f"record: {one}") if isinstance(one, SpecError) else one for one in answers]

    def _call(self, name: str, rows: Sequence[Row]) -> list[Any]:
        given = {
            "images": [row.image for row in rows],
            "prompts": [row.values["caption"] for row in rows],
            "metadata": [None if row.spec is None else row.spec.to_record() for row in rows],
        }
        answer = self._functions[name](**{key: given[key] for key in self._accepts[name]})
        try:
            return list(as_column(name, answer, len(rows)))
        except RuntimeError as error:
            # Of too few numbers nobody knows which images they belong to.
            return [UnscorableError(f"{name}: {str(error).partition(': ')[2]}")] * len(rows)

    def _give_up_if_hopeless(self, name: str, rows: Sequence[Row]) -> None:
        if self._failures[name] < 0 or not rows:
            return
        if any(row.values.get(name) is not None for row in rows):
            self._failures[name] = -1
            return
        self._failures[name] += 1
        if self._failures[name] >= _HOPELESS:
            raise GenEvalError(
                f"rewards: expected {name} to score at least one image, got none in its first {_HOPELESS} batches; the last "
                f"reason: {rows[-1].reasons[name]}"
            )


def _one_by_one(call: Callable[[Sequence[Row]], list[Any]], rows: Sequence[Row]) -> list[Any]:
    """Call for all rows, or where that fails for each, so that an error costs only the row at fault."""
    if not rows:
        return []
    try:
        return call(rows)
    except ScoringError as error:
        return [verdict or reason for verdict, reason in zip(error.verdicts, error.errors, strict=True)]
    except Exception as error:
        if isinstance(error, GenEvalError) and not isinstance(error, ImageError | SpecError):
            raise
        return [error] if len(rows) == 1 else [answer for row in rows for answer in _one_by_one(call, [row])]


def _judge(scorer: Scorer, rows: Sequence[Row]) -> list[Any]:
    with warnings.catch_warnings():
        # Pictures of a data set may all be wrong; the table at the end shows it.
        warnings.filterwarnings("ignore", message="all .* images of a call are wrong")
        return list(scorer.score([row.image for row in rows], [row.spec for row in rows]))  # type: ignore[misc]


def _source_text(function: Any) -> str:
    """Name a function with a digest of its source, so that values of an edited one are not mixed with the old."""
    kind = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    try:
        code = inspect.getsource(kind)
    except (OSError, TypeError):
        return str(kind.__qualname__)
    return f"{kind.__qualname__} {hashlib.sha256(code.encode()).hexdigest()[:8]}"
