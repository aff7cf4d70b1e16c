import numpy as np
import pytest
import torch

from geneval_reward import GenEvalScorer, testing
from geneval_reward.errors import SpecError
from geneval_reward.prompts import COLORS
from geneval_reward.testing import FakeDetector, FakeVerifier, replay, scorer_for
from geneval_reward.vision.protocols import ColorQuery, Wanted

CASE = {
    "spec": {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "a red cup"},
    "image_size": [64, 48],
    "detections": {"cup": [[8, 8, 40, 40, 0.2, "red"], [8, 8, 40, 40, 0.9, "blue"]], "dog": [[0, 0, 9, 9, 0.5, "red"]]},
    "options": {"threshold": 0.3},
    "expected": "not read",
}
IMAGE = torch.zeros(3, 24, 32, dtype=torch.uint8)


def test_replay() -> None:
    verdict = replay(CASE)
    assert (verdict.correct, verdict.strict, verdict.kept) == (False, False, {"dog": 1, "cup": 1})
    assert verdict.reason == "expected red cup>=1, found 0 red; and 1 blue"
    assert (verdict.partial, verdict.flow_grpo) == (0.5, 0.5)
    assert verdict.detections.image_size == (64, 48)
    assert verdict.spec.prompt == "a red cup"


def test_replay_without_detections_and_options() -> None:
    verdict = replay({"spec": CASE["spec"], "image_size": [8, 8], "detections": {}})
    assert (verdict.correct, verdict.kept, verdict.dense) == (False, {}, 0.0)


def test_replay_refuses_what_is_not_a_case() -> None:
    with pytest.raises(SpecError, match="did you mean 'cup'"):
        replay(CASE | {"detections": {"cpu": [[0, 0, 1, 1, 0.5, "red"]]}})
    with pytest.raises(KeyError, match="mauve"):
        replay(CASE | {"detections": {"cup": [[0, 0, 1, 1, 0.5, "mauve"]]}})
    with pytest.raises(KeyError, match="image_size"):
        replay({key: value for key, value in CASE.items() if key != "image_size"})
    with pytest.raises(ValueError, match="rules: expected fields of"):
        replay(CASE | {"options": {"tresh": 0.3}})


def test_a_fake_detector_keeps_to_what_is_wanted() -> None:
    detector = FakeDetector({"dog": [[0, 0, 9, 9, 0.9], [1, 1, 5, 5, 0.1]], "cat": [[2, 2, 8, 8, 0.5]]})
    wanted = [Wanted(None), Wanted(frozenset({16})), Wanted(None, min_confidence=0.5), Wanted(frozenset())]
    found = detector.detect([IMAGE] * 4, wanted)
    assert [one.class_names for one in found] == [["dog", "dog", "cat"], ["dog", "dog"], ["dog"], []]
    assert found[0].image_size == (32, 24)
    assert detector.calls == [4]
    assert detector.to("cpu") is detector
    assert detector.fingerprint() == {"name": "fake"}


def test_a_fake_detector_may_look() -> None:
    detector = FakeDetector(lambda image: {"dog": [[0, 0, 9, 9, 0.9]]} if image.max() else {})
    assert [len(one) for one in detector.detect([IMAGE, IMAGE + 1], [Wanted(None)] * 2)] == [0, 1]


def test_a_fake_verifier_names_colours() -> None:
    queries = [ColorQuery(IMAGE, np.float32([x, 0, 9, 9]), "cup") for x in (0, 1)]
    assert FakeVerifier("green").colors(queries).argmax(1).tolist() == [COLORS.index("green")] * 2
    chosen = FakeVerifier(lambda query: "blue" if query.xyxy[0] else "red").colors(queries)
    assert chosen.dtype == np.float32
    assert chosen.sum(1).tolist() == [1, 1]
    assert chosen.argmax(1).tolist() == [COLORS.index("red"), COLORS.index("blue")]
    assert FakeVerifier().colors([]).shape == (0, 10)
    with pytest.raises(KeyError):
        FakeVerifier("mauve").colors(queries)


def test_scorer_for() -> None:
    scorer = scorer_for(FakeDetector({}), batch_size=5, rules="lite")
    assert isinstance(scorer, GenEvalScorer)
    assert (scorer.name, scorer.batch_size) == ("fake", 5)
    assert isinstance(scorer.verifier, FakeVerifier)


def test_public_names() -> None:
    assert all(hasattr(testing, name) for name in testing.__all__)
