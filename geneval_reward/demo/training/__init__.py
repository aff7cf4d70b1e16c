"""Train the packaged pocket model on the packaged detector's rewards and report the result, for `geneval-reward demo`.

It needs the extras `lightning` and `diffusers`, and `report` for the page.
"""

from geneval_reward.demo.training.clock import Progress
from geneval_reward.demo.training.run import Pair, TrainingDemo, train_pocket
from geneval_reward.demo.training.settings import LAUNCH_LINES, Method, Settings, settings_for

__all__ = ["LAUNCH_LINES", "Method", "Pair", "Progress", "Settings", "TrainingDemo", "settings_for", "train_pocket"]
