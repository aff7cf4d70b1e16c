"""`GuardedProtocol`: uvicorn's HTTP protocol, with clocks on what uvicorn waits for without one."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from geneval_reward.service.server.limits import Limits


def guarded_protocol(limits: Limits) -> type[H11Protocol]:
    """A protocol class for `uvicorn.Config(http=...)`.

    It cuts a connection that sends a request head slower than `header_timeout`, or that does not read its answer for
    `idle_timeout`, and every connection beyond twice `max_connections`.
    """

    class GuardedProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > 2 * limits.max_connections:
                transport.abort()
                return
            self._head_timer = self.loop.call_later(limits.header_timeout, transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._head_timer = _cancel(self._head_timer)
            elif self._head_timer is None:
                # The head of another request on the same connection has begun.
                self._head_timer = self.loop.call_later(limits.header_timeout, self.transport.abort)

        def on_response_complete(self) -> None:
            # The request was whole; the wait for another one is uvicorn's keep-alive timer's.
            self._head_timer = _cancel(self._head_timer)
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = _cancel(self._write_timer)
            self._write_timer = self.loop.call_later(limits.idle_timeout, self.transport.abort)

        def resume_writing(self) -> None:
            self._write_timer = _cancel(self._write_timer)
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_timer = _cancel(self._head_timer)
            self._write_timer = _cancel(self._write_timer)
            super().connection_lost(exc)

    return GuardedProtocol


def _cancel(timer: asyncio.TimerHandle | None) -> Any:
    if timer is not None:
        timer.cancel()
