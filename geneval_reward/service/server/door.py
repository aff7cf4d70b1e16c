"""Checks before a request reaches the application: host, key, request id, and limits on its body."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from geneval_reward.service.server.limits import Limits
from geneval_reward.service.wire import REQUEST_ID_HEADER, ErrorReply

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = frozenset({"/health"})
"""Paths that need no key: a load balancer has none, and they reveal nothing."""

_LINGER: Final = 2.0  # seconds for discarding the rest of a refused body, so that the client can read the answer
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: Message for the client.
        retry_after: Seconds after which a retry makes sense.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after

    def response(self, request_id: str) -> Response:
        """Make the response, an `ErrorReply`."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (400, 408, 413):
            headers["Connection"] = "close"  # the rest of the body is not read
        text = ErrorReply(error=self.message, request_id=request_id).model_dump_json()
        return Response(text, self.status, headers, "application/json")


class Door:
    """ASGI middleware that lets only permitted requests through and limits how much of a body the application reads.

    The application finds `request_id` and `begun` (a `time.monotonic` time) in `request.state`. It gets a `RefusedError` when
    it reads a body beyond the limits.

    Args:
        app: The application.
        limits: Limits on bodies and their memory.
        api_key: The key that `Authorization: Bearer` must carry; None if none is needed.
        keyless_paths: Additional paths that need no key, because their protocol has none.
        hosts: Names allowed in the Host header where no key is needed, besides those of the loopback interface; None for any. A
            web page in a browser on this machine can send requests to a loopback port, but its Host or Origin differs.
        on_refused: Called with the status of each request refused here.

    Attributes:
        memory: Current bytes of all bodies.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        *,
        api_key: str | None = None,
        keyless_paths: Collection[str] = (),
        hosts: Collection[str] | None = None,
        on_refused: Callable[[int], None] = lambda status: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._key = None if api_key is None else api_key.encode()
        self._keyless_paths = OPEN_PATHS | frozenset(keyless_paths)
        self._hosts = None if hosts is None else frozenset(hosts)
        self._on_refused = on_refused
        self.memory = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, begun=time.monotonic())

        async def tagged_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        body = _BoundedBody(self, self._limits, headers, receive)
        try:
            self._check(scope["path"], headers)
            await self._app(scope, body.receive, tagged_send)
        except RefusedError as error:
            client = (scope.get("client") or ("?", 0))[0]
            # The path is quoted because it may hold line breaks and terminal sequences.
            path = ascii(scope["path"])[:100]
            _log.info("refused id=%s client=%s path=%s status=%d: %s", request_id, client, path, error.status, error)
            self._on_refused(error.status)
            await error.response(request_id)(scope, receive, tagged_send)
        finally:
            await body.discard_rest()
            self.memory -= body.size

    def _check(self, path: str, headers: Headers) -> None:
        if "content-length" in headers and "transfer-encoding" in headers:
            # RFC 9112, 6.3: request smuggling exploits the ambiguity about which of the two applies.
            raise RefusedError(400, "body: expected Content-Length or Transfer-Encoding, got both; send one")
        if self._key is not None and path not in self._keyless_paths:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._key):
                raise RefusedError(401, "Authorization: expected 'Bearer' and this server's key, got none or another")
        elif self._hosts is not None:
            self._check_origin(headers)

    def _check_origin(self, headers: Headers) -> None:
        assert self._hosts is not None
        host, origin = headers.get("host", ""), headers.get("origin")
        name = urlsplit(f"//{host}").hostname or ""
        if name not in self._hosts and not is_loopback(name):
            raise RefusedError(
                403, f"Host: expected the name of this machine, got {host[:100]!r}; use a key, or --host with that name"
            )
        if origin is not None and urlsplit(origin).netloc != host:
            raise RefusedError(403, f"Origin: expected no web page of another server, got {origin[:100]!r}; use a key")


class _BoundedBody:
    """A request's `receive` that counts the bytes received."""

    def __init__(self, door: Door, limits: Limits, headers: Headers, receive: Receive) -> None:
        self._door = door
        self._limits = limits
        length = headers.get("content-length", "0")
        self._declared = int(length) if length.isdecimal() else 0
        self._receive = receive
        self._end = time.monotonic() + limits.upload_timeout
        self._more = self._declared > 0 or "transfer-encoding" in headers
        self.size = 0

    async def receive(self) -> Message:
        """Return the next part of the body, and after its end, the client's disconnect.

        Raises:
            RefusedError: 413 if the body is too large, 503 if there is no memory for it, 408 if it takes too long.
        """
        limit = self._limits.max_body
        if self._declared > limit:
            raise RefusedError(
                413, f"body: expected at most {limit:,} bytes, got {self._declared:,}; send fewer images"
            )
        if not self._more:
            return await self._receive()
        try:
            async with asyncio.timeout(self._end - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            seconds = self._limits.upload_timeout
            raise RefusedError(
                408, f"body: expected it within {seconds:g} s, got {self.size:,} bytes; send it faster"
            ) from None
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        count = len(message.get("body", b""))
        if self.size + count > limit:
            raise RefusedError(413, f"body: expected at most {limit:,} bytes, got more; send fewer images")
        # Count the bytes received, not those announced: announcing costs the sender nothing.
        if self._door.memory + count > self._limits.max_memory:
            raise RefusedError(503, "memory: expected room for the body, got a server that is full; try again", 1)
        self._door.memory += count
        self.size += count
        return message

    async def discard_rest(self) -> None:
        """Briefly discard the rest of a refused body, so that the client reads the answer instead of getting a reset."""
        try:
            async with asyncio.timeout(_LINGER):
                while self._more:
                    message = await self._receive()
                    self._more = message["type"] == "http.request" and message.get("more_body", False)
                    await asyncio.sleep(0)  # a body that is always available would keep the timeout from firing
        except TimeoutError:
            pass


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to an address.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("localhost")
        (True, True, False, True)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
