"""`GenEvalCallback`: the GenEval score as a curve while a model trains."""

from geneval_reward.callback.geneval import GenEvalCallback
from geneval_reward.callback.round import Timings

__all__ = ["GenEvalCallback", "Timings"]
