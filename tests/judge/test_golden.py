"""The public programs' answers on 1,200 images.

`tests/data/verdicts.jsonl.xz` holds what the benchmark's `evaluate_images.py` and the public Flow-GRPO reward answered
for given detections and colours. Numbers are written as the shortest decimal that gives the same float32.
"""

import copy
import json
import lzma
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from geneval_reward.judge import Verdict
from geneval_reward.prompts import TAGS
from geneval_reward.testing import replay

FILE = Path(__file__).parents[1] / "data" / "verdicts.jsonl.xz"


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    with lzma.open(FILE, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def differences(expected: dict[str, Any], verdict: Verdict) -> list[str]:
    answers = {
        "correct": verdict.correct,
        "reason": verdict.reason,
        "kept": verdict.kept,
        "strict_correct": verdict.strict,
        "strict_reason": verdict.strict_reason,
    }
    wrong = [f"{key}: {value!r} != {expected[key]!r}" for key, value in answers.items() if value != expected[key]]
    if verdict.flow_grpo != pytest.approx(expected["score"], abs=1e-6):
        wrong.append(f"flow_grpo: {verdict.flow_grpo} != {expected['score']}")
    return wrong


def test_the_file_covers_what_it_should(cases: list[dict[str, Any]]) -> None:
    assert len(cases) == 1200
    assert set(Counter(case["spec"]["tag"] for case in cases)) == set(TAGS)
    sizes = {"threshold": 2, "counting_threshold": 2, "max_objects": 2, "max_overlap": 3, "position_threshold": 3}
    assert {option: len({case["options"][option] for case in cases}) for option in sizes} == sizes
    verdicts = Counter((case["expected"]["correct"], case["expected"]["strict_correct"]) for case in cases)
    assert min(verdicts[True, True], verdicts[True, False], verdicts[False, False]) > 50


@pytest.mark.parametrize("tag", TAGS)
def test_every_case_agrees(cases: list[dict[str, Any]], tag: str) -> None:
    chosen = [(index, case) for index, case in enumerate(cases) if case["spec"]["tag"] == tag]
    wrong = {index: found for index, case in chosen if (found := differences(case["expected"], replay(case)))}
    assert not wrong
    assert len(chosen) >= 180


def test_order_of_detections_does_not_matter(cases: list[dict[str, Any]]) -> None:
    shuffle = random.Random(0).shuffle
    for case in cases[::4]:
        mixed = copy.deepcopy(case)
        names = list(mixed["detections"])
        shuffle(names)
        mixed["detections"] = {name: mixed["detections"][name] for name in names}
        for rows in mixed["detections"].values():
            shuffle(rows)
        first, second = replay(case), replay(mixed)
        assert not differences(case["expected"], second)
        assert first.credits() == second.credits()


def test_rejudging_the_kept_detections_is_judging_anew(cases: list[dict[str, Any]]) -> None:
    for case, other in zip(cases[::5], cases[3::5], strict=True):
        options = other["options"]
        again, anew = replay(case).rejudge(options), replay(case | {"options": options})
        assert (again.findings, again.kept, again.credits()) == (anew.findings, anew.kept, anew.credits())


def test_a_wrong_answer_is_noticed(cases: list[dict[str, Any]]) -> None:
    # The comparison itself must be able to fail.
    case = next(case for case in cases if case["expected"]["correct"])
    spoiled = case | {"detections": {}}
    assert differences(case["expected"], replay(spoiled))
