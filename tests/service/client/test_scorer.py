"""The remote scorer against an application in this process; no sockets."""

import copy
import pickle
import subprocess
import sys
import warnings

import httpx
import numpy as np
import pytest
import torch

from geneval_reward.errors import ImageError, ScoringError, ServiceError, SpecError, UsageError
from geneval_reward.scorer import Scorer, fingerprint_id
from geneval_reward.service import RemoteScorer
from geneval_reward.service.client.connection import Connection, encode, may_succeed
from geneval_reward.service.client.scorer import split_into_requests
from geneval_reward.service.server.decode import decode
from geneval_reward.service.server.limits import Limits

BENCH = "a photo of a bench"
TWO = {"tag": "counting", "include": [{"class": "bench", "count": 2}], "exclude": [{"class": "bench", "count": 3}]}


class Bridge(httpx.BaseTransport):
    """Sends what a client sends to applications in this process, by host name; `faults` come first."""

    def __init__(self, apps):
        self.apps = apps
        self.faults = []
        self.hosts = []

    def handle_request(self, request):
        self.hosts.append(request.url.host)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            # A response can be read once; this one stands for several.
            return httpx.Response(fault.status_code, headers=fault.headers, content=fault.content)
        local = self.apps[request.url.host]
        reply = local.request(request.method, request.url.path, content=request.read(), headers=dict(request.headers))
        return httpx.Response(reply.status_code, headers=dict(reply.headers), content=reply.content)


@pytest.fixture
def remote(local):
    """Makes a scorer on applications in this process; its bridge is `scorer.bridge`."""

    def make(url="http://one", apps=None, *, timeout=20.0, api_key=None, **options):
        scorer = RemoteScorer(url, timeout=timeout, **options)
        scorer.bridge = Bridge(apps or {"one": local()})
        scorer.connection = Connection(url, api_key=api_key, timeout=timeout, transport=scorer.bridge)
        return scorer

    return make


@pytest.mark.parametrize("encoding", ["raw", "png", "webp"])
def test_same_as_in_process(remote, fakes, encoding):
    images = [fakes.picture(confidence) for confidence in (10, 100, 180, 250)]
    prompts = [BENCH, TWO, "a photo of a cow", {"tag": "single_object", "include": [{"class": "bench", "count": 1}]}]
    local, scorer = fakes.make(), remote(encoding=encoding, chunk=3)
    ours, theirs = local.score(images, prompts), scorer.score(images, prompts)
    assert [verdict.credits() for verdict in theirs] == [verdict.credits() for verdict in ours]
    assert [verdict.reason for verdict in theirs] == [verdict.reason for verdict in ours]
    assert [verdict.spec for verdict in theirs] == [verdict.spec for verdict in ours]
    scorer.close()
    assert scorer.score(images[:1], prompts[:1])[0].credits() == ours[0].credits()


def test_is_a_scorer(remote, fakes):
    local, scorer = fakes.make(), remote()
    assert isinstance(scorer, Scorer)
    assert (scorer.name, scorer.rules) == (local.name, local.rules)
    assert scorer.fingerprint() == local.fingerprint()
    assert fingerprint_id(scorer) == local.fingerprint_id
    assert scorer.to("cpu") is scorer
    assert copy.deepcopy(scorer) is scorer
    assert scorer.bridge.hosts == ["one"]  # asked once


def test_pickles_without_its_connection():
    scorer = RemoteScorer("http://a/", api_key="k" * 20, timeout=7, chunk=5, encoding="png")
    again = pickle.loads(pickle.dumps(scorer))
    assert again.__reduce__()[0].keywords == scorer.__reduce__()[0].keywords
    assert repr(again) == "RemoteScorer('http://a')"
    assert again.connection is not scorer.connection


def test_encodings_are_lossless():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 9, 7), dtype=np.uint8))
    for encoding in ("raw", "png", "webp"):
        payload, data = encode(image, encoding)
        assert torch.equal(decode(payload.model_dump(), memoryview(bytearray(data)), 100), image)


def test_what_is_not_valid_is_not_sent(remote, fakes):
    scorer = remote()
    with pytest.raises(ImageError, match=r"images\[1\]: expected floats in \[0, 1\]"):
        scorer.score([fakes.picture(), torch.full((3, 8, 8), -1.0)], [BENCH] * 2)
    with pytest.raises(SpecError, match=r"specs\[0\].*unicorn"):
        scorer.score([fakes.picture()], ["a photo of a unicorn"])
    with pytest.raises(UsageError, match="specs: expected 1, one per image, got 2"):
        scorer.score([fakes.picture()], [BENCH] * 2)
    assert scorer.score([], []) == []
    assert scorer.bridge.hosts == []


def test_one_bad_image_harms_no_other(remote, fakes):
    scorer = remote(chunk=2)
    images = [fakes.picture(200) for _ in range(7)]
    images[5] = fakes.picture(what=fakes.RAISE)
    with pytest.raises(
        ScoringError, match=r"1 of 7 images .* images\[5\]: ValueError: the detector does not like"
    ) as caught:
        scorer.score(images, [BENCH] * 7)
    assert [index for index, error in enumerate(caught.value.errors) if error] == [5]
    assert [verdict is None for verdict in caught.value.verdicts] == [index == 5 for index in range(7)]
    assert str(caught.value.errors[5]) == "ValueError: the detector does not like this image"


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(408),
        httpx.Response(429, headers={"Retry-After": "0"}),
        httpx.Response(500, text="oops"),
        httpx.Response(503),
    ],
)
def test_what_can_succeed_is_tried_again(remote, fakes, fault):
    scorer = remote()
    scorer.bridge.faults = [fault, None]
    assert scorer.score([fakes.picture()], [BENCH])[0].correct
    assert len(scorer.bridge.hosts) == 2
    scorer.bridge.faults = [fault, None]
    assert scorer.name == "fake"


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_what_cannot_succeed_is_not(remote, fakes, status):
    scorer = remote()
    scorer.bridge.faults = [httpx.Response(status, json={"error": "no, never"})]
    with pytest.raises(
        ServiceError, match=f"http://one: expected an answer to POST /score, got status {status}: no, never"
    ):
        scorer.score([fakes.picture()], [BENCH])
    assert len(scorer.bridge.hosts) == 1


def test_a_request_is_bounded_in_bytes():
    large = torch.zeros(1, dtype=torch.uint8).expand(3, 1024, 1024)  # 3 MiB to the client, a byte to this machine
    huge = torch.zeros(1, dtype=torch.uint8).expand(3, 4096, 4096)
    small = torch.zeros(3, 8, 8, dtype=torch.uint8)
    images = [large] * 24 + [huge, huge] + [small] * 40
    chunks = split_into_requests(images, 32)
    assert [index for chunk in chunks for index in chunk] == list(range(len(images)))
    assert [len(chunk) for chunk in chunks] == [10, 10, 4, 1, 1, 32, 8]


def test_a_request_too_large_for_the_server_is_cut(remote, local, fakes):
    scorer = remote(apps={"one": local(limits=Limits(max_items=2, max_pixels=10**6))})
    images = [fakes.picture(confidence) for confidence in (250, 10, 250, 250, 10)]
    images[2] = fakes.picture(what=fakes.RAISE)
    with pytest.raises(ScoringError) as caught:
        scorer.score(images, [BENCH] * 5)
    assert [verdict and verdict.correct for verdict in caught.value.verdicts] == [True, False, None, True, False]
    assert str(caught.value.errors[2]).startswith("ValueError")
    assert len(scorer.bridge.hosts) == 5  # 5 (refused), 2, 3 (refused), 1, 2


def test_halves_share_the_time(remote, fakes):
    scorer = remote(timeout=0.4)
    scorer.bridge.faults = [httpx.Response(413, json={"error": "too large"})] + [httpx.Response(503)] * 100
    with pytest.raises(ServiceError, match=r"expected an answer within 0\.4 s.*status 503"):
        scorer.score([fakes.picture()] * 2, [BENCH] * 2)


def test_another_kind_of_server(remote, fakes):
    scorer = remote()
    scorer.bridge.faults = [httpx.Response(200, text="<html>It works!</html>")] * 2
    with pytest.raises(ServiceError, match="expected the reply of a geneval-reward server, got '<html>It works!"):
        scorer.score([fakes.picture()], [BENCH])
    with pytest.raises(ServiceError, match="expected the reply of a geneval-reward server"):
        scorer.fingerprint()


def test_two_judges_do_not_mix(remote, local, fakes):
    """A server behind the same address that was started again with other rules."""
    from geneval_reward.testing import FakeDetector, scorer_for

    scorer = remote()
    scorer.score([fakes.picture()], [BENCH])
    scorer.bridge.apps["one"] = local(pool=local.pool(scorer_for(FakeDetector(fakes.look), rules="lite")))
    with pytest.raises(ServiceError, match=r"http://one: expected the (fingerprint|rules) .* as before"):
        scorer.score([fakes.picture()], [BENCH])


@pytest.fixture
def naps(monkeypatch):
    """Seconds that the client sleeps, in place of sleeping them."""
    from geneval_reward.service.client import connection

    slept, clock = [], [0.0]

    def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(connection.time, "sleep", sleep)
    monkeypatch.setattr(connection.time, "monotonic", lambda: clock[0])
    return slept


def test_retry_after_is_obeyed_and_bounded(remote, fakes, naps):
    scorer = remote(timeout=100)
    scorer.bridge.faults = [httpx.Response(429, headers={"Retry-After": after}) for after in ("7", "100000")] + [None]
    scorer.connection.info()
    assert naps[0] == 0.0
    assert 6.9 < naps[1] < 8
    assert 59 < naps[2] < 67


@pytest.mark.parametrize("header", ["soon", "-5", "", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_other_headers_are_not_obeyed(remote, naps, header):
    scorer = remote(timeout=100)
    scorer.bridge.faults = [httpx.Response(503, headers={"Retry-After": header}), None]
    scorer.connection.info()
    assert naps[1] <= 0.1


def test_waits_grow_to_a_bound_and_one_that_cannot_help_is_not_waited_for(remote, naps):
    scorer = remote(timeout=40)
    scorer.bridge.faults = [httpx.ConnectError("refused")] * 100
    with pytest.raises(
        ServiceError, match=r"http://one: expected an answer within 40 s, got none in \d+ tries; the last: no"
    ):
        scorer.connection.info()
    assert 0.04 < naps[1] <= 0.1
    assert 2.0 < max(naps) <= 5.0
    assert sum(naps) < 40


def test_what_may_succeed():
    final = [status for status in (200, 400, 401, 403, 404, 413, 415, 422) if may_succeed(status)]
    assert final == []
    assert all(may_succeed(status) for status in (408, 429, 500, 502, 503, 504))


def test_the_time_is_kept(remote, fakes):
    scorer = remote(timeout=0.4)
    scorer.bridge.faults = [httpx.Response(503, json={"error": "draining"})] * 100
    with pytest.raises(ServiceError, match=r"http://one: expected an answer within 0\.4 s.*status 503: draining"):
        scorer.score([fakes.picture()], [BENCH])
    assert 1 < len(scorer.bridge.hosts) < 12


def test_a_key_is_sent(remote, local, fakes, monkeypatch):
    apps = {"one": local(api_key="s" * 20)}
    assert remote(apps=apps, api_key="s" * 20).score([fakes.picture()], [BENCH])[0].correct
    with pytest.raises(ServiceError, match="status 401: Authorization"):
        remote(apps=apps, api_key="t" * 20).score([fakes.picture()], [BENCH])
    monkeypatch.setenv("GENEVAL_REWARD_API_KEY", "s" * 20)
    assert RemoteScorer("http://one").__reduce__()[0].keywords["api_key"] == "s" * 20


def test_another_version_is_told_once(remote, fakes):
    scorer = remote()
    ask = scorer.connection.score

    def changed(items):
        reply = ask(items)
        verdict = reply.items[0].verdict
        odd = verdict.model_copy(update={"credits": verdict.credits | {"dense": 0.123}})
        return reply.model_copy(
            update={"items": [reply.items[0].model_copy(update={"verdict": odd})], "version": "9.9"}
        )

    scorer.connection.score = changed
    with pytest.warns(UserWarning, match=r"server's geneval-reward 9\.9 gives other credits"):
        assert scorer.score([fakes.picture(60)], [BENCH])[0].dense != 0.123
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.score([fakes.picture(60)], [BENCH])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "jpeg"}, "encoding: expected one of raw"),
        ({"chunk": 0}, "chunk: expected an integer"),
        ({"timeout": 0}, "timeout: expected a positive"),
        ({"url": "one:8321"}, "url: expected an address"),
        ({"url": "ftp://one"}, "url: expected an address"),
        ({"url": ["http://one"]}, "url: expected an address"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(UsageError, match=message):
        RemoteScorer(**{"url": "http://one"} | options)


@pytest.mark.parametrize("missing", ["httpx", "pydantic"])
@pytest.mark.parametrize(
    "line", ["from geneval_reward.service import RemoteScorer", "import geneval_reward.service.client.scorer"]
)
@pytest.mark.slow
def test_a_missing_extra_is_named(missing, line):
    code = f"import sys; sys.modules[{missing!r}] = None\ntry:\n    {line}\nexcept ImportError as e: print(e)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"RemoteScorer: expected the package {missing}" in said
    assert "pip install 'geneval-reward[serve]'" in said
