"""Requests to reward servers: where they go, when they are repeated, and whether all servers judge alike."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from geneval_reward.errors import DependencyError, ServiceError
from geneval_reward.service.client.retry import Attempts, Server, Servers, may_succeed

try:
    import httpx
    from pydantic import BaseModel, JsonValue, ValidationError

    from geneval_reward.service.wire import (
        IMAGE_PART,
        REQUEST_PART,
        SCORE_PATH,
        ErrorReply,
        ImagePayload,
        InfoReply,
        ScoreReply,
        ScoreRequest,
    )
except ImportError as error:
    raise DependencyError(
        f"RemoteScorer: expected the package {error.name}, got {error}; pip install 'geneval-reward[serve]'"
    ) from error

_log = logging.getLogger(__name__)

_Reply = TypeVar("_Reply", bound=BaseModel)

_CONNECT_TIMEOUT: Final = 5.0
_TRAVEL_TIME: Final = 0.5  # seconds of a request's time that are left for its answer to travel


class EncodedItem(NamedTuple):
    """One image as it is sent, with the record of what was asked."""

    payload: ImagePayload
    data: bytes
    record: dict[str, JsonValue]


class Connection:
    """Sends requests to one server, or to several that judge alike. Thread-safe.

    A request is repeated only where that can help (no connection, 408, 429 and 5xx) and only within `timeout`; then one error
    names the server and its last answer. A request that is too large for the server (413) is sent again in halves.

    Args:
        urls: Addresses of the servers.
        api_key: Key of the servers, or None.
        timeout: Seconds for a call, all attempts together.
        verify: For https: False, or the file of a certificate authority.
        transport: Replaces the network in tests.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        verify: bool | str = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.servers = Servers(urls)
        self.timeout = timeout
        # trust_env: a proxy from the environment would see the images and has no way to a server on loopback.
        self._options: dict[str, Any] = {
            "headers": {} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            "verify": verify,
            "trust_env": False,
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=15.0),
            "transport": transport,
        }
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._judge: tuple[str, str, dict[str, JsonValue]] | None = None

    def info(self) -> InfoReply:
        """What a server says about itself.

        Raises:
            ServiceError: If no server answers in time, or one judges differently from those before.
        """

        def options(seconds: float) -> dict[str, Any]:
            return {"timeout": min(seconds, 10.0)}

        server, response = self._send("GET", "/info", options, Attempts(self.servers, self.timeout))
        reply = _parse(InfoReply, server, response)
        self._check_judge(server.url, reply.fingerprint, reply.rules)
        return reply

    def score(self, items: Sequence[EncodedItem], attempts: Attempts | None = None) -> ScoreReply:
        """Ask for the verdicts of a request's images.

        Args:
            items: Images of one request.
            attempts: Attempts left; None for a new call.

        Raises:
            ServiceError: If no server answers in time, one refuses the request, or one judges differently from those before.
        """
        attempts = attempts or Attempts(self.servers, self.timeout)

        def options(seconds: float) -> dict[str, Any]:
            return _form(items, seconds)

        server, response = self._send("POST", SCORE_PATH, options, attempts, may_halve=len(items) > 1)
        if response.status_code == 413:
            _log.info("%s: %d images are too many (%s); sending halves", server.url, len(items), _reason(response))
            half = len(items) // 2
            replies = [self.score(part, attempts) for part in (items[:half], items[half:])]
            return replies[0].model_copy(update={"items": [item for reply in replies for item in reply.items]})
        reply = _parse(ScoreReply, server, response)
        if len(reply.items) != len(items):
            raise ServiceError(
                f"{server.url}: expected {len(items)} answers, got {len(reply.items)}; update the server"
            )
        self._check_judge(server.url, reply.fingerprint, reply.rules)
        return reply

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _send(
        self,
        method: str,
        path: str,
        options: Callable[[float], dict[str, Any]],
        attempts: Attempts,
        *,
        may_halve: bool = False,
    ) -> tuple[Server, httpx.Response]:
        """The first answer that is final: status 200, or 413 where the caller can send less."""
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(**self._options)
            client = self._client
        while True:
            server, wait = attempts.next()
            try:
                time.sleep(wait)
                response = client.request(method, server.url + path, **options(attempts.left))
            except httpx.TransportError as error:
                attempts.failed(server, _describe(error))
                continue
            except BaseException:
                attempts.done(server)
                raise
            answer = f"status {response.status_code}: {_reason(response)}"
            if may_succeed(response.status_code):
                attempts.failed(server, answer, response.headers)
                continue
            attempts.done(server)
            if response.status_code == 200 or (response.status_code == 413 and may_halve):
                return server, response
            raise ServiceError(f"{server.url}: expected an answer to {method} {path}, got {answer}")

    def _check_judge(self, url: str, fingerprint: str, rules: dict[str, JsonValue]) -> None:
        with self._lock:
            if self._judge is None:
                self._judge = (url, fingerprint, rules)
            first, first_fingerprint, first_rules = self._judge
        for name, before, now in (("fingerprint", first_fingerprint, fingerprint), ("rules", first_rules, rules)):
            if before != now:
                raise ServiceError(
                    f"{url}: expected the {name} {before} as {first} had it, got {now}; verdicts of two judges do not mix, "
                    "so run the same version, backend and rules everywhere"
                )


def _form(items: Sequence[EncodedItem], seconds: float) -> dict[str, Any]:
    """What httpx sends: a form with the request as JSON and the images as bytes."""
    request = ScoreRequest.model_construct(
        images=[item.payload for item in items],
        prompts=[item.record for item in items],
        timeout=max(0.05, seconds - min(_TRAVEL_TIME, 0.1 * seconds)),
    )
    parts = [(IMAGE_PART, ("image", item.data, "application/octet-stream")) for item in items]
    return {
        "files": [(REQUEST_PART, (None, request.model_dump_json(exclude_defaults=True), "application/json")), *parts],
        "timeout": httpx.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT)),
    }


def _parse(model: type[_Reply], server: Server, response: httpx.Response) -> _Reply:
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise ServiceError(
            f"{server.url}: expected the reply of a geneval-reward server, got {response.text[:200]!r}; check the address"
        ) from error


def _describe(error: httpx.TransportError) -> str:
    kind = "no connection" if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) else type(error).__name__
    return f"{kind} ({error})" if str(error) else kind


def _reason(response: httpx.Response) -> str:
    if response.status_code == 200:
        return "OK"
    try:
        return ErrorReply.model_validate_json(response.content).error
    except ValidationError:
        return response.text[:200]
