"""The client against an application in this process; no sockets."""

import asyncio
import pickle
import warnings

import httpx
import numpy as np
import pytest
import torch

from geneval_reward.errors import ImageError, ServiceError, SpecError
from geneval_reward.reward import GenEvalReward
from geneval_reward.reward.batch import PreparedBatch
from geneval_reward.service.client.encode import encode
from geneval_reward.service.client.scorer import RemoteGenEvalReward
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.worker import decode

BENCH = "a photo of a bench"
TWO = {"tag": "counting", "include": [{"class": "bench", "count": 2}], "exclude": [{"class": "bench", "count": 3}]}


class Bridge(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Sends what a client sends to applications in this process, by host name; `faults` come first."""

    def __init__(self, apps):
        self.apps = apps
        self.faults = []
        self.hosts = []

    def _fault(self, request):
        self.hosts.append(request.url.host)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            if fault is not None:
                # A response can be read once; this one stands for several.
                return httpx.Response(fault.status_code, headers=fault.headers, content=fault.content)
        return None

    def handle_request(self, request):
        if (fault := self._fault(request)) is not None:
            return fault
        local = self.apps[request.url.host]
        reply = local.request(request.method, request.url.path, content=request.read(), headers=dict(request.headers))
        return httpx.Response(reply.status_code, headers=dict(reply.headers), content=reply.content)

    async def handle_async_request(self, request):
        if (fault := self._fault(request)) is not None:
            return fault
        return await httpx.ASGITransport(self.apps[request.url.host].app).handle_async_request(request)


@pytest.fixture
def remote(local, monkeypatch):
    """Makes a client of applications in this process; its bridge is `client.bridge`."""

    def make(urls="http://one", apps=None, **options):
        bridge = Bridge(apps or {"one": local(), "two": local()})
        client = RemoteGenEvalReward(urls, **{"timeout": 20.0, **options})
        plain = client._client_options
        monkeypatch.setattr(client, "_client_options", lambda: plain() | {"transport": bridge})
        client.bridge = bridge
        return client

    return make


@pytest.mark.parametrize("encoding", ["raw", "png", "webp"])
@pytest.mark.parametrize("credit", ["official", "strict", "partial", "dense", "flow_grpo"])
def test_same_as_in_process(remote, fakes, encoding, credit):
    images = [fakes.picture(confidence) for confidence in (10, 100, 180, 250)]
    prompts = [BENCH, TWO, "a photo of a cow", {"tag": "single_object", "include": [{"class": "bench", "count": 1}]}]
    ours = GenEvalReward(fakes.make(), credit).score(images, prompts)
    client = remote(credit=credit, encoding=encoding, chunk=3)
    theirs = client.score(images, prompts)
    assert theirs.rewards == ours.rewards
    assert theirs.credits() == ours.credits()
    assert [verdict.reason for verdict in theirs.verdicts] == [verdict.reason for verdict in ours.verdicts]
    assert asyncio.run(client.ascore(images, prompts)).rewards == ours.rewards
    assert client.submit(images, prompts).result(20).rewards == ours.rewards
    assert client(images=images, prompts=prompts) == ours.rewards
    client.close()


def test_is_a_reward_that_pickles(remote):
    client = RemoteGenEvalReward(
        ["http://a", "http://b"],
        "dense",
        api_key="k" * 20,
        timeout=7,
        prompts=[{"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "my cat"}],
    )
    again = pickle.loads(pickle.dumps(client))
    assert isinstance(again, GenEvalReward)
    assert (again.urls, again.credit, again.timeout, again.__name__) == (client.urls, "dense", 7, "geneval_dense")
    assert again._key == client._key
    assert again._specs == client._specs
    assert "k" * 20 not in repr(again)
    with pytest.raises(ServiceError, match="expected a reward in this process"):
        _ = again.scorer


def test_encodings_are_lossless():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 9, 7), dtype=np.uint8))
    for encoding in ("raw", "png", "webp"):
        payload, data = encode(image, encoding)
        assert torch.equal(decode(payload.model_dump(), memoryview(bytearray(data)), 100), image)


def test_one_bad_sample_is_none(remote, fakes):
    client = remote()
    images = [fakes.picture(200), torch.full((3, 8, 8), -1.0), fakes.picture(what=fakes.RAISE), fakes.picture(10)]
    batch = client.score(images, [BENCH, BENCH, BENCH, "a photo of a unicorn"])
    assert batch.rewards == [1.0, None, None, None]
    assert "images[1]: expected floats in [0, 1]" in batch.errors[1]
    assert batch.errors[2] == "images[2]: ValueError: the detector does not like this image"
    assert "prompts[3]" in batch.errors[3]
    with pytest.raises(ImageError, match="at least one sample that can be scored, got 2"):
        client.score([fakes.picture(what=fakes.RAISE)] * 2, [BENCH] * 2)
    with pytest.raises(SpecError, match="unicorn"):
        client.score(images[:1], ["a photo of a unicorn"])


def test_errors_keep_their_place(remote, fakes):
    client = remote(chunk=2)
    images = [fakes.picture(200) for _ in range(7)]
    images[5] = fakes.picture(what=fakes.RAISE)
    batch = client.score(images, [BENCH] * 7)
    assert [index for index, error in enumerate(batch.errors) if error] == [5]
    assert batch.errors[5].startswith("images[5]: ValueError")


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
    client = remote()
    client.bridge.faults = [fault, None]
    assert client.score([fakes.picture()], [BENCH]).rewards == [1.0]
    client.bridge.faults = [fault, None]
    assert asyncio.run(client.ascore([fakes.picture()], [BENCH])).rewards == [1.0]
    assert len(client.bridge.hosts) == 4


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_what_cannot_succeed_is_not(remote, fakes, status):
    client = remote()
    client.bridge.faults = [httpx.Response(status, json={"error": "no, never"})]
    with pytest.raises(ServiceError, match=f"http://one: expected rewards, got status {status}: no, never"):
        client.score([fakes.picture()], [BENCH])
    assert len(client.bridge.hosts) == 1


def test_a_request_is_bounded_in_bytes(remote):
    client = remote(chunk=32)
    large = torch.zeros(1, dtype=torch.uint8).expand(3, 1024, 1024)  # 3 MiB to the client, a byte to this machine
    huge = torch.zeros(1, dtype=torch.uint8).expand(3, 4096, 4096)
    small = torch.zeros(3, 8, 8, dtype=torch.uint8)
    images = [large] * 24 + [huge, huge] + [small] * 40
    chunks = client._chunks(PreparedBatch(images, [None] * len(images), [None] * len(images)))
    assert [index for chunk in chunks for index in chunk] == list(range(len(images)))
    assert [len(chunk) for chunk in chunks] == [10, 10, 4, 1, 1, 32, 8]


@pytest.mark.parametrize("way", ["threads", "asyncio"])
def test_a_request_too_large_for_the_server_is_cut(remote, local, fakes, way):
    client = remote(apps={"one": local(limits=Limits(max_items=2, max_pixels=10**6))})
    images = [fakes.picture(confidence) for confidence in (250, 10, 250, 250, 10)]
    images[2] = fakes.picture(what=fakes.RAISE)
    score = client.score if way == "threads" else lambda *batch: asyncio.run(client.ascore(*batch))
    batch = score(images, [BENCH] * 5)
    assert batch.rewards == [1.0, 0.0, None, 1.0, 0.0]
    assert batch.errors[2].startswith("images[2]: ValueError")
    assert len(client.bridge.hosts) == 5  # 5 (refused), 2, 3 (refused), 1, 2


def test_halves_share_the_time(remote, fakes):
    client = remote(timeout=0.4)
    client.bridge.faults = [httpx.Response(413, json={"error": "too large"})] + [httpx.Response(503)] * 100
    with pytest.raises(ServiceError, match=r"expected an answer within 0\.4 s.*status 503"):
        client.score([fakes.picture()] * 2, [BENCH] * 2)


def test_another_kind_of_server(remote, fakes):
    client = remote()
    client.bridge.faults = [httpx.Response(200, text="<html>It works!</html>")]
    with pytest.raises(ServiceError, match="expected the reply of a geneval-reward server, got '<html>It works!"):
        client.score([fakes.picture()], [BENCH])


def test_failover(remote, fakes):
    client = remote(["http://one", "http://two"])
    client.bridge.faults = [httpx.ConnectError("refused")]
    for _ in range(6):
        assert client.score([fakes.picture()], [BENCH]).rewards == [1.0]
    first, *others = client.bridge.hosts
    assert set(others[:1]) == {"one", "two"} - {first}


def test_load_is_spread(remote, fakes):
    client = remote(["http://one", "http://two"], chunk=1)
    client.score([fakes.picture() for _ in range(20)], [BENCH] * 20)
    counts = {host: client.bridge.hosts.count(host) for host in ("one", "two")}
    assert min(counts.values()) >= 4, counts


def test_two_judges_do_not_mix(remote, local, fakes):
    from geneval_reward.testing import FakeDetector, scorer_for

    other = local.pool()
    other.scorer = scorer_for(FakeDetector(fakes.look), rules="lite")
    other.info = other.info | {"rules": other.scorer.rules.to_dict()}
    client = remote(["http://one", "http://two"], apps={"one": local(), "two": local(pool=other)}, chunk=1)
    with pytest.raises(ServiceError, match=r"expected the rules .* as http://(one|two) had it"):
        client.score([fakes.picture() for _ in range(20)], [BENCH] * 20)


def test_the_time_is_kept(remote, fakes):
    client = remote(timeout=0.4)
    client.bridge.faults = [httpx.Response(503, json={"error": "draining"})] * 100
    with pytest.raises(ServiceError, match=r"http://one: expected an answer within 0\.4 s.*status 503: draining"):
        client.score([fakes.picture()], [BENCH])
    assert 1 < len(client.bridge.hosts) < 12


def test_a_key_is_sent(remote, local, fakes, monkeypatch):
    app = {"one": local(api_key="s" * 20)}
    assert remote(apps=app, api_key="s" * 20).score([fakes.picture()], [BENCH]).rewards == [1.0]
    monkeypatch.setenv("GENEVAL_REWARD_API_KEY", "s" * 20)
    assert remote(apps=app).score([fakes.picture()], [BENCH]).rewards == [1.0]
    with pytest.raises(ServiceError, match="status 401: Authorization"):
        remote(apps=app, api_key="t" * 20).score([fakes.picture()], [BENCH])


def test_another_version_is_told_once(remote, local, fakes):
    app = local()
    client = remote(apps={"one": app}, credit="dense")
    answers = client.score([fakes.picture(60)], [BENCH])
    original = client._read

    def changed(*arguments):
        reply = original(*arguments)
        items = [item.model_copy(update={"reward": 0.123}) for item in reply.items]
        return reply.model_copy(update={"items": items, "version": "9.9"})

    client._read = changed
    with pytest.warns(UserWarning, match=r"server's geneval-reward 9\.9 gives other credits"):
        assert client.score([fakes.picture(60)], [BENCH]).rewards == [0.123]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client.score([fakes.picture(60)], [BENCH])
    assert answers.rewards != [0.123]


def test_an_empty_batch_asks_nobody(remote):
    client = remote()
    assert client.score([], []).rewards == []
    assert client.bridge.hosts == []


def test_info(remote):
    (info,) = remote().info()
    assert info.backend == "fake"
    assert info.limits["max_items"] == 128


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "jpeg"}, "encoding: expected one of raw"),
        ({"chunk": 0}, "chunk: expected an integer"),
        ({"timeout": 0}, "timeout: expected a positive"),
        ({"credit": "best"}, "credit: expected one of"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        RemoteGenEvalReward("http://one", **options)
