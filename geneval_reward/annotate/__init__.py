"""Data sets annotated by rewards: a table with a row per sample and a column per reward, for training that reads them."""

from geneval_reward.annotate.rewards import parse_rewards
from geneval_reward.annotate.run import AnnotationRun, annotate
from geneval_reward.annotate.table import Annotations, read_annotations

__all__ = ["AnnotationRun", "Annotations", "annotate", "parse_rewards", "read_annotations"]
