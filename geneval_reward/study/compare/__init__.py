"""Comparison of results files on the same prompts and noise, with intervals. What is not comparable is refused."""

from geneval_reward.study.compare.align import ALLOWABLE, Problem
from geneval_reward.study.compare.table import Comparison, Pair, Run, compare_files, compare_results, conclusion

__all__ = ["ALLOWABLE", "Comparison", "Pair", "Problem", "Run", "compare_files", "compare_results", "conclusion"]
