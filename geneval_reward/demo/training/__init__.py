"""Train the packaged pocket model from the packaged detector's rewards, and tell what came of it; `geneval-reward demo` shows it.

Needs the extras `lightning`, `diffusers` and, for the page, `report`.
"""

from geneval_reward.demo.training.clock import Progress
from geneval_reward.demo.training.run import Pair, TrainingDemo, train_pocket
from geneval_reward.demo.training.settings import LAUNCH_LINES, Method, Settings, settings_for

__all__ = ["LAUNCH_LINES", "Method", "Pair", "Progress", "Settings", "TrainingDemo", "settings_for", "train_pocket"]
