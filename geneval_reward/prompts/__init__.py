"""What is asked: prompt records, the official suite, training prompts."""

from geneval_reward.prompts.spec import Exclude, Include, Position, PromptSpec, class_id
from geneval_reward.prompts.vocabulary import CLASS_IDS, CLASS_NAMES, COLOR_IDS, COLORS, RELATIONS, TAGS

__all__ = [
    "CLASS_IDS",
    "CLASS_NAMES",
    "COLORS",
    "COLOR_IDS",
    "RELATIONS",
    "TAGS",
    "Exclude",
    "Include",
    "Position",
    "PromptSpec",
    "class_id",
]
