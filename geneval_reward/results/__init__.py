"""Results files: one JSON line per image, readable by the benchmark's own summary script."""

from geneval_reward.results.columns import CutLine, Results
from geneval_reward.results.generator_notes import GeneratorNotes
from geneval_reward.results.reader import read_results
from geneval_reward.results.record import SCHEMA
from geneval_reward.results.row import FailedImage, ResultRow, RunIdentity
from geneval_reward.results.writer import ResultWriter

__all__ = [
    "SCHEMA",
    "CutLine",
    "FailedImage",
    "GeneratorNotes",
    "ResultRow",
    "ResultWriter",
    "Results",
    "RunIdentity",
    "read_results",
]
