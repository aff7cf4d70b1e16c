"""Second opinions: questions about a record, judges that answer them, and a metric for translation.

The package is light to import: the file behind a name is loaded when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geneval_reward.judges.answers import Grade, grade_answer
    from geneval_reward.judges.load import load_scorer, open_model
    from geneval_reward.judges.local import LocalModel
    from geneval_reward.judges.mt_geneval import MTGenEvalAccuracy, mt_geneval_accuracy
    from geneval_reward.judges.pairwise import Comparison, PairJudge, PairReward
    from geneval_reward.judges.questions import QA, Part, Question, qa_for, questions_of
    from geneval_reward.judges.server import ServerModel
    from geneval_reward.judges.verdict import Answered, AnsweredVerdict
    from geneval_reward.judges.vqa import ImageTextModel, VQAScorer

_HOMES = {
    "Answered": "verdict",
    "AnsweredVerdict": "verdict",
    "Comparison": "pairwise",
    "Grade": "answers",
    "ImageTextModel": "vqa",
    "LocalModel": "local",
    "MTGenEvalAccuracy": "mt_geneval",
    "PairJudge": "pairwise",
    "PairReward": "pairwise",
    "Part": "questions",
    "QA": "questions",
    "Question": "questions",
    "ServerModel": "server",
    "VQAScorer": "vqa",
    "grade_answer": "answers",
    "load_scorer": "load",
    "mt_geneval_accuracy": "mt_geneval",
    "open_model": "load",
    "qa_for": "questions",
    "questions_of": "questions",
}

__all__ = [
    "QA",
    "Answered",
    "AnsweredVerdict",
    "Comparison",
    "Grade",
    "ImageTextModel",
    "LocalModel",
    "MTGenEvalAccuracy",
    "PairJudge",
    "PairReward",
    "Part",
    "Question",
    "ServerModel",
    "VQAScorer",
    "grade_answer",
    "load_scorer",
    "mt_geneval_accuracy",
    "open_model",
    "qa_for",
    "questions_of",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"geneval_reward.judges.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'geneval_reward.judges' has no attribute {name!r}")
