"""UniRL's trainer with a local backend: requests in, a response out, failures marked and never a 0."""

import math
import sys
import types
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from geneval_reward.errors import GenEvalError, UsageError
from geneval_reward.reward import GenEvalReward
from geneval_reward.reward.trainers.unirl import UniRLLocalReward
from geneval_reward.testing import FakeDetector, scorer_for

BENCH, COW = "a photo of a bench", "a photo of a cow"
BRIGHT = Image.new("RGB", (16, 16), "white")


@dataclass
class RewardResponse:
    rewards: list
    component_rewards: dict = field(default_factory=dict)
    successes: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    compute_time: float = 0.0


@pytest.fixture
def backend(monkeypatch):
    for name in ("unirl", "unirl.types", "unirl.types.reward"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["unirl.types.reward"].RewardResponse = RewardResponse
    return UniRLLocalReward(GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]}))))


def request(images, prompts, metadata=None, new=True):
    asked = {"original_prompt": SimpleNamespace(texts=prompts)} if new else {"prompts": prompts}
    return SimpleNamespace(images=images, metadata=metadata, **asked)


@pytest.mark.parametrize("new", [True, False])
def test_rewards_in_order(backend, new):
    response = backend.compute_rewards(request([BRIGHT, BRIGHT], [BENCH, COW], new=new))
    assert response.rewards == [1.0, 0.0]
    assert response.successes == [True, True]
    assert response.component_rewards["partial"] == [1.0, 0.0]


def test_a_record_goes_before_the_prompt(backend):
    record = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "own words"}
    response = backend.compute_rewards(request([BRIGHT, BRIGHT], ["own words", COW], [record, None]))
    assert response.rewards == [1.0, 0.0]


def test_a_failure_is_marked(backend):
    broken = np.full((16, 16, 3), np.nan)
    response = backend.compute_rewards(request([BRIGHT, broken], [BENCH, BENCH]))
    assert response.rewards[0] == 1.0
    assert math.isnan(response.rewards[1])
    assert response.successes == [True, False]
    assert "images[1]" in response.errors[1]
    with pytest.raises(GenEvalError):
        backend.compute_rewards(request([broken], [BENCH]))


def test_what_the_service_asks_for(backend):
    assert backend.is_available()
    backend.offload()
    backend.onload()
    backend.dispose()


def test_wrong_uses(backend):
    with pytest.raises(UsageError, match="expected generated images"):
        backend.compute_rewards(request(None, [BENCH]))
    with pytest.raises(UsageError, match="device: expected no options"):
        UniRLLocalReward(backend.reward, device="cpu")


def test_without_unirl():
    with pytest.raises(ImportError, match="unirl"):
        UniRLLocalReward("lite").compute_rewards(request([BRIGHT], [BENCH]))
