"""The application in this process: every status, and what hostile bodies get."""

import base64
import io
import json
import re
import struct
import time
import zlib

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image

from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.pool import Item, WorkerPool
from geneval_reward.service.wire import ErrorReply, ScoreReply

BENCH = "a photo of a bench"
KEY = "correct-horse-battery"
HEAD = {
    "format": "raw",
    "shape": [1, 1, 3],
    "layout": "hwc",
    "where": "",
    "spec": "",
    "credit": "dense",
    "protocol": "",
}


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def text(data):
    return base64.b64encode(data).decode()


def bomb(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(10**6), 9))
        + chunk(b"IEND", b"")
    )


def score(app, images, prompts, **more):
    body = {"images": images, "prompts": prompts} | more
    return app.request("POST", "/score", json=body)


def test_json_form_and_raw_are_one(local, fakes):
    app = local()
    image = fakes.picture(200)
    as_json = score(app, [{"format": "png", "data": text(png(image))}], [BENCH])
    raw = {"format": "raw", "shape": [3, 8, 8], "layout": "chw"}
    as_raw = score(app, [raw | {"data": text(image.numpy().tobytes())}], [BENCH])
    hwc = score(
        app, [{"format": "raw", "shape": [8, 8, 3], "data": text(image.permute(1, 2, 0).numpy().tobytes())}], [BENCH]
    )
    parts = [
        ("request", (None, json.dumps({"images": [raw, {"format": "png"}], "prompts": [BENCH] * 2}))),
        ("image", ("a", image.numpy().tobytes())),
        ("image", ("b", png(image))),
    ]
    as_form = app.request("POST", "/score", files=parts)
    replies = [ScoreReply.model_validate_json(one.content) for one in (as_json, as_raw, hwc, as_form)]
    items = [item for reply in replies for item in reply.items]
    assert len(items) == 5
    assert all(item == items[0] for item in items)
    assert items[0].reward == 1.0
    assert as_json.headers["x-request-id"] == replies[0].request_id


def test_request_ids(local, fakes):
    app = local()
    body = {"images": [{"format": "png", "data": text(png(fakes.picture()))}], "prompts": [BENCH]}
    for asked, kept in (("run-7.a_b", True), ("evil\tid", False), ("x" * 65, False)):
        reply = app.request("POST", "/score", json=body, headers={"X-Request-ID": asked})
        assert (reply.headers["x-request-id"] == asked) is kept
        assert reply.json()["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (text(bomb(60000, 60000)), "expected at most 1,000,000 pixels, got far more"),
        (text(bomb(1001, 1000)), "expected at most 1,000,000 pixels, got 1001 x 1000"),
        (text(bomb(900, 900))[:-201], "expected base64"),
        (text(b"\x89PNG\r\n\x1a\n")[:-3], "expected base64"),
        ("!!!!", "expected base64"),
        ("é", "expected base64"),
        ("", "expected a PNG"),
        (text(b"GIF89a" + bytes(60)), "expected a PNG, got something else"),
        (text(b"\x89PNG\r\n\x1a\n" + bytes(100)), "expected a PNG"),
        (text(bomb(900, 900)[:60]), "damaged"),
    ],
)
def test_one_bad_image_is_its_own_error(local, fakes, data, error):
    good = {"format": "png", "data": text(png(fakes.picture(200)))}
    reply = score(local(), [good, {"format": "png", "data": data}, good], [BENCH] * 3)
    assert reply.status_code == 200
    items = ScoreReply.model_validate_json(reply.content).items
    assert [item.reward for item in items] == [1.0, None, 1.0]
    assert items[1].error.startswith("images[1]: ")
    assert re.search(error, items[1].error)


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of a unicorn",
        "{" * 5000,
        '{"a":' * 1000,
        '{"tag": "single_object"}',
        {},
        {"tag": "single_object", "include": "dog"},
        {"tag": "single_object", "include": [{"class": "dog", "count": 10**30}], "extra": 1},
        {"tag": "single_object", "include": [{"class": "dog" * 10000, "count": 1}]},
        {"tag": ["x"], "include": [[]]},
    ],
)
def test_one_bad_prompt_is_its_own_error(local, fakes, prompt):
    good = {"format": "png", "data": text(png(fakes.picture(200)))}
    reply = score(local(), [good, good], [prompt, BENCH])
    assert reply.status_code == 200
    bad, fine = ScoreReply.model_validate_json(reply.content).items
    assert fine.reward == 1.0
    assert bad.error.startswith("prompts[0]: ")
    assert len(bad.error) <= 400


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 422, "JSON"),
        (b"null", 422, "request"),
        (b"[" * 10_000, 422, "recursion|JSON"),
        (b"[" * 100_000, 413, "expected JSON of at most"),
        (b'{"images": 1, "prompts": 2}', 422, "images"),
        (b'{"images": [{"format": "png", "data": 5}], "prompts": [null]}', 422, "images.0.data"),
        (b'{"images": [{"format": "raw", "shape": [NaN, 1, 3]}], "prompts": ["x"]}', 422, "shape"),
        (b'{"images": [{"format": "png"}], "prompts": ["x"], "timeout": -1}', 422, "timeout"),
        (b'{"images": [{"format": "png"}], "prompts": ["x"], "credit": "best"}', 422, "credit"),
        (b'{"images": [{"format": "png"}], "prompts": ["x"]}', 422, "expected 1 form parts"),
        (b"\xff\xfe", 422, "JSON"),
    ],
)
def test_bodies_that_are_no_request(local, body, status, error):
    reply = local().request("POST", "/score", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status
    assert re.search(error, ErrorReply.model_validate_json(reply.content).error)
    assert len(reply.content) < 1000


def test_other_content_types(local):
    for kind in ("application/octet-stream", "application/x-www-form-urlencoded", ""):
        assert local().request("POST", "/score", content=b"x", headers={"content-type": kind}).status_code == 415
    reply = local().request("POST", "/score", content=b"x", headers={"content-type": "multipart/form-data; boundary=a"})
    assert reply.status_code == 422


def test_too_many_images(local, fakes):
    app = local(limits=Limits(max_items=2, max_pixels=10**6))
    good = {"format": "png", "data": text(png(fakes.picture(200)))}
    assert score(app, [good] * 2, [BENCH] * 2).status_code == 200
    reply = score(app, [good] * 3, [BENCH] * 3)
    assert reply.status_code == 413
    assert "images: expected at most 2, got 3" in reply.json()["error"]


@pytest.mark.slow
def test_too_large_a_body(local):
    app = local(limits=Limits(max_body=1000))
    reply = app.request("POST", "/score", content=b"x" * 1001, headers={"content-type": "application/json"})
    assert reply.status_code == 413
    assert "expected at most 1,000 bytes, got 1,001" in reply.json()["error"]
    assert reply.headers["connection"] == "close"

    async def endless():
        while True:
            yield b"x" * 500

    reply = app.request("POST", "/score", content=endless(), headers={"content-type": "application/json"})
    assert reply.status_code == 413
    assert app.app.memory == 0


def test_memory_is_bounded_over_all_requests(local):
    app = local(limits=Limits(max_body=1000, max_memory=1000))
    app.app.memory = 500
    reply = app.request("POST", "/score", content=b"x" * 600, headers={"content-type": "application/json"})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert app.app.memory == 500


def test_an_announced_body_takes_no_room(local):
    """Only what has come is counted: else a few bytes from anyone would fill the memory of all."""
    app = local(limits=Limits(max_body=1000, max_memory=1000))
    held = []

    async def slow():
        held.append(app.app.memory)
        yield b"x" * 10
        held.append(app.app.memory)

    headers = {"content-type": "application/json", "content-length": "900"}
    app.request("POST", "/score", content=slow(), headers=headers)
    assert max(held) <= 10


def test_length_and_chunks_together_are_refused(local):
    headers = {"content-type": "application/json", "content-length": "5", "transfer-encoding": "chunked"}
    reply = local().request("POST", "/score", content=b"x" * 5, headers=headers)
    assert reply.status_code == 400
    assert "expected Content-Length or Transfer-Encoding, got both" in reply.json()["error"]


def test_more_than_was_announced_is_refused(local):
    app = local(limits=Limits(max_body=1000))

    async def more():
        for _ in range(3):
            yield b"x" * 500

    reply = app.request("POST", "/score", content=more(), headers={"content-length": "5"})
    assert reply.status_code == 413


def test_a_full_queue(local, fakes):
    pool = local.pool(delay=1.0, limits=Limits(max_items=2, max_queue=2, max_pixels=10**6))
    app = local(pool=pool)
    good = {"format": "png", "data": text(png(fakes.picture(200)))}
    late = score(app, [good] * 2, [BENCH] * 2, timeout=0.05)
    assert late.status_code == 504
    # What nobody waits for any more makes room.
    WorkerPool.submit(pool, [Item(HEAD, b"", time.monotonic() + 60)])
    reply = score(app, [good] * 2, [BENCH] * 2)
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1


def test_deadline(local, fakes):
    pool = local.pool(delay=5.0)
    good = {"format": "png", "data": text(png(fakes.picture(200)))}
    reply = score(local(pool=pool), [good], [BENCH], timeout=0.05)
    assert reply.status_code == 504
    assert "expected all images in time, got 0 of 1" in reply.json()["error"]
    pool = local.pool(delay=5.0, limits=Limits(deadline=0.05, max_pixels=10**6))
    assert score(local(pool=pool), [good], [BENCH], timeout=50).status_code == 504


def test_starting_and_draining(local, fakes):
    app = local(pool=local.pool(ready=False))
    good = {"format": "png", "data": text(png(fakes.picture(200)))}
    reply = app.request("GET", "/health")
    assert (reply.status_code, reply.json()["status"]) == (503, "starting")
    assert score(app, [good], [BENCH]).status_code == 503
    assert app.request("GET", "/info").status_code == 503
    app = local()
    assert app.request("GET", "/health").json()["status"] == "ready"
    app.state.draining = True
    reply = app.request("GET", "/health")
    assert (reply.status_code, reply.json()["status"]) == (503, "draining")
    reply = score(app, [good], [BENCH])
    assert reply.status_code == 503
    assert "retry-after" in reply.headers
    app = local(pool=local.pool(ready=False))
    app.pool.fatal = "no weights"
    assert app.request("GET", "/health").json()["status"] == "failed"


@pytest.mark.parametrize("path", ["/score", "/info", "/metrics", "/docs", "/openapi.json", "/anything"])
def test_a_key_is_asked_for_everything_but_health(local, path):
    app = local(api_key=KEY)
    method = "POST" if path == "/score" else "GET"
    for header in (
        {},
        {"Authorization": "Bearer nothing"},
        {"Authorization": KEY},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic " + KEY},
    ):
        reply = app.request(method, path, headers=header)
        assert reply.status_code == 401, header
        assert KEY not in reply.text
    assert app.request(method, path, headers={"Authorization": f"Bearer {KEY}"}).status_code != 401
    assert app.request("GET", "/health").status_code == 200


def test_metrics_count(local, fakes):
    app = local()
    good = {"format": "png", "data": text(png(fakes.picture(200)))}
    score(app, [good, {"format": "png", "data": "!"}], [BENCH] * 2)
    score(app, [], [])
    found = app.request("GET", "/metrics").text
    for line in (
        'geneval_requests_total{status="200"} 1.0',
        'geneval_requests_total{status="422"} 1.0',
        'geneval_images_total{outcome="scored"} 1.0',
        'geneval_images_total{outcome="error"} 1.0',
        "geneval_workers_ready 1.0",
        "geneval_body_bytes 0.0",
    ):
        assert line in found


def test_openapi_page_describes_the_request(local):
    app = local()
    schema = app.request("GET", "/openapi.json").json()
    assert {"/score", "/health", "/info", "/metrics"} <= set(schema["paths"])
    assert {"ScoreRequest", "ImagePayload", "ScoreReply", "ErrorReply"} <= set(schema["components"]["schemas"])
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    assert set(schema["paths"]["/score"]["post"]["requestBody"]["content"]) == {
        "application/json",
        "multipart/form-data",
    }
    assert app.request("GET", "/docs").status_code == 200


def test_random_requests_by_the_openapi_page(local):
    schema = schemathesis.openapi.from_asgi("/openapi.json", local().app)
    checks = schemathesis.checks
    wanted = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    tried = []
    for operation in schema.get_all_operations():

        @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(operation.ok().as_strategy())
        def one(case):
            tried.append(case.path)
            case.call_and_validate(checks=wanted)

        one()
    assert {"/score", "/health", "/info", "/metrics"} <= set(tried)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8321"}, 200),
        ({"Host": "[::1]:8321"}, 200),
        ({"Host": "reward.example:8321"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1:8321", "Origin": "http://127.0.0.1:8321"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "127.0.0.1:8321", "Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_web_pages_cannot_use_a_server_without_a_key(local, headers, status):
    app = local(hosts=("reward.example",))
    reply = app.request("GET", "/info", headers=headers)
    assert reply.status_code == status
    assert ("backend" in reply.json()) == (status == 200)
    # Where a key is asked for, it is enough: a page does not have it.
    app = local(hosts=("reward.example",), api_key=KEY)
    assert app.request("GET", "/info", headers=headers | {"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_path_cannot_forge_a_line_of_the_log(local, caplog):
    app = local(api_key=KEY)
    with caplog.at_level("INFO", "geneval_reward"):
        app.request("GET", "/x%0a2026-01-01 INFO nobody: FORGED%1b[2J")
    (line,) = [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]
    assert line.isprintable()
    assert "FORGED" in line
