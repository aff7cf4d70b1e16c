"""What is asked: prompt records, the official suite, training prompts, and the grammar that names any of them."""

from geneval_reward.prompts.pairs import (
    counterfactual,
    counterfactual_pairs,
    counterfactual_prompts,
    mirrored,
)
from geneval_reward.prompts.read import Prompts, read_prompts
from geneval_reward.prompts.spec import Exclude, Include, Position, PromptSpec
from geneval_reward.prompts.suite import SUITE_SHA256, official_suite, resolve, suite_by_prompt
from geneval_reward.prompts.training import DEFAULT_MIX, iter_training_prompts, meaning, training_prompts
from geneval_reward.prompts.vocabulary import (
    CLASS_IDS,
    CLASS_NAMES,
    COLOR_IDS,
    COLORS,
    RELATIONS,
    TAGS,
    Vocabulary,
    class_id,
)

__all__ = [
    "CLASS_IDS",
    "CLASS_NAMES",
    "COLORS",
    "COLOR_IDS",
    "DEFAULT_MIX",
    "RELATIONS",
    "SUITE_SHA256",
    "TAGS",
    "Exclude",
    "Include",
    "Position",
    "PromptSpec",
    "Prompts",
    "Vocabulary",
    "class_id",
    "counterfactual",
    "counterfactual_pairs",
    "counterfactual_prompts",
    "iter_training_prompts",
    "meaning",
    "mirrored",
    "official_suite",
    "read_prompts",
    "resolve",
    "suite_by_prompt",
    "training_prompts",
]
