"""Metric and reward on a scorer of Ray actors."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from geneval_reward import GenEvalScore
from geneval_reward.ray import RayScorer
from geneval_reward.reward import GenEvalReward
from geneval_reward.testing import FakeDetector, scorer_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_workers")]

PROMPTS = ["a photo of a bench", "a photo of a cow"]


def benches():
    """Sees a bench in images whose first value is odd, and cannot judge one whose first value is 200."""

    def found(image):
        if image[0, 0, 0] == 200:
            raise RuntimeError("a broken kernel")
        return {"bench": [[1, 1, 9, 9, 0.8]]} if image[0, 0, 0] % 2 else {}

    return scorer_for(FakeDetector(found), batch_size=4)


def images(values):
    return [torch.full((3, 16, 16), value, dtype=torch.uint8) for value in values]


@pytest.fixture(scope="module")
def scorer(two_workers: None) -> Iterator[RayScorer]:
    scorer = RayScorer(benches, workers=2, start_timeout=300)
    yield scorer
    scorer.close()


def test_reward(scorer):
    reward, local = GenEvalReward(scorer, "partial"), GenEvalReward(benches(), "partial")
    batch, expected = (one.score(images(range(30)), PROMPTS[::-1] * 15) for one in (reward, local))
    assert batch.rewards == expected.rewards
    assert set(batch.rewards) == {0.0, 1.0}
    assert batch.credits() == expected.credits()
    futures = [reward.submit(images([n, n + 1]), [PROMPTS[0]] * 2) for n in range(1, 5)]
    assert [future.result().rewards for future in futures] == [[float(n % 2), float((n + 1) % 2)] for n in range(1, 5)]
    reward.close()


def test_none_for_what_cannot_be_scored(scorer):
    reward = GenEvalReward(scorer)
    batch = [*images([1, 3, 200]), np.full((16, 16, 3), 5.0)]
    found = reward.score(batch, [PROMPTS[0], "a photo of nobody", PROMPTS[0], PROMPTS[0]])
    assert found.rewards == [1.0, None, None, None]
    assert "a broken kernel" in found.errors[2]
    with pytest.raises(ValueError, match="expected at least one sample that can be scored"):
        reward(images([1]), ["a photo of nobody"])


@pytest.mark.filterwarnings("ignore:GenEvalScore. no images for")
def test_metric(scorer):
    metric, local = GenEvalScore(scorer), GenEvalScore(benches())
    for one in (metric, local):
        one.update(images(range(10)), [PROMPTS[0]] * 10)
    assert metric.compute() == local.compute() > 0
