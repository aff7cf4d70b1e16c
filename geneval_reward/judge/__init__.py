"""Is it there: rules over detections, pure numpy."""

from geneval_reward.judge.clauses import Finding
from geneval_reward.judge.credits import CREDITS
from geneval_reward.judge.detections import Detections
from geneval_reward.judge.rules import Rules
from geneval_reward.judge.verdict import Verdict, judge

__all__ = ["CREDITS", "Detections", "Finding", "Rules", "Verdict", "judge"]
