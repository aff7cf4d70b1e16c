"""Results files compared: on the same prompts and noise, with intervals, or not at all."""

from geneval_reward.study.compare.align import ALLOWABLE, Problem
from geneval_reward.study.compare.table import Comparison, Pair, Run, compare_files, compare_results, conclusion

__all__ = ["ALLOWABLE", "Comparison", "Pair", "Problem", "Run", "compare_files", "compare_results", "conclusion"]
