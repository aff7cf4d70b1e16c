"""What judges images: the `Scorer` protocol that every host takes, and `GenEvalScorer`, which joins vision and judge."""

from geneval_reward.scorer.geneval import GenEvalScorer
from geneval_reward.scorer.lazy import LazyScorer
from geneval_reward.scorer.protocol import Scorer, fingerprint_id, refusal

__all__ = ["GenEvalScorer", "LazyScorer", "Scorer", "fingerprint_id", "refusal"]
