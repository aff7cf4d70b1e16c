"""The numbers that Flow-GRPO's public reward server returns for verdicts, and its detector with red and blue swapped.

Source: yifan123/reward-server `reward_server/gen_eval.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from geneval_reward.judge.verdict import Verdict
from geneval_reward.prompts.vocabulary import TAGS

if TYPE_CHECKING:
    import torch

    from geneval_reward.judge.detections import Detections
    from geneval_reward.scorer import Scorer
    from geneval_reward.vision.protocols import Detector, Wanted

FLOW_GRPO: Final = "flow-grpo"
"""Name of the protocol."""

NOT_THIS_TAG: Final = -10.0
"""The entry of a group's list for an image of another task; the client filters by it."""


def row_of(verdict: Verdict, credit: str) -> bytes:
    """Encode what the reply needs from a verdict as JSON: `tag`, `score`, `correct` and `strict` (which ignores `exclude`)."""
    strict = not any(finding.reason for finding in verdict.strict_findings if finding.kind != "exclude")
    row = {
        "tag": verdict.spec.tag,
        "score": verdict.credit(credit),
        "correct": float(verdict.correct),
        "strict": float(strict),
    }
    return json.dumps(row).encode()


def reply_of(rows: Sequence[dict[str, Any]], *, only_strict: bool) -> dict[str, Any]:
    """Build the public server's reply for a batch, before pickling.

    Args:
        rows: One row from `row_of` per image.
        only_strict: Whether `rewards` and `group_rewards` stay 0, as on the public server, which saves time this way.

    Returns:
        `scores`, `rewards` (official, 0.0 or 1.0) and `strict_rewards` (0.0 or 1.0), lists as long as the batch;
        `group_rewards` and `group_strict_rewards`, one such list per tag with -10.0 for images of other tags.
    """
    tags = [row["tag"] for row in rows]
    rewards = [0.0 if only_strict else row["correct"] for row in rows]
    strict = [row["strict"] for row in rows]

    def by_tag(values: list[float]) -> dict[str, list[float]]:
        return {
            tag: [value if tag == own else NOT_THIS_TAG for own, value in zip(tags, values, strict=True)]
            for tag in TAGS
        }

    return {
        "scores": [row["score"] for row in rows],
        "rewards": rewards,
        "strict_rewards": strict,
        "group_rewards": by_tag(rewards),
        "group_strict_rewards": by_tag(strict),
    }


def with_red_and_blue_swapped(scorer: Scorer) -> Scorer:
    """Return the scorer as the public server runs it, which passes RGB arrays to mmdet although it expects BGR.

    Only detectors with the public server's weights (`paper`, `mmdet`) get red and blue swapped; other scorers are returned
    unchanged. The colour verifier sees the original image, as on the public server.
    """
    from geneval_reward.scorer import GenEvalScorer

    if not isinstance(scorer, GenEvalScorer) or scorer.name not in ("paper", "mmdet"):
        return scorer
    if getattr(scorer.detector, "swap_rb", False):
        return scorer
    return GenEvalScorer(
        _RedBlueSwapped(scorer.detector),  # type: ignore[arg-type]
        scorer.verifier,
        rules=scorer.rules,
        batch_size=scorer.batch_size,
        min_confidence=scorer.min_confidence,
        all_classes=scorer.all_classes,
        name=scorer.name,
    )


@dataclass(eq=False)
class _RedBlueSwapped:
    """A detector whose images have red and blue swapped."""

    detector: Detector
    swap_rb = True

    @property
    def name(self) -> str:
        return self.detector.name

    def detect(self, images: Sequence[torch.Tensor], wanted: Sequence[Wanted]) -> list[Detections]:
        return self.detector.detect([image.flip(0) for image in images], wanted)

    def fingerprint(self) -> dict[str, Any]:
        return {**self.detector.fingerprint(), "swap_rb": True}

    def to(self, device: torch.device | str) -> _RedBlueSwapped:
        self.detector.to(device)
        return self
