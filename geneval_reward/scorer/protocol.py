"""`Scorer`, the protocol of whatever judges images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from geneval_reward.errors import SpecError
from geneval_reward.judge.rules import Rules
from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.spec import PromptSpec
from geneval_reward.prompts.suite import Prompt
from geneval_reward.prompts.vocabulary import Vocabulary


@runtime_checkable
class Scorer(Protocol):
    """What judges images: every host (metric, reward, callback, service, audit, command line) takes any scorer.

    [`GenEvalScorer`][geneval_reward.GenEvalScorer] judges in this process,
    `geneval_reward.service.client.RemoteScorer` asks a server, and `geneval_reward.ray.RayScorer` a pool of Ray actors. A
    class of your own needs these members and no base class. If it also has an attribute `vocabulary`
    (`geneval_reward.prompts.Vocabulary`), hosts that know all records beforehand refuse those with other words before they
    score, and a reward gives None to the records that made `score` raise a `SpecError`.
    """

    @property
    def name(self) -> str:
        """Name of the scorer in results and logs, for example `lite`."""
        ...

    @property
    def rules(self) -> Rules:
        """The rules by which the verdicts were made."""
        ...

    def score(self, images: Any, specs: Sequence[Prompt]) -> list[Verdict]:
        """Judge images; returns one verdict per image, in order.

        Args:
            images: What `geneval_reward.vision.images.as_images` takes.
            specs: One spec, record, JSON record or known prompt text per image.

        Raises:
            SpecError: If a record names what the scorer does not know.
            ScoringError: If some images could not be scored and the others could; it carries their verdicts.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What decides the answers besides the rules, JSON-serialisable."""
        ...

    def to(self, device: torch.device | str) -> Scorer:
        """Move the weights if they are in this process; returns the scorer."""
        ...


def fingerprint_id(scorer: Scorer) -> str:
    """Twelve hex digits of a scorer's `fingerprint()`; results with equal ones are comparable."""
    return hashlib.sha256(json.dumps(scorer.fingerprint(), sort_keys=True).encode()).hexdigest()[:12]


def refusal(scorer: Scorer, spec: PromptSpec) -> SpecError | None:
    """Why a scorer cannot judge a record, by name of the class or colour that it does not know; None if it says nothing."""
    vocabulary: Vocabulary | None = getattr(scorer, "vocabulary", None)
    problem = None if vocabulary is None else vocabulary.problem(spec)
    return None if problem is None else SpecError(problem)
