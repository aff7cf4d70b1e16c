"""Second opinions: questions about a record, judges that answer them, and a metric for translation.

Nothing here is heavy to import; a name's file is loaded when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geneval_reward.judges.answers import Grade, grade_answer
    from geneval_reward.judges.questions import QA, Part, Question, qa_for, questions_of

_HOMES = {
    "Grade": "answers",
    "Part": "questions",
    "QA": "questions",
    "Question": "questions",
    "grade_answer": "answers",
    "qa_for": "questions",
    "questions_of": "questions",
}

__all__ = ["QA", "Grade", "Part", "Question", "grade_answer", "qa_for", "questions_of"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"geneval_reward.judges.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'geneval_reward.judges' has no attribute {name!r}")
