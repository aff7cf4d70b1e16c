"""The GenEval score as a metric, a reward and a Lightning callback.

The names below are the package's front door; each is imported when it is first used, so that `import geneval_reward`
stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from geneval_reward.version import __version__ as __version__

_HOMES = {
    "CREDITS": "geneval_reward.judge",
    "Detections": "geneval_reward.judge",
    "GenEvalCallback": "geneval_reward.callback",
    "GenEvalReward": "geneval_reward.reward",
    "GenEvalScore": "geneval_reward.metric",
    "GenEvalScorer": "geneval_reward.scorer",
    "PromptSpec": "geneval_reward.prompts",
    "Rules": "geneval_reward.judge",
    "Scorer": "geneval_reward.scorer",
    "Verdict": "geneval_reward.judge",
    "geneval_score": "geneval_reward.metric",
    "official_suite": "geneval_reward.prompts",
    "training_prompts": "geneval_reward.prompts",
}

if TYPE_CHECKING:
    from geneval_reward.callback import GenEvalCallback
    from geneval_reward.judge import CREDITS, Detections, Rules, Verdict
    from geneval_reward.metric import GenEvalScore, geneval_score
    from geneval_reward.prompts import PromptSpec, official_suite, training_prompts
    from geneval_reward.reward import GenEvalReward
    from geneval_reward.scorer import GenEvalScorer, Scorer

__all__ = [
    "CREDITS",
    "Detections",
    "GenEvalCallback",
    "GenEvalReward",
    "GenEvalScore",
    "GenEvalScorer",
    "PromptSpec",
    "Rules",
    "Scorer",
    "Verdict",
    "geneval_score",
    "official_suite",
    "training_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'geneval_reward' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
