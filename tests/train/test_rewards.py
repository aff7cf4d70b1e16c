import math
import threading
from types import SimpleNamespace

import pytest
import torch

from geneval_reward.callback import GenEvalCallback
from geneval_reward.prompts import official_suite
from geneval_reward.reward import CompositeReward, GenEvalReward
from geneval_reward.rl import gdpo_advantages, group_advantages
from geneval_reward.testing import FakeDetector, scorer_for
from geneval_reward.train.rewards import FunctionReward, RewardQueue, Scores, find_reward

SCORES = Scores(
    rewards=[1.0, 0.0, 1.0, math.nan, math.nan, math.nan],
    groups=[0, 0, 1, 1, 0, 1],
    tags=["colors", "colors", "counting", "counting", "colors", "counting"],
    credits={"official": [1.0, 0.0, 1.0] + [math.nan] * 3, "partial": [1.0, 0.5, 1.0] + [math.nan] * 3},
)
SPECS = [next(spec for spec in official_suite() if spec.tag == tag) for tag in ("single_object", "counting")]
IMAGES = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)


def trainer(*callbacks):
    return SimpleNamespace(callbacks=list(callbacks), strategy=SimpleNamespace(root_device=torch.device("cpu")))


class TestFindReward:
    def test_a_callback_gives_its_own_scorer(self):
        scorer = scorer_for(FakeDetector({}))
        callback = GenEvalCallback(scorer, prompts=SPECS, every_n_epochs=1)
        reward = find_reward(None, "strict", trainer(callback))
        assert reward.scorer is scorer
        assert reward.credit == "strict"

    def test_nothing_to_take_it_from(self):
        with pytest.raises(ValueError, match="got none and no GenEvalCallback"):
            find_reward(None, "official", trainer())

    def test_a_function_becomes_a_reward_and_a_reward_stays(self):
        reward = GenEvalReward(scorer_for(FakeDetector({})))
        assert find_reward(reward, "official", trainer()) is reward
        assert isinstance(find_reward(lambda **_: [], "official", trainer()), FunctionReward)
        assert isinstance(find_reward("argparse:Namespace", "official", trainer()), FunctionReward)

    @pytest.mark.parametrize(
        ("reward", "credit", "message"),
        [
            ("heavy", "official", "reward: expected lite"),
            (3, "official", "got int"),
            (len, {"official": 1.0}, "the name of one credit for a function"),
        ],
    )
    def test_wrong_use_is_refused(self, reward, credit, message):
        with pytest.raises(ValueError, match=message):
            find_reward(reward, credit, trainer())


class TestQueue:
    def test_specs_travel_as_specs(self):
        seen = []

        class Own:
            def submit(self, images, specs, /):
                seen.extend(specs)
                return FunctionReward(lambda images, prompts, metadata: [0.5] * len(images)).submit(images, specs)

            def close(self):
                pass

        queue = RewardQueue(Own())
        queue.put([1, 0], IMAGES, SPECS)
        assert queue.rewards(3)[0][:2] == [0.5, 0.5]
        assert seen == SPECS

    def test_weights_of_credits(self):
        reward = GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.8]]})))
        queue = RewardQueue(reward, {"official": 1.0, "partial": 3.0})
        queue.put([0, 1], IMAGES, SPECS)
        rewards, credits = queue.rewards(2)
        assert rewards == [(o + 3 * p) / 4 for o, p in zip(credits["official"], credits["partial"], strict=True)]
        queue = RewardQueue(reward, {"speed": 1.0})
        queue.put([0], IMAGES[:1], SPECS[:1])
        with pytest.raises(RuntimeError, match="credits that the reward gives, got speed"):
            queue.rewards(1)

    def test_a_function_runs_in_a_thread_of_its_own(self):
        threads = []
        reward = FunctionReward(
            lambda images, prompts, metadata: threads.append(threading.current_thread()) or [1, None]
        )
        queue = RewardQueue(reward)
        queue.put([0, 1], IMAGES, SPECS)
        rewards, _ = queue.rewards(2)
        assert rewards[0] == 1.0
        assert math.isnan(rewards[1])
        assert threads[0] is not threading.current_thread()
        reward.close()


class TestScores:
    def test_gdpo_takes_credits_apart_and_leaves_out_what_has_none(self):
        weights = {"official": 1.0, "partial": 2.0}
        found = SCORES.gdpo_advantages(weights, None, clip=5.0)
        expected, _ = gdpo_advantages(SCORES.credits, SCORES.groups, weights=weights)
        assert torch.equal(found.advantages, expected.advantages)
        assert found.weight.tolist() == [1, 1, 1, 0, 0, 0]
        assert found.advantages[0] > 0 > found.advantages[1]

    def test_gdpo_asks_a_composite_for_its_own_weights(self):
        composite = CompositeReward({"official": lambda images: images})
        found = SCORES.gdpo_advantages("official", composite, clip=5.0)
        assert found.advantages[0] > 0 > found.advantages[1]

    def test_gdpo_of_one_reward_is_refused(self):
        with pytest.raises(ValueError, match="for gdpo, got one reward; use global"):
            SCORES.gdpo_advantages("official", None, clip=5.0)
        with pytest.raises(ValueError, match="credits that the reward gives, got dense"):
            SCORES.gdpo_advantages({"dense": 1.0}, None, clip=5.0)

    def test_metrics_leave_out_what_is_missing(self):
        metrics = SCORES.metrics()
        assert metrics["reward/colors"] == 0.5
        assert metrics["reward/counting"] == 1.0
        assert metrics["reward/partial"] == pytest.approx(2.5 / 3)
        assert metrics["mean_reward_100"] == 0.75
        assert metrics["mean_reward_50"] == 1.0

    def test_the_best_share_has_its_ties_as_released(self):
        """The released trainers average what is at least the percentile: here 0.75 twice, where the top quarter is one."""
        rewards = [0.0, 0.75, 0.75, 0.25]
        metrics = Scores(rewards, [0] * 4, ["colors"] * 4, {}).metrics()
        assert metrics["mean_reward_50"] == 0.75
        assert metrics["mean_reward_25"] == 0.75
        # Of [0, .25, .75, 1] the 75th percentile lies between the last two, of [0, 1, 1, 1] all three are at least 1.
        scores = Scores([0.0, 0.25, 0.5, 0.5, 0.5, 1.0, 0.0, 0.5], [0] * 8, ["colors"] * 8, {})
        assert scores.metrics()["mean_reward_50"] == pytest.approx((0.5 * 4 + 1.0) / 5)  # the best four alone: .625
        assert group_advantages(scores.rewards, scores.groups).num_groups == 1
