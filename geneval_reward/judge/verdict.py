"""`Verdict` and `judge`: a record and detections in, a verdict with its reasons out. No pixels, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from geneval_reward.errors import UsageError
from geneval_reward.judge.clauses import Finding, find
from geneval_reward.judge.credit import dense_credit, flow_grpo_credit, partial_credit
from geneval_reward.judge.detections import Detections
from geneval_reward.judge.evidence import Evidence
from geneval_reward.judge.rules import Rules
from geneval_reward.prompts.spec import PromptSpec

CREDITS: Final[tuple[str, ...]] = ("official", "strict", "partial", "dense", "flow_grpo")
"""Names of the credits, as `Verdict.credit` takes them."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the judge says of one image, kept whole so that any rule can be applied again without a model.

    Built by `judge`. Only the official verdict is computed at once; the rest on first use.

    Attributes:
        spec: The record.
        detections: Everything the detector saw of what was asked, with the colours that were asked; no masks.
        rules: The rules it was judged by.
        findings: The official checks, one by one (see `geneval_reward.judge.Finding`).

    Example:
        >>> import numpy as np
        >>> spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}]})
        >>> dog = Detections(np.array([[10, 10, 90, 90]]), np.array([0.8]), np.array([16]), (100, 100))
        >>> verdict = judge(spec, dog)
        >>> verdict.correct, verdict.reason, verdict.credit("dense")
        (True, '', 1.0)
    """

    spec: PromptSpec
    detections: Detections
    rules: Rules
    findings: tuple[Finding, ...]

    @cached_property
    def correct(self) -> bool:
        """The benchmark's verdict: at least the asked objects, right colours and places, nothing excluded."""
        return not any(finding.reason for finding in self.findings)

    @cached_property
    def reason(self) -> str:
        """The benchmark's wording of every failure, one a line; empty if correct."""
        return "\n".join(finding.reason for finding in self.findings if finding.reason)

    @cached_property
    def strict(self) -> bool:
        """Flow-GRPO's verdict: exactly the asked number of objects, and nothing excluded."""
        return not any(finding.reason for finding in self.strict_findings)

    @cached_property
    def strict_reason(self) -> str:
        """Why it is not strictly correct, one failure a line."""
        return "\n".join(finding.reason for finding in self.strict_findings if finding.reason)

    @cached_property
    def strict_findings(self) -> tuple[Finding, ...]:
        """The checks under the exact-count rule."""
        return tuple(find(self.spec, self._evidence, exact=True))

    @cached_property
    def kept(self) -> dict[str, int]:
        """Objects per class after threshold, limit and overlap; classes without any are left out."""
        return self._evidence.kept()

    @cached_property
    def partial(self) -> float:
        """Mean of clause credits in [0, 1]; see `geneval_reward.judge.credit.partial_credit`."""
        return partial_credit(self.spec, self._evidence, self.strict_findings)

    @cached_property
    def dense(self) -> float:
        """Smooth credit in [0, 1]; see `geneval_reward.judge.credit.dense_credit`."""
        return dense_credit(self.spec, self._evidence)

    @cached_property
    def flow_grpo(self) -> float:
        """The public RL reward with its quirks, in (-inf, 1]."""
        return flow_grpo_credit(self.spec, self._evidence, self.strict_findings)

    def credit(self, name: str) -> float:
        """A credit by name.

        Args:
            name: One of `CREDITS`.

        Raises:
            ValueError: For another name.
        """
        if name == "official":
            return float(self.correct)
        if name not in CREDITS:
            raise UsageError(f"credit: expected one of {', '.join(CREDITS)}, got {name!r}")
        return float(getattr(self, name))

    def credits(self) -> dict[str, float]:
        """All credits by name."""
        return {name: self.credit(name) for name in CREDITS}

    def rejudge(self, rules: Rules | Mapping[str, Any] | str) -> Verdict:
        """The verdict on the same detections under other rules.

        Raises:
            ValueError: If the new rules look at a box whose colour was never asked.
        """
        return judge(self.spec, self.detections, rules)

    def objects(self) -> dict[str, list[list[float]]]:
        """Boxes `[x1, y1, x2, y2, confidence]` of the objects that count, per class, most confident first."""
        rows = {name: self._evidence.objects(name) for name in self.kept}
        xyxy, confidence = self.detections.xyxy, self.detections.confidence
        return {name: [[*xyxy[i].tolist(), float(confidence[i])] for i in indices] for name, indices in rows.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Derived values are recomputed on demand; a verdict that crosses processes carries only what it was made of.
        return {name: self.__dict__[name] for name in ("spec", "detections", "rules", "findings")}

    @cached_property
    def _evidence(self) -> Evidence:
        return Evidence(self.detections, self.rules, self.spec.tag)


def judge(spec: PromptSpec, detections: Detections, rules: Rules | Mapping[str, Any] | str | None = None) -> Verdict:
    """Judge one image.

    Args:
        spec: What was asked.
        detections: What was seen, raw and in any order, with `color` where the record asks for colours.
        rules: Thresholds; the benchmark's if None. Everything `Rules.parse` takes.

    Returns:
        The verdict.

    Raises:
        ValueError: If a colour must be known that the verifier was not asked for, or the rules are not valid.
    """
    rules = Rules.parse(rules)
    detections = detections.without_masks()
    evidence = Evidence(detections, rules, spec.tag)
    verdict = Verdict(spec, detections, rules, tuple(find(spec, evidence, exact=False)))
    verdict.__dict__["_evidence"] = evidence
    return verdict
