"""GenEvalReward: what it accepts, what it never hides, and how it behaves in a trainer."""

import copy
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from geneval_reward.errors import ImageError, ScoringError, ServiceError, SpecError, UsageError
from geneval_reward.prompts import PromptSpec
from geneval_reward.reward import GenEvalReward
from geneval_reward.reward.inputs import records_from_columns
from geneval_reward.testing import FakeDetector, FakeVerifier, scorer_for

BENCH, COW = "a photo of a bench", "a photo of a cow"
IMAGE = np.zeros((24, 24, 3), np.uint8)
RED_CUP = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "a crimson cup"}


def benches(count=1):
    return FakeDetector({"bench": [[2 * i, 2, 2 * i + 9, 20, 0.9 - 0.01 * i] for i in range(count)]})


@pytest.fixture
def reward():
    return GenEvalReward(scorer_for(benches()))


def test_rewards_come_in_order(reward):
    assert reward(images=[IMAGE] * 3, prompts=[BENCH, COW, BENCH]) == [1.0, 0.0, 1.0]
    assert reward.__name__ == "geneval"


def test_records_with_unknown_words_get_none_and_the_others_their_own_rewards(reward):
    teapot = {"tag": "single_object", "include": [{"class": "teapot", "count": 1}]}
    turquoise = {"tag": "colors", "include": [{"class": "bench", "count": 1, "color": "turquoise"}]}
    batch = reward.score([IMAGE] * 5, [COW, teapot, BENCH, turquoise, BENCH])
    assert batch.rewards == [0.0, None, 1.0, None, 1.0]
    assert "got 'teapot'" in batch.errors[1]
    assert "got 'turquoise'" in batch.errors[3]
    assert [verdict is None for verdict in batch.verdicts] == [False, True, False, True, False]
    with pytest.raises(SpecError, match="got 'teapot'"):
        reward([IMAGE] * 2, [teapot, turquoise])


def test_a_batch_prints_in_a_line(reward):
    batch = reward.score([IMAGE] * 3, [BENCH, COW, "a photo of nothing known"])
    assert repr(batch).startswith("RewardBatch(3 images, mean reward 0.500, 1 without a reward; prompts[2]: ")
    assert repr(reward.score([IMAGE], [BENCH])) == "RewardBatch(1 image, mean reward 1.000)"


@pytest.mark.parametrize(
    ("credit", "value"), [("official", 1.0), ("strict", 0.0), ("partial", 0.0), ("dense", 1.0), ("flow_grpo", -2.0)]
)
def test_four_benches_where_one_is_asked(credit, value):
    assert GenEvalReward(scorer_for(benches(4)), credit)(images=[IMAGE], prompts=[BENCH]) == [value]


class TestInputs:
    def test_metadata_goes_before_the_prompt(self, reward):
        assert reward([IMAGE], prompts=["anything at all"], metadata=[{**RED_CUP, "prompt": "x"}]) == [0.0]
        assert reward([IMAGE, IMAGE], prompts=[BENCH, "unknown"], metadata=[None, RED_CUP]) == [1.0, 0.0]
        assert reward([IMAGE], metadata=[PromptSpec.parse(RED_CUP).to_json()]) == [0.0]

    def test_columns_of_a_data_set_are_metadata(self, reward):
        record = {
            "tag": "counting",
            "include": [{"class": "bench", "count": 1}],
            "exclude": [{"class": "bench", "count": 2}],
        }
        columns = {key: [value] for key, value in record.items()}
        assert reward(completions=[IMAGE], prompts=["some benches"], completion_ids=[[1]], **columns) == [0.0]
        columns["tag"] = ["single_object"]
        assert reward(completions=[IMAGE], prompts=["some benches"], trainer_state=None, **columns) == [1.0]

    @pytest.mark.parametrize("columns", [default_collate, lambda rows: {k: [r[k] for r in rows] for k in rows[0]}])
    def test_records_that_a_loader_made_into_columns(self, columns):
        """`default_collate` goes down into the records; a data set's batch has whole cells."""
        place = {"class": "bench", "count": 1, "position": ["left of", 0]}
        records = [
            {"tag": "position", "include": [{"class": name, "count": 1}, place], "prompt": f"{name} and bench"}
            for name in ("bench", "cow")
        ]
        assert records_from_columns(columns(records)) == records
        reward = GenEvalReward(scorer_for(FakeDetector({"bench": [[1, 1, 9, 9, 0.9]], "cow": [[12, 1, 20, 9, 0.9]]})))
        expected = reward.score([IMAGE] * 2, metadata=records)
        assert reward.score([IMAGE] * 2, metadata=columns(records)).verdicts[1].reason == expected.verdicts[1].reason
        assert expected.rewards == [0.0, 1.0]

    def test_records_as_pandas_and_numpy_give_them(self, reward):
        include = np.array([{"class": "bench", "count": np.int64(1)}], dtype=object)
        record = {"tag": "single_object", "include": include}
        assert reward([IMAGE] * 2, prompts=["x", BENCH], metadata=[record, float("nan")]) == [1.0, 1.0]
        assert reward([IMAGE], prompts=["x"], tag=np.array(["single_object"]), include=[include]) == [1.0]

    def test_columns_without_records_are_refused(self, reward):
        with pytest.raises(
            UsageError, match="metadata: expected records, or columns with tag and include, got a mapping"
        ):
            reward([IMAGE], metadata={"id": [3]})

    def test_chat_prompts(self, reward):
        chat = [{"role": "system", "content": "draw"}, {"role": "user", "content": BENCH}]
        parts = [{"role": "user", "content": [{"type": "text", "text": BENCH}]}]
        assert reward(completions=[IMAGE] * 2, prompts=[chat, parts]) == [1.0, 1.0]

    def test_training_prompts_are_known_by_text(self):
        reward = GenEvalReward(
            scorer_for(FakeDetector({"cup": [[1, 1, 9, 9, 0.9]]}), FakeVerifier("red")), prompts=[RED_CUP]
        )
        assert reward(images=[IMAGE], prompts=["a crimson cup"]) == [1.0]

    @pytest.mark.parametrize(
        "images", [torch.zeros(2, 3, 24, 24), np.zeros((2, 24, 24, 3), np.uint8), [Image.new("L", (9, 9))] * 2]
    )
    def test_images_in_any_form(self, reward, images):
        assert reward(images, [BENCH, BENCH]) == [1.0, 1.0]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"prompts": [BENCH]}, "images: expected a batch of images"),
            ({"images": [IMAGE]}, "prompts: expected prompts or metadata"),
            ({"images": [IMAGE], "prompts": [BENCH, BENCH]}, "prompts: expected 1, one per image, got 2"),
            ({"images": [IMAGE], "prompts": [BENCH], "metadata": [None, None]}, "metadata: expected 1"),
        ],
    )
    def test_wrong_calls(self, reward, arguments, words):
        with pytest.raises(ValueError, match=words):
            reward(**arguments)

    def test_wrong_construction(self):
        with pytest.raises(ValueError, match="credit: expected one of"):
            GenEvalReward("lite", "great")
        with pytest.raises(ValueError, match="device: expected no options beside a ready scorer"):
            GenEvalReward(scorer_for(benches()), device="cpu")


class TestNothingIsSilent:
    def test_a_sample_that_cannot_be_scored_is_none(self, reward, caplog):
        broken = torch.full((3, 24, 24), float("nan"))
        batch = reward.score([torch.zeros(3, 24, 24), broken, torch.zeros(3, 24, 24)], [BENCH, BENCH, "what is this"])
        assert batch.rewards == [1.0, None, None]
        assert batch.verdicts[0].correct
        assert batch.verdicts[1] is None
        assert "images[1]: expected finite values" in batch.errors[1]
        assert "prompts[2]: prompt: expected a prompt text of the official suite" in batch.errors[2]
        assert batch.credits()["strict"] == [1.0, None, None]
        assert caplog.text.count("cannot be scored and gets None") == 2

    def test_a_batch_that_cannot_be_scored_is_an_error(self, reward):
        with pytest.raises(ImageError, match=r"got 2 that cannot; the first: images\[0\]"):
            reward(torch.full((2, 3, 24, 24), float("nan")), [BENCH, BENCH])
        with pytest.raises(SpecError, match=r"prompts\[0\]"):
            reward([IMAGE], ["what is this"])

    def test_images_that_a_scorer_fails_on_are_none_and_the_others_are_kept(self):
        reward = GenEvalReward(FailsOn(scorer_for(benches()), ServiceError("images[0]: no answer in time"), [1]))
        broken = torch.full((3, 24, 24), float("nan"))
        batch = reward.score([broken, torch.zeros(3, 24, 24), torch.zeros(3, 24, 24)], [BENCH, BENCH, BENCH])
        assert batch.rewards == [None, 1.0, None]
        assert batch.verdicts[1].correct
        assert "images[0]: expected finite values" in batch.errors[0]
        assert batch.errors[2] == "images[2]: no answer in time"

    def test_where_a_scorer_fails_on_all_the_reason_is_raised(self):
        reward = GenEvalReward(FailsOn(scorer_for(benches()), ServiceError("no answer in time"), [0, 1]))
        with pytest.raises(ServiceError, match=r"got 2 that cannot; the first: images\[0\]: no answer in time"):
            reward([IMAGE] * 2, [BENCH] * 2)

    def test_a_batch_of_zeros_warns_once(self, reward):
        with pytest.warns(UserWarning, match="all 2 rewards of a batch are 0"):
            reward([IMAGE] * 2, [COW] * 2)
        assert reward([IMAGE] * 2, [COW] * 2) == [0.0, 0.0]

    def test_log_metric_is_told_every_credit(self, reward):
        told = {}
        reward([IMAGE, IMAGE], [BENCH, COW], log_metric=told.__setitem__)
        assert told["geneval/official"] == 0.5
        assert set(told) == {f"geneval/{name}" for name in ("official", "strict", "partial", "dense", "flow_grpo")}


class FailsOn:
    """A scorer that is no `GenEvalScorer` and fails on some images of every call."""

    name = "remote"

    def __init__(self, scorer, error, rows):
        self.scorer, self.error, self.rows = scorer, error, rows
        self.rules = scorer.rules

    def score(self, images, specs):
        verdicts = self.scorer.score(images, specs)
        errors = [self.error if row in self.rows else None for row in range(len(verdicts))]
        raise ScoringError([None if error else v for v, error in zip(verdicts, errors, strict=True)], errors)

    def fingerprint(self):
        return self.scorer.fingerprint()

    def to(self, device):
        return self


def make_scorer():
    return scorer_for(benches())


class TestInATrainer:
    def test_it_is_loaded_on_first_use(self):
        made = []
        reward = GenEvalReward(lambda: made.append(1) or make_scorer())
        assert not made
        threads = [threading.Thread(target=reward, args=([IMAGE], [BENCH])) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [1]

    def test_it_pickles_and_copies(self, reward):
        fresh = GenEvalReward(make_scorer, credit="partial", prompts=[RED_CUP])
        for other in (pickle.loads(pickle.dumps(fresh)), copy.deepcopy(fresh)):
            assert other([IMAGE], [BENCH]) == [1.0]
            assert other.credit == "partial"
            assert "a crimson cup" in other._specs
        fresh.submit([IMAGE], [BENCH]).result()
        assert pickle.loads(pickle.dumps(fresh))([IMAGE], [BENCH]) == [1.0]
        fresh.close()

    def test_lite_by_name(self):
        from geneval_reward.vision.photos import photo

        reward = GenEvalReward("lite", device="cpu")
        assert reward([photo("chelsea"), photo("chelsea")], ["a photo of a cat", "a photo of a bench"]) == [1.0, 0.0]

    def test_submit_overlaps_and_keeps_order(self):
        gate = threading.Event()

        def slow(image):
            assert gate.wait(10)
            return {"bench": [[1, 1, 9, 9, 0.9]]} if image.max() else {}

        reward = GenEvalReward(scorer_for(FakeDetector(slow)))
        dark, light = torch.zeros(1, 3, 9, 9), torch.ones(1, 3, 9, 9)
        start = time.perf_counter()
        futures = [reward.submit(images, [BENCH]) for images in (light, dark, light)]
        assert time.perf_counter() - start < 5  # the caller was not kept
        assert not any(future.done() for future in futures)
        gate.set()
        assert [future.result(10).rewards for future in futures] == [[1.0], [0.0], [1.0]]
        reward.close()
        assert reward.submit(light, [BENCH]).result(10).rewards == [1.0]
        reward.close()

    def test_what_scoring_raises_comes_out_of_the_future(self, reward):
        with pytest.raises(SpecError, match="what is this"):
            reward.submit([IMAGE], ["what is this"]).result(10)
        reward.close()

    def test_many_threads_get_their_own_answers(self, reward):
        answers = {}

        def call(number):
            prompts = [BENCH if number >> bit & 1 else COW for bit in range(4)] + [BENCH]
            answers[number] = reward([IMAGE] * 5, prompts)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {n: [float(n >> bit & 1) for bit in range(4)] + [1.0] for n in range(16)}


def test_a_call_goes_through_ten_files():
    """What a reader has to open to follow one reward from the call to the number, after everything is loaded."""
    import sys
    from pathlib import Path

    import geneval_reward
    from geneval_reward.prompts import official_suite
    from geneval_reward.vision.photos import photo

    spec = next(spec for spec in official_suite() if spec.tag == "single_object")
    reward, image = GenEvalReward("lite", "partial", device="cpu"), photo("chelsea")
    reward([image], [spec])
    root, files = str(Path(geneval_reward.__file__).parent), set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: event == "call" and files.add(frame.f_code.co_filename))
    try:
        reward([image], [spec])
    finally:
        sys.setprofile(before)
    ours = sorted(file.removeprefix(root) for file in files if file.startswith(root))
    assert 5 < len(ours) <= 10, ours
