"""`AnsweredVerdict`: the verdict of a judge that answers questions instead of detecting boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, Never

from geneval_reward.errors import UsageError
from geneval_reward.judge import CREDITS, Detections, Finding, Rules, Verdict
from geneval_reward.judge.credits import Credit
from geneval_reward.judges.questions import NUMBERS, Question
from geneval_reward.prompts.spec import PromptSpec

Mean = Literal["arithmetic", "geometric"]

ANSWER_CREDITS: Final = (
    "soft_tifa_am",
    "soft_tifa_gm",
    "soft_tifa_am_share",
    "soft_tifa_gm_share",
    "vqascore",
    "vqascore_share",
)
"""Credits that only such a verdict has. Those named `share` are probabilities against the other answers of a question."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A judge's answer to one question.

    Attributes:
        question: The question.
        raw: Probability of the expected answer among all tokens, in [0, 1]: `P(yes)`, as VQAScore and Soft-TIFA take it.
        share: The same relative to the question's choices only, in [0, 1]: `P(yes) / (P(yes) + P(no))`, or relative to the
            other numbers.
        chosen: The most likely of these choices.
    """

    question: Question
    raw: float
    share: float
    chosen: str

    @classmethod
    def of(cls, question: Question, probabilities: Sequence[float]) -> Answered:
        """Build from the probabilities of the question's choices.

        Raises:
            UsageError: If no choice has a probability above 0, so that there is no answer.
        """
        total = sum(probabilities)
        if not (math.isfinite(total) and total > 0):
            raise UsageError(
                f"{question.text!r}: expected an answer of {', '.join(question.choices)}, got none of them; the model does not "
                "follow the question"
            )
        raw = probabilities[question.choices.index(question.answer)]
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        return cls(question, raw, raw / total, question.choices[best])

    @property
    def right(self) -> bool:
        """Whether the most likely answer is the expected one."""
        return self.chosen == self.question.answer

    def finding(self) -> Finding:
        """The answer as a check of the record."""
        asked = self.question
        required = asked.number
        found = int(self.right) if required is None else NUMBERS.index(self.chosen)
        reason = f"{asked.text} expected {asked.answer}, answered {self.chosen} (p={self.share:.2f} of {asked.answer})"
        return Finding(
            asked.kind,
            asked.index,
            self.right,
            found,
            1 if required is None else required,
            "" if self.right else reason,
        )

    def credit(self) -> float:
        """1 for the correct answer; a number loses the share by which it misses, as in Flow-GRPO's count credit."""
        required = self.question.number
        if required is None or self.right:
            return float(self.right)
        return 1 - abs(required - NUMBERS.index(self.chosen)) / max(1, required)


@dataclass(frozen=True, eq=False, repr=False)
class AnsweredVerdict(Verdict):
    """The verdict on one image from a judge that answers questions.

    It can be used wherever a `Verdict` can. It has no detections, so it cannot be rejudged under other rules.

    - `correct` and `strict`: every answer is the expected one. Numbers are exact in both.
    - `partial` and `flow_grpo`: the mean over questions, where a wrong number earns what Flow-GRPO's count credit gives.
    - `dense`: Soft-TIFA, the mean of the raw probabilities, arithmetic or geometric as `mean` says.

    Attributes:
        answers: The answers, one per question.
        whole: The answer to whether the image shows the whole prompt (VQAScore).
        mean: The mean that `dense` uses.

    Source:
        Soft-TIFA: GenEval 2, arXiv 2512.16853. VQAScore: arXiv 2404.01291.
    """

    answers: tuple[Answered, ...] = ()
    whole: Answered | None = None
    mean: Mean = "arithmetic"

    has_detections: ClassVar[bool] = False

    @classmethod
    def of(
        cls,
        spec: PromptSpec,
        answers: Sequence[Answered],
        whole: Answered | None,
        image_size: tuple[int, int],
        *,
        mean: Mean = "arithmetic",
        rules: Rules | None = None,
    ) -> AnsweredVerdict:
        """Build the verdict for an image of this size, `(width, height)`."""
        findings = tuple(one.finding() for one in answers)
        return cls(spec, Detections.empty(image_size), rules or Rules(), findings, tuple(answers), whole, mean)

    @cached_property
    def strict_findings(self) -> tuple[Finding, ...]:
        """The same as `findings`."""
        return self.findings

    @cached_property
    def partial(self) -> float:
        """The mean of the questions' credits, each bounded below by 0."""
        return _arithmetic([max(0.0, one.credit()) for one in self.answers])

    @cached_property
    def dense(self) -> float:
        """Soft-TIFA with the mean that `mean` names."""
        return self.credit("soft_tifa_am" if self.mean == "arithmetic" else "soft_tifa_gm")

    @cached_property
    def flow_grpo(self) -> float:
        """The mean of the questions' credits, not bounded below."""
        return _arithmetic([one.credit() for one in self.answers])

    def credit(self, name: Credit) -> float:
        """Look up a credit: one of `ANSWER_CREDITS`, or what any verdict has."""
        if not isinstance(name, str) or name not in ANSWER_CREDITS:
            return super().credit(name)
        if name.startswith("vqascore"):
            if self.whole is None:
                raise UsageError(
                    f"credit: expected one of {', '.join(self.names)}, got {name!r}; the whole prompt was not asked"
                )
            return self.whole.share if name.endswith("share") else self.whole.raw
        values = [one.share if name.endswith("share") else one.raw for one in self.answers]
        return _arithmetic(values) if "_am" in name else geometric_mean(values)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the credits that this verdict has."""
        return CREDITS + tuple(name for name in ANSWER_CREDITS if self.whole or not name.startswith("vqascore"))

    def credits(self) -> dict[str, float]:
        """All credits by name."""
        return {name: self.credit(name) for name in self.names}

    def rejudge(self, rules: object) -> Never:
        """Raise, because there are no detections.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "rules: expected a verdict with detections to judge again, got answers to questions; score again"
        )

    def __getstate__(self) -> dict[str, Any]:
        kept = ("spec", "detections", "rules", "findings", "answers", "whole", "mean")
        return {name: self.__dict__[name] for name in kept}


def _arithmetic(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def geometric_mean(values: Sequence[float]) -> float:
    """Compute the geometric mean of numbers >= 0.

    Examples:
        >>> geometric_mean([0.25, 1.0]), geometric_mean([0.0, 1.0])
        (0.5, 0.0)
    """
    return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0
