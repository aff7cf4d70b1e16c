"""When to ask a server again: what failed, how long to wait, and which server is next. No I/O."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from geneval_reward.errors import ServiceError, UsageError

RETRIED: Final = frozenset({408, 429})
"""Statuses below 500 after which the same request may succeed, as it may after every status from 500 on."""

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0


@dataclass
class Server:
    """One server, as a client sees it.

    Attributes:
        url: Address without a slash at its end.
        in_flight: Number of requests that wait for its answer.
        rest_until: When to use it again, on `time.monotonic`; 0 if it works.
        last: Its last bad answer, in words.
    """

    url: str
    in_flight: int = 0
    rest_until: float = 0.0
    last: str = ""


class Servers:
    """Several servers of the same judge: requests go to the one with the fewest, and away from one that fails. Thread-safe.

    Args:
        urls: Addresses of the servers.

    Raises:
        UsageError: If there is none, or one is not an http(s) address.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise UsageError("url: expected at least one server, got none")
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise UsageError(f"url: expected an address such as http://127.0.0.1:8321, got {url!r}")
        self.all = [Server(url.rstrip("/")) for url in dict.fromkeys(urls)]
        self._lock = threading.Lock()

    def take(self) -> tuple[Server, float]:
        """The server to ask next, counted as in flight, and how many seconds to wait before: 0 if one works."""
        now = time.monotonic()
        with self._lock:
            # A resting server is taken only when all rest; then the one that is ready first.
            best = min(self.all, key=lambda one: (max(0.0, one.rest_until - now), one.in_flight, random.random()))
            best.in_flight += 1
            return best, max(0.0, best.rest_until - now)

    def give_back(self, server: Server, rest: float = 0.0, last: str = "") -> None:
        """Note that a request is over, and that the server should be left alone for `rest` seconds if it failed."""
        with self._lock:
            server.in_flight -= 1
            server.rest_until = time.monotonic() + rest if rest else 0.0
            server.last = last

    def __getstate__(self) -> list[str]:
        return [server.url for server in self.all]

    def __setstate__(self, urls: list[str]) -> None:
        self.__init__(urls)  # type: ignore[misc]


class Attempts:
    """The attempts of one request, within its time.

    Args:
        servers: The servers to ask.
        timeout: Seconds for all attempts together.

    Examples:
        >>> attempts = Attempts(Servers(["http://a", "http://b"]), timeout=10)
        >>> server, wait = attempts.next()
        >>> attempts.failed(server, "status 503", {"retry-after": "1"})
        >>> other, wait = attempts.next()
        >>> wait, other is server
        (0.0, False)
    """

    def __init__(self, servers: Servers, timeout: float) -> None:
        self._servers = servers
        self._end = time.monotonic() + timeout
        self._timeout = timeout
        self._wait = _FIRST_WAIT
        self._count = 0
        self._last = "nothing"

    @property
    def left(self) -> float:
        """Seconds left, never below a hundredth."""
        return max(0.01, self._end - time.monotonic())

    def next(self) -> tuple[Server, float]:
        """The server to ask, and after how many seconds.

        Raises:
            ServiceError: If the time is up or would be by then.
        """
        server, wait = self._servers.take()
        if time.monotonic() + wait >= self._end:
            self._servers.give_back(server, max(0.0, server.rest_until - time.monotonic()), server.last)
            raise ServiceError(
                f"{server.url}: expected an answer within {self._timeout:g} s, got none in {self._count} tries; the last: "
                f"{self._last}"
            )
        self._count += 1
        return server, wait

    def failed(self, server: Server, what: str, headers: Mapping[str, str] | None = None) -> None:
        """Note an attempt that failed in a way in which another may not."""
        self._last = what if len(self._servers.all) == 1 else f"{what} (of {server.url})"
        # At random, so that not all clients return at the same moment.
        rest = self._wait * random.uniform(0.5, 1.0)
        asked = (headers or {}).get("retry-after", "")
        if asked.isascii() and asked.isdigit():
            rest = max(rest, min(float(asked), 60.0) * random.uniform(1.0, 1.1))
        self._wait = min(_LONGEST_WAIT, self._wait * 2)
        self._servers.give_back(server, rest, what)

    def done(self, server: Server) -> None:
        """Note an attempt that was answered."""
        self._servers.give_back(server)


def may_succeed(status: int) -> bool:
    """Whether the same request may be answered differently later."""
    return status >= 500 or status in RETRIED
