"""CompositeReward: sums, missing values, names in errors, concurrency, GDPO, and life within a trainer."""

import asyncio
import copy
import math
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geneval_reward.errors import GenEvalError, ImageError, SpecError
from geneval_reward.prompts import official_suite
from geneval_reward.reward import CompositeReward, GenEvalReward
from geneval_reward.reward.trainers import AsyncTRLReward, MultiScore, PlainScore, TRLReward, UniRLScorer
from geneval_reward.rl import gdpo_advantages
from geneval_reward.testing import FakeDetector, scorer_for
from geneval_reward.train.rewards import RewardQueue

BENCH, COW = "a photo of a bench", "a photo of a cow"
IMAGE = np.zeros((16, 16, 3), np.uint8)
BROKEN = np.full((16, 16, 3), np.nan)


def make_scorer():
    return scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.9]]}))


def geneval(credit="official"):
    return GenEvalReward(make_scorer, credit)


def ones(images):
    return [1.0] * len(images)


def lengths(images, prompts):
    return torch.tensor([float(len(prompt)) for prompt in prompts])


def lineage(images, prompts, metadata):
    """Of DDPO-pytorch's kind: a pair."""
    return np.arange(len(images), dtype=np.float32), {}


class Says:
    """Answers what it was told to."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, images, **more):
        return self.values


def fails(images):
    raise KeyError("weights")


class TestSum:
    def test_parts_of_every_kind(self):
        reward = CompositeReward(
            {"geneval": geneval(), "one": ones, "long": lengths, "line": lineage}, {"one": 2, "long": 0.1, "line": -1}
        )
        batch = reward.score([IMAGE] * 2, [BENCH, COW])
        assert batch.rewards == pytest.approx([1 + 2 + 1.8 - 0, 0 + 2 + 1.6 - 1])
        assert batch.parts["long"] == [18.0, 16.0]
        assert batch.credits()["geneval/strict"] == batch.parts["geneval"] == [1.0, 0.0]
        assert [verdict.correct for verdict in batch.verdicts] == [True, False]
        assert set(batch.credits()) == set(reward.columns)
        assert reward(images=[IMAGE], prompts=[BENCH]) == reward(completions=[IMAGE], prompts=[BENCH], tag=["x"])

    def test_log_metric_is_told_every_part(self):
        told = {}
        CompositeReward({"geneval": geneval(), "one": ones})([IMAGE] * 2, [BENCH, COW], log_metric=told.__setitem__)
        assert told["composite/geneval"] == told["composite/geneval/strict"] == 0.5
        assert told["composite/one"] == 1.0

    def test_within_one_another(self):
        inner = CompositeReward({"one": ones, "line": lineage})
        batch = CompositeReward({"inner": inner, "geneval": geneval()}, {"inner": 0.5}).score([IMAGE] * 2, [BENCH, COW])
        assert batch.rewards == [1.5, 1.0]
        assert batch.credits()["inner/line"] == [0.0, 1.0]

    @given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=6), st.floats(0.1, 5))
    def test_scaling_the_weights_scales_the_reward(self, rows, scale):
        first, second = zip(*rows, strict=True)
        parts = {"a": Says(*first), "b": Says(*second)}
        images = [IMAGE] * len(rows)
        plain, scaled = (CompositeReward(parts, {"a": w, "b": 2 * w})(images) for w in (1.0, scale))
        assert scaled == pytest.approx([scale * value for value in plain], abs=1e-9)


class TestMissing:
    parts = staticmethod(lambda: {"a": Says(1.0, None, math.nan, 4.0), "b": Says(10.0, 20.0, 30.0, math.inf)})

    @pytest.mark.parametrize(
        ("missing", "expected"),
        [
            ("none", [12.0, None, None, None]),
            ("rescale", [12.0, 3 * 20.0, 3 * 30.0, 1.5 * 8.0]),
            (0.0, [12.0, 20.0, 30.0, 8.0]),
            (-1, [12.0, 18.0, 28.0, 7.0]),
        ],
    )
    def test_what_becomes_of_it(self, missing, expected, caplog):
        batch = CompositeReward(self.parts(), {"a": 2}, missing=missing).score([IMAGE] * 4)
        assert batch.rewards == pytest.approx(expected)
        assert batch.parts == {"a": [1.0, None, None, 4.0], "b": [10.0, 20.0, 30.0, None]}
        assert [error is None for error in batch.errors] == [value is not None for value in expected]
        if missing == "none":
            assert batch.errors[3] == "part 'b': no value"
            assert caplog.text.count("gets None") == 3

    def test_the_reason_of_the_part_is_kept(self):
        batch = CompositeReward({"geneval": geneval(), "one": ones}).score([IMAGE, BROKEN], [BENCH, BENCH])
        assert batch.rewards == [2.0, None]
        assert batch.errors[1].startswith("part 'geneval': images[1]: expected finite values")

    def test_a_batch_without_any_is_an_error(self):
        with pytest.raises(GenEvalError, match="got 2 without; the first: part 'a': no value"):
            CompositeReward({"a": Says(None, None)})([IMAGE] * 2)
        with pytest.raises(ImageError, match=r"part 'geneval': batch: .*images\[0\]"):
            CompositeReward({"geneval": geneval(), "one": ones})([BROKEN], [BENCH])

    def test_a_batch_of_another_task_goes_on_if_told_what_it_counts(self):
        parts = {"geneval": geneval(), "one": ones}
        with pytest.raises(SpecError, match="part 'geneval'"):
            CompositeReward(parts)([IMAGE], ["what is this"])
        assert CompositeReward(parts, missing="rescale")([IMAGE], ["what is this"]) == [2.0]
        assert CompositeReward(parts, missing=0.0)([IMAGE], ["what is this"]) == [1.0]

    def test_an_empty_batch(self):
        assert CompositeReward({"one": ones})([]) == []


class TestErrors:
    @pytest.mark.parametrize("call", ["score", "submit"])
    @pytest.mark.parametrize(
        ("part", "words"),
        [
            (fails, "part 'bad': KeyError: 'weights'"),
            (Says(1.0), "part 'bad': expected 2 values, one per image, got 1"),
            (Says("x", 1.0), "part 'bad': expected a number or None for each image"),
            (lambda images: 1.0, "part 'bad': expected 2 values, one per image, got float"),
        ],
    )
    def test_they_name_the_part(self, call, part, words):
        reward = CompositeReward({"one": ones, "bad": part})
        run = reward.score if call == "score" else lambda images: reward.submit(images).result(10)
        with pytest.raises(RuntimeError, match=words):
            run([IMAGE] * 2)
        reward.close()

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({"parts": {}}, ValueError, "parts: expected at least one"),
            ({"parts": {"a": ones}, "weights": {"b": 1}}, ValueError, "weights: expected names among a, got b"),
            ({"parts": {"a": ones}, "weights": {"a": 0}}, ValueError, "weights: expected finite numbers, not all 0"),
            ({"parts": {"a": ones}, "missing": "zero"}, ValueError, "missing: expected 'none', 'rescale' or"),
            ({"parts": {"a": ones}, "missing": math.nan}, ValueError, "missing: expected"),
            ({"parts": {"a": ones}, "normalize": "z"}, ValueError, "normalize: expected None or 'gdpo', got 'z'"),
            ({"parts": {"a": ones}, "normalize": "gdpo", "missing": "rescale"}, ValueError, "got 'rescale'"),
            ({"parts": {"a": ones}, "group_size": 4}, ValueError, "group_size: expected"),
            ({"parts": {"a": 3}}, TypeError, r"parts\['a'\]: expected a callable, got int"),
            ({"parts": {"a": lambda pictures: 1}}, TypeError, r"parts\['a'\]: .*got pictures"),
            ({"parts": {"a": lambda images, size: 1}}, TypeError, "got images, size"),
        ],
    )
    def test_wrong_construction(self, arguments, error, words):
        with pytest.raises(error, match=words):
            CompositeReward(**arguments)

    def test_a_metric_is_not_a_part(self):
        from torchmetrics.image import TotalVariation

        with pytest.raises(TypeError, match="got the metric TotalVariation, which answers one number per batch"):
            CompositeReward({"tv": TotalVariation()})

    def test_no_images(self):
        with pytest.raises(ValueError, match="images: expected a batch"):
            CompositeReward({"one": ones})()


class TestConcurrency:
    def test_submit_runs_the_parts_at_the_same_time(self):
        both = threading.Barrier(2, timeout=10)

        def meets(images):
            both.wait()  # raises unless the other part is here too
            return ones(images)

        reward = CompositeReward({"a": meets, "b": lambda images: meets(images)})
        assert reward.submit([IMAGE]).result(20).rewards == [2.0]
        reward.close()
        assert reward.submit([IMAGE]).result(20).rewards == [2.0]
        reward.close()

    def test_submit_does_not_keep_the_caller_and_keeps_the_order(self):
        gate, seen = threading.Event(), []

        def slow(images):
            assert gate.wait(10)
            seen.append(len(images))
            return ones(images)

        reward = CompositeReward({"slow": slow, "geneval": geneval()})
        begun = time.perf_counter()
        futures = [reward.submit([IMAGE] * n, [BENCH] * n) for n in (1, 2, 3)]
        assert time.perf_counter() - begun < 5
        assert not any(future.done() for future in futures)
        gate.set()
        assert [future.result(10).rewards for future in futures] == [[2.0] * n for n in (1, 2, 3)]
        assert seen == [1, 2, 3]
        reward.close()

    def test_a_part_sees_one_thread_at_a_time(self):
        inside, most = [], []

        def fragile(images):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()
            return ones(images)

        reward = CompositeReward({"fragile": fragile, "geneval": geneval()})
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: reward([IMAGE] * 2, [BENCH, COW] if n % 2 else [COW, BENCH]), range(16)))
        assert answers == [[1.0, 2.0], [2.0, 1.0]] * 8
        assert max(most) == 1

    def test_it_pickles_and_copies(self):
        reward = CompositeReward(
            {"geneval": geneval("dense"), "long": lengths}, {"long": 0.01}, missing=0.5, name="mix"
        )
        expected = reward.submit([IMAGE] * 2, [BENCH, COW]).result(10).rewards
        for other in (pickle.loads(pickle.dumps(reward)), copy.deepcopy(reward)):
            assert other([IMAGE] * 2, [BENCH, COW]) == expected
            assert (other.__name__, other.missing) == ("mix", 0.5)
        reward.close()


class TestGDPO:
    values = ([0.0, 1.0, 1.0, 1.0], [10.0, 30.0, 20.0, 20.0])

    def make(self, **options):
        a, b = self.values
        return CompositeReward({"a": Says(*a), "b": Says(*b)}, {"b": 0.5}, normalize="gdpo", **options)

    def test_it_is_the_rl_modules_maths(self):
        expected, _ = gdpo_advantages(
            dict(zip("ab", self.values, strict=True)), ["x", "x", "y", "y"], weights={"b": 0.5}, clip=None
        )
        for prompts, groups in ((["x", "x", "y", "y"], None), (["p"] * 4, [0, 0, 1, 1])):
            batch = self.make().score([IMAGE] * 4, prompts, groups=groups)
            assert batch.rewards == pytest.approx(expected.advantages.tolist())
            assert batch.parts["b"] == self.values[1]
        records = [{"tag": "x", "include": [], "prompt": prompt} for prompt in "xxyy"]
        assert self.make()([IMAGE] * 4, metadata=records) == pytest.approx(expected.advantages.tolist())

    def test_the_spread_of_a_part_does_not_decide(self):
        wide = CompositeReward(
            {"a": Says(*self.values[0]), "b": Says(*(100 * v for v in self.values[1]))}, {"b": 0.5}, normalize="gdpo"
        )
        assert wide([IMAGE] * 4, list("xxyy")) == pytest.approx(self.make()([IMAGE] * 4, list("xxyy")), abs=1e-3)

    @pytest.mark.parametrize(("prompts", "size"), [("xyyy", None), ("xxyy", 4), ("xxxy", 2)])
    def test_groups_must_be_whole(self, prompts, size):
        with pytest.raises(ValueError, match=r"groups: expected whole groups of .* in one call.*advantages\(\)"):
            self.make(group_size=size)([IMAGE] * 4, list(prompts))

    def test_missing_values(self):
        parts = {"a": Says(0.0, 1.0, None, 1.0), "b": Says(1.0, 2.0, 3.0, 4.0)}
        rewards = CompositeReward(parts, normalize="gdpo")([IMAGE] * 4, list("xxyy"))
        assert [reward is None for reward in rewards] == [False, False, True, False]
        assert None not in CompositeReward(parts, normalize="gdpo", missing=0.0)([IMAGE] * 4, list("xxyy"))
        with pytest.raises(GenEvalError, match="got 2 without"):
            CompositeReward({"a": Says(None, None)}, normalize="gdpo")([IMAGE] * 2, ["x", "x"])

    def test_advantages_of_gathered_parts(self):
        """As a trainer whose groups span calls: raw values now, normalised at the end."""
        reward = CompositeReward({"a": lineage, "b": ones, "geneval": geneval()}, {"b": 3})
        queue = RewardQueue(reward)
        spec = next(spec for spec in official_suite() if spec.prompt == BENCH)
        for rows in ([0, 1], [2, 3]):
            queue.put(rows, torch.zeros(2, 3, 16, 16), [spec, spec])
        _, columns = queue.rewards(4)
        whole, each = reward.advantages(columns, [0, 0, 1, 1])
        assert each["a"].num_zero_std == 0
        assert each["geneval"].num_zero_std == 2
        assert whole.advantages.tolist() == pytest.approx([-1, 1, -1, 1], abs=1e-3)
        with pytest.raises(ValueError, match="got none for b, geneval"):
            reward.advantages({"a": [1.0, 2.0]}, [0, 0])
        reward.close()


class TestInTrainers:
    def test_in_the_queue_of_the_recipes(self):
        specs = {spec.prompt: spec for spec in official_suite()}
        reward = CompositeReward({"geneval": geneval("partial"), "line": lineage}, {"line": 0.5})
        queue = RewardQueue(reward)
        queue.put([0, 2], torch.zeros(2, 3, 16, 16), [specs[BENCH], specs[COW]])
        queue.put([1], torch.zeros(1, 3, 16, 16), [specs[BENCH]])
        rewards, credits = queue.rewards(3)
        assert rewards == [1.0, 1.0, 0.5]
        assert credits["geneval"] == credits["geneval/official"] == [1.0, 1.0, 0.0]
        queue = RewardQueue(reward, credit={"geneval/strict": 1.0, "line": 1.0})
        queue.put([0], torch.zeros(1, 3, 16, 16), [specs[BENCH]])
        assert queue.rewards(1)[0] == [0.5]
        reward.close()

    def test_in_every_view(self):
        reward = CompositeReward({"geneval": geneval(), "one": ones}, name="mix")
        extra, metrics = {}, {}
        log = {"log_extra": extra.__setitem__, "log_metric": metrics.__setitem__}
        assert TRLReward(reward)([BENCH, COW], [IMAGE] * 2, **log) == [2.0, 1.0]
        assert extra["geneval_reason"] == ["", "expected cow>=1, found 0"]
        assert metrics["mix/geneval/official"] == 0.5
        assert asyncio.run(AsyncTRLReward(reward)([BENCH, COW], [IMAGE] * 2)) == [2.0, 1.0]
        assert MultiScore(reward)([IMAGE] * 2, [BENCH, COW], [{}, {}])[0]["mix"] == [2.0, 1.0]
        assert PlainScore(reward)([IMAGE] * 2, [BENCH, COW], [{}, {}])[0].tolist() == [2.0, 1.0]
        scorer = UniRLScorer(reward, all_credits=True)
        item = type("Item", (), {"history": [(BENCH, IMAGE)], "metadata": None})()
        assert set(scorer.sub_metric_names) == set(scorer.score([item])[0])
        assert scorer.score([item])[0]["geneval"] == 2.0
        reward.close()
