"""The pool when this process itself is in trouble; its life with real workers is in test_server.py."""

import asyncio
import errno
import os
import socket
import struct

import pytest

from geneval_reward.service.server import frames
from geneval_reward.service.server import pool as pool_module
from geneval_reward.service.server import process as process_module
from geneval_reward.service.server.items import Item, ItemQueue
from geneval_reward.service.server.pool import PoolConfig, WorkerPool
from geneval_reward.service.server.process import WorkerFailedError, WorkerProcess


async def watched(pool, tried):
    """Runs the pool until it has tried three times; says whether it still tries."""
    pool.start()
    try:
        async with asyncio.timeout(10):
            while len(tried) < 3 and not pool._tasks[0].done():
                await asyncio.sleep(0.005)
        return not pool._tasks[0].done()
    finally:
        await pool.stop()


def test_no_file_descriptors_left_is_not_the_end(monkeypatch, caplog):
    tried = []

    def none_left():
        tried.append(1)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def go():
        # Only now: the loop has its own pair already.
        with monkeypatch.context() as patch:
            patch.setattr(process_module.socket, "socketpair", none_left)
            return await watched(WorkerPool(PoolConfig()), tried)

    monkeypatch.setattr(pool_module, "_MIN_BACKOFF", 0.005)
    assert asyncio.run(go())
    assert len(tried) >= 3
    assert "expected to start a process, got [Errno 24]" in caplog.text


def test_an_error_of_our_own_is_not_the_end(monkeypatch, caplog):
    tried = []

    async def broken(self, config, timeout):
        tried.append(1)
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(WorkerProcess, "start", broken)
    monkeypatch.setattr(pool_module, "_MIN_BACKOFF", 0.005)

    async def go():
        return await watched(WorkerPool(PoolConfig()), tried)

    assert asyncio.run(go())
    assert len(tried) >= 3
    assert "a mistake of ours" in caplog.text


def test_a_batch_that_cannot_be_sent_ends_the_worker(monkeypatch):
    def too_long(head, blobs=()):
        raise struct.error("argument out of range")

    monkeypatch.setattr(frames, "pack", too_long)

    async def go():
        worker = WorkerProcess(0, 5.0)
        worker._socket, theirs = socket.socketpair()
        worker._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        queue = ItemQueue(4, 0.0)
        item = Item({}, b"", 1, loop.time() + 10**6, loop.create_future())
        queue.put([item])
        with theirs, pytest.raises(WorkerFailedError, match=r"expected to send it a batch, got error.*out of range"):
            async with asyncio.timeout(10):
                await worker.serve(queue, 4, lambda *_: None)
        assert await worker.end() == [item]

    asyncio.run(go())
