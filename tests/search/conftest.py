"""A toy generator: a candidate is a number, a step adds noise to it, and the reward reads it from the picture."""

from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np
import pytest

from geneval_reward.generate import seed_for
from geneval_reward.generate.callable import as_pil
from geneval_reward.reward import RewardBatch


@dataclass(frozen=True)
class Numbers:
    values: np.ndarray
    seeds: tuple


class ToySteps:
    """Each step adds one standard normal number of the candidate's seed."""

    def __init__(self, n_steps=5, stochastic=True):
        self.n_steps, self.stochastic = n_steps, stochastic
        self.sizes = []

    def start(self, prompt, seeds):
        return Numbers(np.array([np.random.default_rng(seed).normal() for seed in seeds]), tuple(seeds))

    def advance(self, state, step):
        self.sizes.append(len(state.seeds))
        scale = 1.0 if self.stochastic else 0.0
        noise = [np.random.default_rng(seed_for(seed, "step", step)).normal() for seed in state.seeds]
        return replace(state, values=state.values + scale * np.array(noise))

    def preview(self, state):
        return [picture(value) for value in state.values]

    def features(self, state):
        return state.values[:, None]

    def take(self, state, rows, seeds):
        return Numbers(state.values[list(rows)], tuple(seeds))

    def images(self, state):
        return self.preview(state)

    def cost(self, step, n):
        return n / self.n_steps


def picture(value):
    """A picture whose pixels hold a number of [-20, 20]."""
    level = int(np.clip((value + 20) / 40, 0, 1) * (2**24 - 1))
    return np.full((8, 8, 3), [level >> 16, level >> 8 & 255, level & 255], np.uint8)


def number(image):
    red, green, blue = (int(channel) for channel in np.asarray(as_pil([image], 1)[0])[0, 0])
    return ((red << 16) + (green << 8) + blue) / (2**24 - 1) * 40 - 20


class ToyReward:
    """The number in the picture, or what `change` makes of it."""

    def __init__(self, change=lambda value: value):
        self.change, self.calls = change, []

    def submit(self, images, specs, /):
        future = Future()
        self.calls.append(len(images))
        try:
            rewards = [self.change(number(image)) for image in images]
            future.set_result(RewardBatch(rewards, [None] * len(images), [None] * len(images)))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future

    def close(self):
        pass


@pytest.fixture
def toy():
    return ToySteps()


@pytest.fixture
def make_toy():
    return ToySteps


@pytest.fixture
def make_reward():
    return ToyReward


@pytest.fixture
def read_number():
    return number
