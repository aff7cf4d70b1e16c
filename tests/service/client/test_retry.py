import pickle
import time

import pytest

from geneval_reward.errors import ServiceError
from geneval_reward.service.client.retry import Attempts, Servers, may_succeed


def test_what_may_succeed():
    assert [
        status
        for status in (200, 400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 502, 503, 504)
        if may_succeed(status)
    ] == [
        408,
        429,
        500,
        502,
        503,
        504,
    ]


def test_load_goes_to_the_server_with_the_least():
    servers = Servers(["http://a", "http://b/", "http://c"])
    taken = [servers.take()[0].url for _ in range(9)]
    assert {url: taken.count(url) for url in taken} == {"http://a": 3, "http://b": 3, "http://c": 3}


def test_a_server_that_fails_is_left_alone():
    servers = Servers(["http://a", "http://b"])
    first, _ = servers.take()
    servers.give_back(first, rest=60.0, last="status 503")
    others = {servers.take()[0].url for _ in range(5)}
    assert others == {"http://a", "http://b"} - {first.url}
    servers.give_back(first)
    assert first.rest_until == 0.0


def test_retry_after_is_obeyed_and_bounded():
    servers = Servers(["http://a"])
    attempts = Attempts(servers, timeout=100)
    server, wait = attempts.next()
    assert wait == 0.0
    attempts.failed(server, "status 429", {"retry-after": "7"})
    server, wait = attempts.next()
    assert 6.9 < wait < 8
    attempts.failed(server, "status 429", {"retry-after": "100000"})
    assert attempts.next()[1] < 67


@pytest.mark.parametrize("header", ["soon", "-5", "٣", "", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_other_headers_are_not_obeyed(header):
    attempts = Attempts(Servers(["http://a"]), timeout=100)
    attempts.failed(attempts.next()[0], "status 503", {"retry-after": header})
    assert attempts.next()[1] <= 0.1


def test_waits_grow_to_a_bound():
    attempts = Attempts(Servers(["http://a"]), timeout=1000)
    waits = []
    for _ in range(12):
        server, wait = attempts.next()
        waits.append(wait)
        attempts.failed(server, "no connection")
    assert waits[0] == 0.0
    assert 0.04 < waits[1] <= 0.1
    assert max(waits) <= 5.0
    assert waits[-1] > 2.0


def test_the_error_names_server_and_last_answer():
    attempts = Attempts(Servers(["http://a"]), timeout=0.3)
    server, _ = attempts.next()
    attempts.failed(server, "status 429: full", {"retry-after": "60"})
    begun = time.monotonic()
    with pytest.raises(
        ServiceError,
        match=r"http://a: expected an answer within 0\.3 s, got none in 1 tries; the last: status 429: full",
    ):
        attempts.next()
    # A wait that cannot help is not waited for.
    assert time.monotonic() - begun < 0.2
    assert server.in_flight == 0


@pytest.mark.parametrize("urls", [[], ["127.0.0.1:8321"], ["ftp://a"]])
def test_addresses(urls):
    with pytest.raises(ValueError, match="url: expected"):
        Servers(urls)


def test_pickles_as_addresses():
    again = pickle.loads(pickle.dumps(Servers(["http://a", "http://a/", "http://b"])))
    assert [server.url for server in again.all] == ["http://a", "http://b"]
