"""verl-omni: one sample a call by keyword, many coroutines at a time."""

import asyncio
import inspect
import json
import pickle
import threading

import pytest
import torch

from geneval_reward.errors import ImageError, SpecError
from geneval_reward.reward.trainers import verl_omni
from geneval_reward.reward.trainers.verl_omni import SampleReward, compute_score

BENCH, COW = "a photo of a bench", "a photo of a cow"
RECORD = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "crimson"}
BRIGHT, DARK = torch.full((3, 16, 16), 255, dtype=torch.uint8), torch.zeros(3, 16, 16, dtype=torch.uint8)


async def run_single(function, image, ground_truth, extra_info=None, **more):
    """As `VisualRewardManager.run_single` calls, and what it makes of the answer."""
    extra_info = {} if extra_info is None else extra_info
    extra_info |= {"num_turns": None, "rollout_reward_scores": {}}
    result = await function(
        data_source="geneval", solution_image=image, ground_truth=ground_truth, extra_info=extra_info, **more
    )
    return {"reward_score": result["score"], "reward_extra_info": {k: v for k, v in result.items() if k != "score"}}


def together(*calls):
    async def gathered():
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(gathered())


@pytest.fixture
def counted(make_reward):
    """A reward function and the sizes of the batches that reach the scorer."""
    reward, sizes = make_reward("partial"), []
    score = reward.score
    reward.score = lambda images, *rest: (sizes.append(len(images)), score(images, *rest))[1]
    return SampleReward(reward, max_wait=0.2), sizes


def test_many_coroutines_become_few_batches(counted):
    function, sizes = counted
    images = [BRIGHT, DARK] * 32
    results = together(*(run_single(function, image, BENCH) for image in images))
    assert [result["reward_score"] for result in results] == [1.0, 0.0] * 32
    assert sizes == [32, 32]
    assert results[0]["reward_extra_info"]["official"] == 1.0


def test_a_lone_sample_waits_no_longer_than_it_must(make_reward):
    [result] = together(run_single(SampleReward(make_reward(), max_wait=0.01), BRIGHT, BENCH))
    assert result["reward_score"] == 1.0


@pytest.mark.parametrize(
    ("ground_truth", "extra_info"),
    [
        (RECORD, {}),
        (json.dumps(RECORD), {}),
        ("crimson", dict(RECORD)),
        ("crimson", {"metadata": RECORD, "split": "train"}),
        ("", {"metadata": json.dumps(RECORD)}),
        ("crimson", {"tag": "colors", "include": RECORD["include"], "exclude": None, "index": 3}),
    ],
)
def test_where_the_record_may_stand(counted, ground_truth, extra_info):
    results = together(*(run_single(counted[0], image, ground_truth, dict(extra_info)) for image in (BRIGHT, DARK)))
    assert [result["reward_score"] for result in results] == [1.0, 0.0]


def test_errors_belong_to_their_sample(counted):
    video, latent = torch.zeros(5, 3, 16, 16, dtype=torch.uint8), torch.full((3, 16, 16), -1.0)
    results = together(
        run_single(counted[0], BRIGHT, BENCH),
        run_single(counted[0], latent, BENCH),
        run_single(counted[0], BRIGHT, "what is this"),
        run_single(counted[0], video, BENCH),
        run_single(counted[0], BRIGHT, None),
        run_single(counted[0], DARK, BENCH),
    )
    assert [result["reward_score"] for result in (results[0], results[5])] == [1.0, 0.0]
    assert [type(result) for result in results[1:5]] == [ImageError, SpecError, ImageError, SpecError]
    assert "what is this" in str(results[2])
    assert "ground_truth: expected a prompt or a record" in str(results[4])


def test_a_batch_of_nothing_but_errors_gives_each_its_own(counted):
    results = together(run_single(counted[0], BRIGHT, "this"), run_single(counted[0], BRIGHT, "that"))
    assert ["'this'" in str(results[0]), "'that'" in str(results[1])] == [True, True]
    function = SampleReward(counted[0].reward, unscorable=0.0)
    assert (
        together(run_single(function, BRIGHT, "this"), run_single(function, BRIGHT, None))
        == [{"reward_score": 0.0, "reward_extra_info": {}}] * 2
    )


def test_a_scorer_that_fails_fails_its_samples(make_reward):
    reward = make_reward()
    reward.score = lambda *args: 1 / 0
    results = together(*(run_single(SampleReward(reward), BRIGHT, BENCH) for _ in range(3)))
    assert [type(result) for result in results] == [ZeroDivisionError] * 3


def test_the_coroutine_and_the_batcher_pass_event_loops(counted):
    """A batcher that is bound to a loop would hang in the second one, or in another thread's."""
    function, _ = counted
    for _ in range(2):
        assert together(run_single(function, BRIGHT, BENCH))[0]["reward_score"] == 1.0
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.extend(together(*(run_single(function, BRIGHT, BENCH) for _ in range(4))))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [result["reward_score"] for result in found] == [1.0] * 16


def test_verl_omni_sees_a_coroutine_function(make_reward):
    function = SampleReward(make_reward())
    for each in (function, compute_score):
        assert inspect.iscoroutinefunction(each)
        parameters = inspect.signature(each).parameters
        assert list(parameters)[:4] == ["data_source", "solution_image", "ground_truth", "extra_info"]
        assert any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())


def test_the_module_level_function_loads_once(make_reward, monkeypatch):
    made = []

    def named(backend, credit, device):
        made.append((backend, credit, device))
        return make_reward(credit)

    monkeypatch.setattr(verl_omni, "GenEvalReward", named)
    monkeypatch.setattr(verl_omni, "_SHARED", {})
    router = {"reward_router_address": None, "reward_model_tokenizer": None, "model_name": "x"}
    results = together(*(run_single(compute_score, image, BENCH, **router) for image in (BRIGHT, DARK) * 8))
    assert [result["reward_score"] for result in results] == [1.0, 0.0] * 8
    together(run_single(compute_score, BRIGHT, BENCH, credit="strict", device="cpu"))
    assert made == [("paper", "official", "auto"), ("paper", "strict", "cpu")]


def test_it_pickles(make_reward):
    first = SampleReward(make_reward("dense"), max_batch=3, unscorable=0.5)
    together(run_single(first, BRIGHT, BENCH))
    copied = pickle.loads(pickle.dumps(first))
    assert (copied.batcher.max_batch, copied.unscorable) == (3, 0.5)
    results = together(run_single(copied, BRIGHT, BENCH), run_single(copied, BRIGHT, COW))
    assert [result["reward_score"] > 0.5 for result in results] == [True, False]
    copied.reward.close()
