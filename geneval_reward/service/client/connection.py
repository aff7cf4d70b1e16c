"""Requests to a reward server: how images are sent, when a request is repeated, and whether the judge stays the same."""

from __future__ import annotations

import io
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from geneval_reward.errors import DependencyError, ServiceError, UsageError

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
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds between attempts; they double

ENCODINGS: Final = ("raw", "png", "webp")


class EncodedItem(NamedTuple):
    """An encoded image with the record of what it should show."""

    payload: ImagePayload
    data: bytes
    record: dict[str, JsonValue]


class Connection:
    """Sends requests to one server. Thread-safe.

    A request is retried only if that can help (no connection, 408, 429 or 5xx) and only within `timeout`. After that, one error
    names the server and its last answer. A request that is too large for the server (413) is split in half and sent again.

    Args:
        url: Address of the server.
        api_key: The server's key, or None.
        timeout: Seconds per call, over all attempts.
        verify: For https, False or the path of a certificate authority's file.
        transport: Replaces the network in tests.

    Raises:
        UsageError: If the address is not an http or https URL.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 60.0,
        verify: bool | str = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise UsageError(f"url: expected an address such as http://127.0.0.1:8321, got {url!r}")
        self.url = url.rstrip("/")
        self.timeout = timeout
        # trust_env: a proxy from the environment would see the images and cannot reach a server on loopback.
        self._options: dict[str, Any] = {
            "headers": {} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            "verify": verify,
            "trust_env": False,
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=15.0),
            "transport": transport,
        }
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._judge: tuple[str, dict[str, JsonValue]] | None = None

    def info(self) -> InfoReply:
        """Ask the server to describe itself.

        Raises:
            ServiceError: If it does not answer in time, or judges differently than before.
        """
        end = time.monotonic() + self.timeout
        reply = self._parse(InfoReply, self._send("GET", "/info", lambda left: {"timeout": min(left, 10.0)}, end))
        self._check_judge(reply.fingerprint, reply.rules)
        return reply

    def score(self, items: Sequence[EncodedItem], end: float | None = None) -> ScoreReply:
        """Ask for the verdicts of a request's images.

        Args:
            items: Images of one request.
            end: When to give up, on `time.monotonic`; None for `timeout` from now.

        Raises:
            ServiceError: If the server does not answer in time, refuses the request, or judges differently than before.
        """
        end = time.monotonic() + self.timeout if end is None else end
        response = self._send("POST", SCORE_PATH, lambda left: _form(items, left), end, may_halve=len(items) > 1)
        if response.status_code == 413:
            _log.info("%s: %d images are too many (%s); sending halves", self.url, len(items), _reason(response))
            half = len(items) // 2
            replies = [self.score(part, end) for part in (items[:half], items[half:])]
            return replies[0].model_copy(update={"items": [item for reply in replies for item in reply.items]})
        reply = self._parse(ScoreReply, response)
        if len(reply.items) != len(items):
            raise ServiceError(f"{self.url}: expected {len(items)} answers, got {len(reply.items)}; update the server")
        self._check_judge(reply.fingerprint, reply.rules)
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
        end: float,
        *,
        may_halve: bool = False,
    ) -> httpx.Response:
        """Return the first final answer: status 200, or 413 if the caller can send less."""
        with self._lock:
            if self._client is None:
                self._client = httpx.Client(**self._options)
            client = self._client
        wait, rest, tries, last = _FIRST_WAIT, 0.0, 0, "nothing"
        while time.monotonic() + rest < end:
            time.sleep(rest)
            tries += 1
            asked = ""
            try:
                response = client.request(method, self.url + path, **options(max(0.01, end - time.monotonic())))
            except httpx.TransportError as error:
                last = _describe(error)
            else:
                if response.status_code == 200 or (response.status_code == 413 and may_halve):
                    return response
                last = f"status {response.status_code}: {_reason(response)}"
                if not may_succeed(response.status_code):
                    raise ServiceError(f"{self.url}: expected an answer to {method} {path}, got {last}")
                asked = response.headers.get("retry-after", "")
            # Randomised so that clients do not all retry at the same moment.
            rest = wait * random.uniform(0.5, 1.0)
            if asked.isascii() and asked.isdigit():
                rest = max(rest, min(float(asked), 60.0) * random.uniform(1.0, 1.1))
            wait = min(_LONGEST_WAIT, wait * 2)
        raise ServiceError(
            f"{self.url}: expected an answer within {self.timeout:g} s, got none in {tries} tries; the last: {last}"
        )

    def _check_judge(self, fingerprint: str, rules: dict[str, JsonValue]) -> None:
        with self._lock:
            if self._judge is None:
                self._judge = fingerprint, rules
            before = self._judge
        for name, known, now in zip(("fingerprint", "rules"), before, (fingerprint, rules), strict=True):
            if known != now:
                raise ServiceError(
                    f"{self.url}: expected the {name} {known} as before, got {now}; verdicts of two judges do not mix, so run "
                    "the same version, backend and rules behind one address"
                )

    def _parse(self, model: type[_Reply], response: httpx.Response) -> _Reply:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise ServiceError(
                f"{self.url}: expected the reply of a geneval-reward server, got {response.text[:200]!r}; check the address"
            ) from error


def may_succeed(status: int) -> bool:
    """Return whether the same request may get a different answer later.

    Examples:
        >>> [status for status in (400, 408, 413, 429, 503) if may_succeed(status)]
        [408, 429, 503]
    """
    return status >= 500 or status in (408, 429)


def encode(image: torch.Tensor, encoding: str) -> tuple[ImagePayload, bytes]:
    """Encode an image for a request.

    Args:
        image: `(3, h, w)` uint8, on any device.
        encoding: `raw`, `png` or `webp`.

    Returns:
        A description of the image, and its bytes.

    Examples:
        >>> payload, data = encode(torch.zeros(3, 4, 5, dtype=torch.uint8), "raw")
        >>> payload.shape, payload.layout, len(data)
        ((3, 4, 5), 'chw', 60)
    """
    array = np.ascontiguousarray(image.cpu().numpy())
    if encoding == "raw":
        return ImagePayload(format="raw", shape=array.shape, layout="chw"), array.tobytes()
    buffer = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))
    if encoding == "png":
        picture.save(buffer, "PNG", compress_level=1)
    else:
        picture.save(buffer, "WEBP", lossless=True, quality=0, method=0, exact=True)
    return ImagePayload(format=encoding), buffer.getvalue()  # type: ignore[arg-type]


def _form(items: Sequence[EncodedItem], seconds: float) -> dict[str, Any]:
    """Build the form that httpx sends: the request as JSON and the images as bytes."""
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
