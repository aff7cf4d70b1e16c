import json
import lzma
from pathlib import Path

import pytest
from pydantic import ValidationError

from geneval_reward.service.wire import (
    ItemReply,
    ScoreReply,
    ScoreRequest,
    VerdictPayload,
    splice,
)
from geneval_reward.testing import replay

CASES = Path(__file__).parents[1] / "data" / "verdicts.jsonl.xz"


def test_a_verdict_crosses_whole():
    with lzma.open(CASES, "rt") as file:
        cases = [json.loads(line) for line in file][::10]
    assert len(cases) > 20
    for case in cases:
        verdict = replay(case)
        text = ItemReply(reward=1.0, verdict=VerdictPayload.of(verdict)).model_dump_json(by_alias=True)
        payload = ItemReply.model_validate_json(text).verdict
        again = payload.verdict(verdict.spec, verdict.rules.to_dict())
        assert again.credits() == verdict.credits() == payload.credits
        assert (again.reason, again.correct) == (verdict.reason, verdict.correct) == (payload.reason, payload.correct)
        assert again.detections.xyxy.tobytes() == verdict.detections.xyxy.tobytes()
        assert again.objects() == verdict.objects()


def test_spliced_reply_is_a_reply():
    head = ScoreReply(
        request_id="a",
        version="1",
        backend="lite",
        fingerprint="f",
        rules={"confidence": 0.3},
        credit="strict",
        items=[],
    )
    items = [ItemReply(error='a "quoted" error'), ItemReply(reward=0.5)]
    assert ScoreReply.model_validate_json(splice(head, [])) == head
    whole = ScoreReply.model_validate_json(
        splice(head, [item.model_dump_json(by_alias=True).encode() for item in items])
    )
    assert whole == head.model_copy(update={"items": items})


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"format": "raw", "data": ""}, "shape: expected one for raw"),
        ({"format": "png", "data": "", "shape": [1, 1, 3]}, "shape: expected one for raw"),
        ({"format": "raw", "shape": [2, 2, 4]}, "expected 3 channels"),
        ({"format": "raw", "shape": [3, 2, 2]}, "expected 3 channels"),
        ({"format": "raw", "shape": [0, 2, 3]}, "positive sides"),
        ({"format": "raw", "shape": [2**40, 1, 3]}, "positive sides"),
        ({"format": "jpeg"}, "format"),
        ({"format": "png", "more": 1}, "more"),
    ],
)
def test_images_that_are_none(image, message):
    with pytest.raises(ValidationError, match=message):
        ScoreRequest.model_validate({"images": [image], "prompts": ["x"]})


def test_one_prompt_an_image():
    with pytest.raises(ValidationError, match="prompts: expected 2, one per image, got 1"):
        ScoreRequest.model_validate({"images": [{"format": "png"}] * 2, "prompts": ["x"]})
    with pytest.raises(ValidationError):
        ScoreRequest.model_validate({"images": [], "prompts": []})
    with pytest.raises(ValidationError, match="8192"):
        ScoreRequest.model_validate({"images": [{"format": "png"}], "prompts": ["x" * 9000]})
