"""The GenEval score as a curve while a model trains: `GenEvalCallback` for Lightning, `score_model` for any other loop."""

from typing import TYPE_CHECKING, Any

from geneval_reward.callback.round import Timings
from geneval_reward.callback.standalone import score_model

if TYPE_CHECKING:
    from geneval_reward.callback.geneval import GenEvalCallback

__all__ = ["GenEvalCallback", "Timings", "score_model"]


def __getattr__(name: str) -> Any:
    # Lightning is needed for the callback alone.
    if name != "GenEvalCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from geneval_reward.callback.geneval import GenEvalCallback

    globals()[name] = GenEvalCallback
    return GenEvalCallback
