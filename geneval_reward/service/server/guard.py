"""`Guard`: what stands before the application. Key, size, memory and time are checked before a body is in memory."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from geneval_reward.service.server.limits import Limits
from geneval_reward.service.wire import REQUEST_ID_HEADER, ErrorReply

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS: Final = frozenset({"/health"})
"""Paths that need no key: a load balancer has none, and nothing is told there."""

BODY_PATHS: Final = frozenset({"/score"})
"""Paths whose requests have a body; on others none is read."""

_LEFT = 499  # as nginx counts a client that went away
_LINGER = 2.0  # seconds in which the rest of a refused body is thrown away, so that the client gets to read the answer
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: Of the answer.
        message: For the client.
        retry_after: Seconds after which another try makes sense.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


class Guard:
    """An ASGI application that lets through only requests that are whole, allowed and within the limits.

    The body is read here: the application finds it in `scope["state"]`, as `body`, beside `request_id` and `begun`, the
    time of the request's head on `time.monotonic`. Its own `receive` gives no body, but tells when the client leaves.

    Args:
        app: The application.
        limits: What is let through.
        api_key: The key that `Authorization: Bearer` must name; None if none is needed.
        gate: Raises `RefusedError` where a path cannot take a request now; asked before a body is read.
        on_refused: Is told path and status of what was refused here.
        compat: An application for the path `/` with limits of its own; it is asked for no key.

    Attributes:
        memory: Bytes of all bodies at the moment.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        *,
        api_key: str | None = None,
        gate: Callable[[str], None] = lambda path: None,
        on_refused: Callable[[str, int], None] = lambda path, status: None,
        compat: App | None = None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._key = None if api_key is None else api_key.encode()
        self._gate = gate
        self._on_refused = on_refused
        self._compat = compat
        self.memory = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        if self._compat is not None and scope["path"] == "/":
            await self._compat(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(REQUEST_ID_HEADER.lower().encode(), b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(request_id=request_id, begun=time.monotonic())
        reserved = 0

        def reserve(count: int) -> None:
            nonlocal reserved
            if self.memory + count > self._limits.max_memory:
                raise RefusedError(503, "memory: expected room for the body, got a server that is full; try again", 1)
            self.memory += count
            reserved += count

        try:
            try:
                self._check_key(scope["path"], headers)
                self._gate(scope["path"])
                body = await self._body(scope["path"], headers, receive, reserve)
            except RefusedError as error:
                await self._refuse(scope, receive, send, error, request_id)
                return
            if body is None:
                _log.info("left id=%s path=%s: the client went away while it sent", request_id, scope["path"][:100])
                self._on_refused(scope["path"], _LEFT)
                return
            scope["state"]["body"] = body
            await self._app(scope, _without_body(receive), _with_id(send, request_id))
        finally:
            self.memory -= reserved

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self._key is None or path in OPEN_PATHS:
            return
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._key):
            raise RefusedError(401, "Authorization: expected 'Bearer' and this server's key, got none or another")

    async def _body(
        self, path: str, headers: dict[bytes, bytes], receive: Receive, reserve: Callable[[int], None]
    ) -> bytearray | None:
        """The whole body, held once; None if the client left."""
        limit = self._limits.max_body
        length = headers.get(b"content-length")
        if length is not None and b"transfer-encoding" in headers:
            # RFC 9112, 6.3: which of the two counts is what request smuggling is made of.
            raise RefusedError(400, "body: expected Content-Length or Transfer-Encoding, got both; send one")
        # h11 has seen to it that it is a number.
        declared = int(length) if length is not None else 0
        if path not in BODY_PATHS:
            limit = 0
        if declared > limit:
            raise RefusedError(413, f"body: expected at most {limit:,} bytes, got {declared:,}; send fewer images")
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.upload_timeout), asyncio.timeout(None) as idle:
                more = True
                while more:
                    idle.reschedule(asyncio.get_running_loop().time() + self._limits.idle_timeout)
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    if len(body) + len(chunk) > limit:
                        raise RefusedError(413, f"body: expected at most {limit:,} bytes, got more; send fewer images")
                    # What has come, not what was announced: an announcement costs its sender nothing.
                    reserve(len(chunk))
                    body += chunk
                    more = message.get("more_body", False)
        except TimeoutError:
            raise RefusedError(
                408,
                f"body: expected it within {self._limits.upload_timeout:g} s and without breaks of "
                f"{self._limits.idle_timeout:g} s, got {len(body):,} bytes; send it faster",
            ) from None
        return body

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: RefusedError, request_id: str) -> None:
        client = scope.get("client") or ("?", 0)
        _log.info(
            "refused id=%s client=%s path=%s status=%d: %s",
            request_id,
            client[0],
            scope["path"][:100],
            error.status,
            error,
        )
        self._on_refused(scope["path"], error.status)
        start, body = error_messages(error, request_id)
        start["headers"].append((b"connection", b"close"))
        try:
            async with asyncio.timeout(_LINGER):
                await send(start)
                # The answer is out; its end, which closes the connection, waits while the client still sends.
                await send({**body, "more_body": True})
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    # A body that is always there would keep the clock from being looked at.
                    await asyncio.sleep(0)
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_messages(error: RefusedError, request_id: str) -> tuple[Message, Message]:
    """The ASGI messages of an `ErrorReply`."""
    body = ErrorReply(error=error.message, request_id=request_id).model_dump_json().encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (REQUEST_ID_HEADER.lower().encode(), request_id.encode()),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return (
        {"type": "http.response.start", "status": error.status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


def _without_body(receive: Receive) -> Receive:
    """A `receive` that gives an empty body, then what comes after the real one: a disconnect."""
    first: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def rest() -> Message:
        return first.pop() if first else await receive()

    return rest


def _with_id(send: Send, request_id: str) -> Send:
    async def tagged(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                (REQUEST_ID_HEADER.lower().encode(), request_id.encode()),
            ]
        await send(message)

    return tagged
