"""The calls of Flow-GRPO's and DiffusionNFT's trainers, replayed: types, threads, gathering, evaluation's means."""

import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from geneval_reward.errors import GenEvalError
from geneval_reward.prompts import TAGS
from geneval_reward.reward import GenEvalReward
from geneval_reward.reward.trainers.flow_grpo import GenEvalScores, MultiScore, PlainScore, geneval_score

BENCH, COW = "a photo of a bench", "a photo of a cow"
RECORDS = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": BENCH},
    {
        "tag": "counting",
        "include": [{"class": "cup", "count": 2}],
        "exclude": [{"class": "cup", "count": 3}],
        "prompt": "two",
    },
    {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "a photo of a red cup"},
]
PROMPTS = [record["prompt"] for record in RECORDS]


def trainer_calls(reward_fn, images, only_strict):
    """As their training loops do: in a pool of eight, results gathered as tensors."""
    with ThreadPoolExecutor(max_workers=8) as executor:
        futures = [executor.submit(reward_fn, images, PROMPTS, RECORDS, only_strict=only_strict) for _ in range(16)]
        results = [future.result() for future in futures]
    gathered = []
    for rewards, meta in results:
        assert meta == {}
        gathered.append({key: torch.as_tensor(value).float() for key, value in rewards.items()})
    assert all(column.shape == (len(images),) for result in gathered for column in result.values())
    assert all(torch.equal(gathered[0][key], other[key]) for other in gathered[1:] for key in gathered[0])
    return gathered[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, np.uint8])
@pytest.mark.parametrize("only_strict", [True, False])
def test_a_whole_reward_fn(dtype, only_strict, make_reward, pixels):
    columns = trainer_calls(MultiScore(make_reward("partial")), pixels(1, 1, 1, dtype=dtype), only_strict)
    assert columns["avg"].tolist() == columns["geneval_partial"].tolist() == [1.0, 0.5, 1.0]
    assert columns["accuracy"].tolist() == columns["strict_accuracy"].tolist() == [1.0, 0.0, 1.0]
    assert not any((column == -10).any() for column in columns.values())


def their_multi_score(geneval):
    """The shape of their `multi_score`: the factory's code is looked at, then the parts are weighed."""
    factories = {"geneval": geneval, "other": lambda: lambda images, prompts, metadata: (np.ones(len(images)), {})}
    parts = {
        name: factory("cpu") if "device" in factory.__code__.co_varnames else factory()
        for name, factory in factories.items()
    }

    def reward_fn(images, prompts, metadata, ref_images=None, only_strict=True):
        details = {}
        details["geneval"], details["accuracy"], details["strict_accuracy"], groups, strict_groups = parts["geneval"](
            images, prompts, metadata, only_strict
        )
        details |= {f"{key}_accuracy": value for key, value in groups.items()}
        details |= {f"{key}_strict_accuracy": value for key, value in strict_groups.items()}
        details["other"] = parts["other"](images, prompts, metadata)[0]
        details["avg"] = [0.5 * a + 0.5 * b for a, b in zip(details["geneval"], details["other"], strict=True)]
        return details, {}

    return reward_fn


def test_the_five_values_within_their_multi_score(monkeypatch, make_reward, pixels):
    class Named(GenEvalReward):  # GenEvalReward("paper", ...) without the weights of `paper`
        def __init__(self, backend, credit, device):
            assert (backend, device) == ("paper", "cpu")
            super().__init__(make_reward().scorer, credit)

    monkeypatch.setattr("geneval_reward.reward.trainers.flow_grpo.GenEvalReward", Named)
    columns = trainer_calls(their_multi_score(geneval_score), pixels(1, 1, 1), False)
    assert columns["geneval"].tolist() == [1.0, 0.5, 1.0]  # the public rule for one cup of two
    assert columns["avg"].tolist() == [1.0, 0.75, 1.0]
    means = {key: float(value[value != -10].mean()) if (value != -10).any() else None for key, value in columns.items()}
    assert means["single_object_accuracy"] == means["colors_strict_accuracy"] == 1.0
    assert means["counting_accuracy"] == 0.0
    assert means["position_accuracy"] is None
    assert {key for key in means if key.endswith("_strict_accuracy")} == {f"{tag}_strict_accuracy" for tag in TAGS}
    assert means["accuracy"] == pytest.approx(2 / 3)


def test_the_factory_is_a_plain_function():
    assert inspect.isfunction(geneval_score)
    assert "device" in geneval_score.__code__.co_varnames
    assert not geneval_score("cpu").reward.loaded


@pytest.mark.parametrize("view", [MultiScore, PlainScore, GenEvalScores])
def test_each_has_the_attributes_of_a_function(view, make_reward):
    function = view(make_reward("strict"))
    assert function.__name__ == "geneval_strict"
    assert {"images", "prompts"} <= set(function.__code__.co_varnames)
    assert list(inspect.signature(function).parameters)[:2] == ["images", "prompts"]
    assert not inspect.iscoroutinefunction(function)


@pytest.mark.parametrize("view", [MultiScore, PlainScore, GenEvalScores])
def test_each_pickles_and_copies(view, make_reward, pixels):
    first = view(make_reward("dense"), unscorable=0.25)
    for function in (first, pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert str(function(pixels(1, 0), [BENCH, BENCH], [{}, {}])) == str(first(pixels(1, 0), [BENCH, BENCH]))
        assert function.unscorable == 0.25


def test_a_plain_score_is_ddpo_s(make_reward, pixels):
    scores, meta = PlainScore(make_reward())(pixels(1, 0, dtype=np.uint8), (BENCH, BENCH), [{}, {}])
    assert scores.dtype == np.float64
    assert scores.tolist() == [1.0, 0.0]
    assert meta == {}


class TestNoReward:
    """These trainers have no None."""

    images = torch.stack([torch.ones(3, 16, 16), torch.full((3, 16, 16), float("nan")), torch.zeros(3, 16, 16)])

    @pytest.mark.parametrize("view", [MultiScore, PlainScore, GenEvalScores])
    def test_it_is_an_error_that_names_the_sample(self, view, make_reward):
        with pytest.raises(
            GenEvalError, match=r"none for images\[1\] \(images\[1\]: expected finite values.*unscorable="
        ):
            view(make_reward())(self.images, [BENCH] * 3, [{}] * 3)

    def test_or_a_number_if_told_so_and_minus_ten_in_the_five_values_only(self, make_reward):
        scores, rewards, strict, groups, _ = GenEvalScores(make_reward(), unscorable=0.5)(self.images, [BENCH] * 3)
        assert scores == [1.0, 0.5, 0.0]
        assert rewards == strict == groups["single_object"] == [1.0, -10.0, 0.0]
        details, _ = MultiScore(make_reward(), unscorable=0.5)(self.images, [BENCH] * 3)
        assert details["avg"] == details["accuracy"] == [1.0, 0.5, 0.0]

    def test_the_five_values_need_verdicts(self, make_reward):
        with pytest.raises(ValueError, match=r"expected a GenEvalReward, whose verdicts say the tags, got MultiScore"):
            GenEvalScores(MultiScore(make_reward()))
