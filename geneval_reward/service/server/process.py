"""`WorkerProcess`: the server's end of one worker process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from geneval_reward.service.server import frames
from geneval_reward.service.server.items import Item, ItemQueue, Room

_log = logging.getLogger(__name__)

API_KEY_VARIABLE: Final = "GENEVAL_REWARD_API_KEY"
_BUFFER: Final = 2**20
_GOODBYE: Final = 2.0  # seconds that a worker gets to end by itself

BatchDone = Callable[[list[Item], dict[str, Any], list[bytes]], None]


class WorkerFailedError(Exception):
    """A worker that cannot start, died or hangs.

    Attributes:
        hopeless: Whether another try will fail in the same way: it said so itself.
    """

    def __init__(self, message: str, *, hopeless: bool) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class WorkerProcess:
    """One worker process.

    Args:
        number: Its place, for messages.
        stall_timeout: Seconds without an answer after which `serve` gives it up.

    Attributes:
        ready: Whether it may be fed; set by the pool.
        info: What it says of its scorer.
    """

    def __init__(self, number: int, stall_timeout: float) -> None:
        self.number = number
        self.ready = False
        self.info: dict[str, Any] = {}
        self._stall_timeout = stall_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self._batches: deque[tuple[int, list[Item]]] = deque()
        self._count = 0

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None
        return self._process.pid

    @property
    def in_flight(self) -> int:
        """Items it has."""
        return sum(len(batch) for _, batch in self._batches)

    async def start(self, config: dict[str, Any], timeout: float) -> None:
        """Start it and wait until it has tested itself.

        Raises:
            WorkerFailedError: If it cannot.
        """
        theirs: socket.socket | None = None
        try:
            ours, theirs = socket.socketpair()
            self._socket = ours
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            ours.setblocking(False)
            command = [sys.executable, "-m", "geneval_reward.service.server.worker", str(theirs.fileno())]
            # Its prints go to our stderr: stdout is for data.
            self._process = await asyncio.create_subprocess_exec(
                *command,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,
                env=_environment(),
            )
        except OSError as error:
            raise WorkerFailedError(f"expected to start a process, got {error}", hopeless=False) from error
        finally:
            if theirs is not None:
                theirs.close()
        try:
            async with asyncio.timeout(timeout):
                await self._send(frames.pack(config))
                message = await self._receive()
        except TimeoutError:
            raise WorkerFailedError(
                f"expected it to be ready within {timeout:g} s, got nothing", hopeless=False
            ) from None
        except ConnectionError:
            message = None
        if message is None:
            raise WorkerFailedError(
                f"expected it to be ready, got {await self._status()} while it loaded", hopeless=False
            )
        self.info = message[0]
        if self.info["kind"] != "ready":
            raise WorkerFailedError(self.info["error"], hopeless=True)

    async def serve(self, queue: ItemQueue, size: int, done: BatchDone) -> None:
        """Feed it from the queue until it dies.

        Raises:
            WorkerFailedError: When it has died or hangs; always.
        """
        feeder = asyncio.create_task(self._feed(queue, size))
        try:
            while True:
                message = await self._answer(feeder)
                head, texts = message
                number, batch = self._batches[0]
                if head["id"] != number or len(texts) != len(batch):
                    raise WorkerFailedError(f"expected the answer to batch {number}, got {head}", hopeless=False)
                self._batches.popleft()
                queue.poke()
                done(batch, head, [bytes(text) for text in texts])
        finally:
            feeder.cancel()
            await asyncio.wait({feeder})
            if not feeder.cancelled():
                feeder.exception()  # said already, by the error that ended this

    async def end(self) -> list[Item]:
        """Make sure it is gone; returns the items it had and has not answered."""
        self.ready = False
        if self._socket is not None:
            self._socket.close()
        if self._process is not None and self._process.returncode is None:
            # A closed socket is its sign to end; one that is in the middle of a batch need not finish it.
            with contextlib.suppress(ProcessLookupError):
                if self._batches:
                    self._process.kill()
            try:
                async with asyncio.timeout(_GOODBYE):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        lost = [item for _, batch in self._batches for item in batch]
        self._batches.clear()
        return lost

    async def _answer(self, feeder: asyncio.Task[None]) -> tuple[dict[str, Any], list[memoryview]]:
        """The next answer, however long it idles, but within the stall timeout once it has something to do."""
        receiving = asyncio.create_task(self._receive())
        try:
            waited = 0.0
            step = min(1.0, self._stall_timeout)
            while not receiving.done():
                await asyncio.wait({receiving, feeder}, timeout=step, return_when=asyncio.FIRST_COMPLETED)
                if feeder.done():
                    break
                waited = waited + step if self._batches else 0.0
                if waited > self._stall_timeout and not receiving.done():
                    raise WorkerFailedError(
                        f"expected an answer within {self._stall_timeout:g} s, got none; killing it", hopeless=False
                    )
            message = receiving.result() if receiving.done() else None
        finally:
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await receiving
        if message is None and feeder.done() and not isinstance(error := feeder.exception(), ConnectionError | None):
            raise WorkerFailedError(f"expected to send it a batch, got {error!r}", hopeless=False) from error
        if message is None:
            raise WorkerFailedError(f"expected it to live, got {await self._status()}", hopeless=False)
        return message

    async def _feed(self, queue: ItemQueue, size: int) -> None:
        while True:
            batch = await queue.take(size, self._room)
            self._count += 1
            # Before it is sent: if the worker dies of it or on the way, these items are known as lost.
            self._batches.append((self._count, batch))
            head = {"kind": "batch", "id": self._count, "items": [item.head for item in batch]}
            await self._send(frames.pack(head, [item.data for item in batch]), *(item.data for item in batch))

    def _room(self) -> Room:
        if not self._batches:
            return Room.ANY
        alone = any(item.attempts for item in self._batches[0][1])
        return Room.NONE if alone or len(self._batches) > 1 else Room.FULL

    async def _send(self, *parts: frames.Blob) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        for part in parts:
            await loop.sock_sendall(self._socket, part)

    async def _receive(self) -> tuple[dict[str, Any], list[memoryview]] | None:
        prefix = await self._exactly(frames.PREFIX_BYTES)
        if prefix is None:
            return None
        head, blobs = frames.lengths(bytes(prefix))
        whole = await self._exactly(head + blobs)
        return None if whole is None else frames.unpack(whole[:head], whole[head:])

    async def _exactly(self, count: int) -> memoryview | None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        buffer = memoryview(bytearray(count))
        filled = 0
        while filled < count:
            try:
                got = await loop.sock_recv_into(self._socket, buffer[filled:])
            except ConnectionError:
                return None
            if not got:
                return None
            filled += got
        return buffer

    async def _status(self) -> str:
        """How it ended, in words."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await self._process.wait()
        code = self._process.returncode
        if code is None:
            return "a closed socket"
        return f"its end by signal {-code}" if code < 0 else f"its end with status {code}"


def _environment() -> dict[str, str]:
    """Ours, with the paths that this process imports from, and without the key that only the server needs."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE} | {"PYTHONPATH": path}
