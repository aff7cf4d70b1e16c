"""Sweeps: generate and score over grids of generator arguments, to find which settings are worth their time."""

from geneval_reward.study.sweep.grid import Cell, make_cells, parse_axis, read_config
from geneval_reward.study.sweep.run import Sweep, SweepRunner, choose_best_of
from geneval_reward.study.sweep.selection import Selection, select_best
from geneval_reward.study.sweep.table import SweepRow, SweepTable, sweep_table
from geneval_reward.study.sweep.timing import Timing

__all__ = [
    "Cell",
    "Selection",
    "Sweep",
    "SweepRow",
    "SweepRunner",
    "SweepTable",
    "Timing",
    "choose_best_of",
    "make_cells",
    "parse_axis",
    "read_config",
    "select_best",
    "sweep_table",
]
