"""Pictures and a reward that knows them: a bright picture has a bench and a red cup, a dark one has nothing."""

import numpy as np
import pytest
import torch

from geneval_reward.reward import GenEvalReward
from geneval_reward.testing import FakeDetector, FakeVerifier, scorer_for


def _see(image):
    return {"bench": [[1, 1, 9, 9, 0.95]], "cup": [[1, 1, 9, 9, 0.95]]} if image.float().mean() > 127 else {}


def _make_scorer():
    return scorer_for(FakeDetector(_see), FakeVerifier("red"))


@pytest.fixture
def make_reward():
    """`make_reward(credit)`: lazy and picklable, as a reward by name is."""
    made = []

    def make(credit="official"):
        made.append(GenEvalReward(_make_scorer, credit))
        return made[-1]

    yield make
    for reward in made:
        reward.close()


@pytest.fixture
def pixels():
    """`pixels(1, 0)`: a bright and a dark picture, `(n, 3, 16, 16)` in [0, 1], or uint8 `(n, 16, 16, 3)`."""

    def make(*bright, dtype=torch.float32):
        batch = torch.tensor(bright, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
        if dtype == np.uint8:
            return (batch * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return batch.to(dtype)

    return make
