"""`Verdict` and `judge`: a record and detections become a verdict with its reasons. No pixels, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from geneval_reward.judge.clauses import Finding, dense_credit, find, flow_grpo_credit, partial_credit
from geneval_reward.judge.credits import CREDITS, Credit, own_credit, value_of
from geneval_reward.judge.detections import Detections, Evidence
from geneval_reward.judge.rules import Rules
from geneval_reward.prompts.spec import PromptSpec

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False, repr=False)
class Verdict:
    """What the judge says of one image, with everything that other rules need to judge it again without a model.

    Made by `judge`. Only the official verdict is computed at once; everything else is computed on first use.

    Attributes:
        spec: The record.
        detections: What the detector saw of the classes that the record names, with the colours that it asks for; no masks.
        rules: The rules that the image was judged by.
        findings: The official checks, one by one.

    Examples:
        >>> import numpy as np
        >>> spec = PromptSpec.parse({"tag": "single_object", "include": [{"class": "dog", "count": 1}]})
        >>> dog = Detections(np.array([[10, 10, 90, 90]]), np.array([0.8]), np.array([16]), (100, 100))
        >>> verdict = judge(spec, dog)
        >>> verdict
        Verdict(correct, 'a photo of a dog')
        >>> verdict.reason, verdict.credit("dense")
        ('', 1.0)
    """

    spec: PromptSpec
    detections: Detections
    rules: Rules
    findings: tuple[Finding, ...]

    has_detections: ClassVar[bool] = True
    """Whether other rules can judge `detections` again; judges that answer questions have none."""

    @cached_property
    def correct(self) -> bool:
        """The benchmark's verdict: at least the objects asked for, with the right colours and places, and nothing excluded."""
        return not any(finding.reason for finding in self.findings)

    @cached_property
    def reason(self) -> str:
        """The benchmark's wording of every failure, one per line; empty if the image is correct."""
        return "\n".join(finding.reason for finding in self.findings if finding.reason)

    @cached_property
    def strict(self) -> bool:
        """Flow-GRPO's verdict: exactly the number of objects asked for, and nothing excluded."""
        return not any(finding.reason for finding in self.strict_findings)

    @cached_property
    def strict_reason(self) -> str:
        """Why the image is not strictly correct, one failure per line."""
        return "\n".join(finding.reason for finding in self.strict_findings if finding.reason)

    @cached_property
    def strict_findings(self) -> tuple[Finding, ...]:
        """The checks under the exact-count rule."""
        return tuple(find(self.spec, self._evidence, exact=True))

    @cached_property
    def kept(self) -> dict[str, int]:
        """The number of objects of each class after threshold, limit and overlap; classes without any are left out."""
        return self._evidence.kept()

    @cached_property
    def partial(self) -> float:
        """The mean of clause credits, in [0, 1], as `geneval_reward.judge.clauses.partial_credit` computes it."""
        return partial_credit(self.spec, self._evidence, self.strict_findings)

    @cached_property
    def dense(self) -> float:
        """The smooth credit, in [0, 1], as `geneval_reward.judge.clauses.dense_credit` computes it."""
        return dense_credit(self.spec, self._evidence)

    @cached_property
    def flow_grpo(self) -> float:
        """The public RL reward with its quirks, in [2 - `rules.max_objects`, 1]."""
        return flow_grpo_credit(self.spec, self._evidence, self.strict_findings)

    def credit(self, name: Credit) -> float:
        """Look up a credit by name, or compute one of your own.

        Args:
            name: One of `CREDITS`; the import path of a function; or a function that takes a verdict and returns a number.

        Raises:
            UsageError: If there is no such credit, or the function does not return a finite number.
        """
        if name == "official":
            return float(self.correct)
        if isinstance(name, str) and name in CREDITS:
            return float(getattr(self, name))
        return value_of(own_credit(name), self)

    def credits(self) -> dict[str, float]:
        """All credits by name."""
        return {name: self.credit(name) for name in CREDITS}

    def rejudge(self, rules: Rules | Mapping[str, Any] | str) -> Verdict:
        """Judge the same detections by other rules.

        Args:
            rules: What `Rules.parse` takes, starting from the rules of this verdict: pairs and mappings change only the
                fields that they name.

        Raises:
            UsageError: If the new rules look at a box whose colour was not asked for.
        """
        return judge(self.spec, self.detections, Rules.parse(rules, base=self.rules))

    def objects(self) -> dict[str, list[list[float]]]:
        """Boxes `[x1, y1, x2, y2, confidence]` of the objects that count, by class, the most confident first."""
        rows = {name: self._evidence.objects(name) for name in self.kept}
        xyxy, confidence = self.detections.xyxy, self.detections.confidence
        return {name: [[*xyxy[i].tolist(), float(confidence[i])] for i in indices] for name, indices in rows.items()}

    def draw(self, image: Any, side: int = 512) -> Image.Image:
        """Draw what the judge looked at onto the image; a verdict keeps boxes and no pixels.

        Args:
            image: The judged image: a path, a PIL image, an array or a tensor, as `GenEvalScorer.score` takes it.
            side: Longer side of the result in pixels.

        Returns:
            A new RGB image. Objects that count are bold, in one colour per class of the prompt; detections that are not
            confident enough to count are thin and grey.
        """
        # The only import that goes up, and only when it is called; the contracts in pyproject.toml name it.
        from geneval_reward.results.drawing import draw_verdict

        return draw_verdict(image, self, side)

    def __repr__(self) -> str:
        reason = "" if self.correct else f", {'; '.join(self.reason.splitlines())!r}"
        return f"{type(self).__name__}({'correct' if self.correct else 'wrong'}, {self.spec.prompt!r}{reason})"

    def _repr_html_(self) -> str:
        from geneval_reward.judge.html import verdict_html

        return verdict_html(self)

    def __getstate__(self) -> dict[str, Any]:
        # Derived values are computed again on demand, so a pickled verdict carries only what it was made from.
        return {name: self.__dict__[name] for name in ("spec", "detections", "rules", "findings")}

    @cached_property
    def _evidence(self) -> Evidence:
        return Evidence(self.detections, self.rules, self.spec.tag)


def judge(spec: PromptSpec, detections: Detections, rules: Rules | Mapping[str, Any] | str | None = None) -> Verdict:
    """Judge one image.

    Args:
        spec: What the image was asked to show.
        detections: What was detected, raw and in any order, with `color` if the record asks for colours.
        rules: What `Rules.parse` takes; None for the benchmark's.

    Returns:
        The verdict.

    Raises:
        UsageError: If a colour is needed that the verifier was not asked for, or the rules are not valid.
    """
    rules = Rules.parse(rules)
    detections = detections.without_masks()
    evidence = Evidence(detections, rules, spec.tag)
    verdict = Verdict(spec, detections, rules, tuple(find(spec, evidence, exact=False)))
    verdict.__dict__["_evidence"] = evidence
    return verdict
