"""Tencent UniRL: items in, one mapping an item out, NaN for what failed."""

import math
import pickle
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from geneval_reward.errors import SpecError
from geneval_reward.judge.verdict import CREDITS
from geneval_reward.reward.trainers.unirl import UniRLScorer, register

BENCH, COW = "a photo of a bench", "a photo of a cow"
RECORD = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "crimson"}
BRIGHT, DARK = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16))
BROKEN = np.full((16, 16, 3), np.nan)


@dataclass(frozen=True)
class ScoreItem:
    history: list
    videos: tuple | None = None
    metadata: dict | None = None


def item(image, text=BENCH, metadata=None):
    return ScoreItem(history=[("an earlier turn", DARK), (text, image)], metadata=metadata)


def served(scorer, items):
    """As the service does with a scorer's answer: every metric there and finite, else an error for that item."""
    answer = scorer.score(items)
    assert len(answer) == len(items)
    results, errors = [], []
    for metrics in answer:
        assert set(scorer.sub_metric_names) <= set(metrics)
        bad = sorted(name for name, value in metrics.items() if not math.isfinite(float(value)))
        results.append(None if bad else metrics["geneval"])
        errors.append(bad)
    return results, errors


def test_the_last_turn_counts_and_metadata_goes_first(make_reward):
    scorer = UniRLScorer(make_reward("partial"))
    items = [
        item(BRIGHT),
        item(DARK),
        item(BRIGHT, COW),
        item(BRIGHT, "scarlet", RECORD),
        item(BRIGHT, BENCH, {"id": 1}),
    ]
    assert served(scorer, items)[0] == [1.0, 0.0, 0.0, 1.0, 1.0]
    assert scorer.score([]) == []
    # The trainer may average or take the greatest of what an item has, so there is one number unless told otherwise.
    assert scorer.score(items[:1]) == [{"geneval": 1.0}]
    told = UniRLScorer(make_reward("partial"), all_credits=True)
    assert set(told.sub_metric_names) == set(told.score(items[:1])[0]) == {"geneval", *CREDITS}
    assert next(iter(told.score(items[:1])[0])) == "geneval"


def test_nan_for_the_item_that_failed(make_reward):
    scorer = UniRLScorer(make_reward())
    results, errors = served(scorer, [item(BRIGHT), item(BROKEN), item(BRIGHT, "what is this"), item(None), item(DARK)])
    assert results == [1.0, None, None, None, 0.0]
    assert errors[1] == ["geneval"]
    assert served(scorer, [item(BROKEN)])[0] == [None]  # even if there is no other


def test_missing_records_are_raised(make_reward):
    """A scorer that gets no record for any item is wired wrongly."""
    with pytest.raises(SpecError, match="what is this"):
        UniRLScorer(make_reward()).score([item(BRIGHT, "what is this")] * 2)


def test_threads_and_pickle(make_reward):
    first = UniRLScorer(make_reward("dense"))
    for scorer in (first, pickle.loads(pickle.dumps(first))):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _, s=scorer: served(s, [item(BRIGHT), item(DARK)])[0], range(16)))
        assert all(high > 0.5 > low for high, low in answers)
        scorer.close()


def test_lifecycle(make_reward, monkeypatch):
    assert not UniRLScorer(make_reward()).supports_offload  # nobody knows where its weights belong
    moves = []
    loaded = make_reward().scorer
    monkeypatch.setattr(type(loaded), "to", lambda self, device: moves.append(str(device)))
    monkeypatch.setattr(type(loaded), "from_pretrained", lambda backend, **options: loaded)
    monkeypatch.setattr("geneval_reward.reward.trainers.unirl.resolve_device", lambda device: device)
    scorer = UniRLScorer("lite", device="cuda:1")
    scorer.offload()
    assert not moves  # nothing is loaded yet
    assert scorer.reward.scorer is loaded
    scorer.offload()
    scorer.onload()
    assert moves == ["cpu", "cuda:1"]
    scorer.drain()
    scorer.close()
    assert scorer.health() == {
        "name": "geneval_reward",
        "version": "1",
        "input_kind": "image",
        "supports_offload": True,
        "supports_grad": False,
    }


def test_made_from_yaml_and_registered(monkeypatch):
    """`cls(**params)` loads no weights; the registry gets the class."""
    scorer = UniRLScorer(backend="lite", credit="strict", device="cpu")
    assert (scorer.reward.credit, scorer.reward.loaded) == ("strict", False)
    with pytest.raises(ValueError, match="device: expected no options beside a ready reward"):
        UniRLScorer(scorer.reward, device="cpu")
    with pytest.raises(ValueError, match="credit: expected one of"):
        UniRLScorer(backend="lite", credit="best")
    known = {}
    registry = types.ModuleType("reward_service.scorers.registry")
    registry.register = known.__setitem__
    for name, module in {
        "reward_service": types.ModuleType("reward_service"),
        "reward_service.scorers": types.ModuleType("reward_service.scorers"),
        "reward_service.scorers.registry": registry,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    register()
    assert known == {"geneval_reward": UniRLScorer}
