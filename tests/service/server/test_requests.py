"""Bodies that would cost far more than their bytes."""

import asyncio
import json
import tracemalloc

import pytest
from starlette.requests import Request

from geneval_reward.service.server.door import RefusedError
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.requests import read_request
from geneval_reward.service.wire import ScoreRequest


def parse_request(body, kind, limits):
    """Read a request as the application does."""

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/score", "headers": [(b"content-type", kind.encode())]}
    return asyncio.run(read_request(Request(scope, receive), limits))


FLOODS = {
    "images that are none": b'{"images":[' + b",".join([b"{}"] * 300_000) + b'],"prompts":["a"]}',
    "images": b'{"images":[' + b",".join([b'{"format":"png"}'] * 50_000) + b'],"prompts":["a"]}',
    "prompts that are none": b'{"images":[{"format":"png"}],"prompts":[' + b",".join([b"1"] * 300_000) + b"]}",
    "lists in a record": b'{"images":[{"format":"png"}],"prompts":[{"a":[' + b",".join([b"[]"] * 300_000) + b"]}]}",
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
def test_a_flood_of_values_is_refused_before_it_is_parsed(name, form):
    body, kind = FLOODS[name], "application/json"
    if form:
        head = b'--xx\r\nContent-Disposition: form-data; name="request"\r\n\r\n'
        body, kind = head + body + b"\r\n--xx--\r\n", "multipart/form-data; boundary=xx"
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match="expected JSON of at most 66,048 values, got about") as refused:
            parse_request(body, kind, Limits())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.status == 413
    assert peak < 3 * len(body) + 2**20  # copies of the form's part, and nothing for its values


@pytest.mark.parametrize(
    "text",
    [
        {"images": [{}] * 20_000, "prompts": ["x"]},
        {"images": [{"format": "png"}], "prompts": [1] * 20_000},
    ],
    ids=["images", "prompts"],
)
def test_one_complaint_is_enough(text):
    with pytest.raises(RefusedError) as refused:
        parse_request(json.dumps(text).encode(), "application/json", Limits())
    assert refused.value.status == 422
    assert "more" not in refused.value.message


def test_the_largest_usual_request_passes():
    record = {
        "tag": "color_attr",
        "include": [{"class": "bench", "count": 4, "color": "red"}] * 8,
        "exclude": [{"class": "bench", "count": 5}] * 8,
        "prompt": "a photo, of this, and, that" * 20,
    }
    count = Limits().max_items
    image = {"format": "raw", "shape": [3, 4, 5], "layout": "chw", "data": "AAAA"}
    body = json.dumps({"images": [image] * count, "prompts": [record] * count}).encode()
    request, parts = parse_request(body, "application/json", Limits())
    assert isinstance(request, ScoreRequest)
    assert len(request.images) == count
    assert parts == []
