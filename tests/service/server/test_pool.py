"""The pool when this process itself is in trouble, and its queue; its life with real workers is in test_server.py."""

import errno
import os
import time

import pytest

from geneval_reward.service.server import pool as pool_module
from geneval_reward.service.server import process as process_module
from geneval_reward.service.server.limits import Limits
from geneval_reward.service.server.pool import Answer, Item, PoolConfig, QueueFullError, WorkerPool
from geneval_reward.service.server.process import WorkerFailedError


def item(seconds=60.0):
    return Item({}, b"", time.monotonic() + seconds)


def run_until_tried(pool, tried):
    pool.start()
    try:
        end = time.monotonic() + 10
        while len(tried) < 3 and time.monotonic() < end:
            time.sleep(0.005)
    finally:
        pool.stop()


def test_no_file_descriptors_left_is_not_the_end(monkeypatch, caplog):
    tried = []

    def none_left():
        tried.append(1)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process_module.multiprocessing, "Pipe", none_left)
    monkeypatch.setattr(pool_module, "_MIN_BACKOFF", 0.005)
    run_until_tried(WorkerPool(PoolConfig()), tried)
    assert len(tried) >= 3
    assert "expected to start a process, got [Errno 24]" in caplog.text


def test_an_error_of_our_own_is_not_the_end(monkeypatch, caplog):
    tried = []

    class Broken:
        def __init__(self):
            tried.append(1)
            raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(pool_module, "WorkerProcess", Broken)
    monkeypatch.setattr(pool_module, "_MIN_BACKOFF", 0.005)
    run_until_tried(WorkerPool(PoolConfig()), tried)
    assert len(tried) >= 3
    assert "a mistake of ours" in caplog.text


class Worker:
    """Answers in this process, and dies where it is told to."""

    process_id = 0

    def __init__(self):
        self.alive = True
        self.batches = []
        Worker.all.append(self)

    def start(self, config, timeout):
        return {"kind": "ready", "device": "cpu", "backend": "x", "fingerprint": "f", "rules": {}, "batch_size": 4}

    def send(self, head, blobs):
        Worker.sent.append(blobs)
        self.batches.append((head, blobs))

    def receive(self, stall_timeout, busy_since):
        while self.alive and not self.batches:
            time.sleep(0.002)
        if not self.alive or any(blob in Worker.deadly for blob in self.batches[0][1]):
            raise WorkerFailedError("dead")
        head, blobs = self.batches.pop(0)
        return {"number": head["number"], "seconds": 0.1, "failed": [False] * len(blobs)}, list(blobs)

    def kill(self):
        self.alive = False

    def close(self):
        pass


@pytest.fixture
def pool(monkeypatch):
    Worker.all, Worker.sent, Worker.deadly = [], [], set()
    monkeypatch.setattr(pool_module, "WorkerProcess", Worker)
    monkeypatch.setattr(pool_module, "_MIN_BACKOFF", 0.005)
    pool = WorkerPool(PoolConfig(max_wait=0.02))
    pool.start()
    assert pool.started.wait(10)
    yield pool
    pool.stop()


def submit(pool, texts):
    items = [Item({}, text, time.monotonic() + 60) for text in texts]
    pool.submit(items)
    return items


def test_items_come_back_in_batches(pool):
    texts = [bytes([index]) for index in range(11)]
    items = submit(pool, texts)
    assert [one.future.result(10) for one in items] == [Answer(text, False) for text in texts]
    assert [len(blobs) for blobs in Worker.sent] == [4, 4, 3]
    assert (pool.waiting, pool.in_flight, pool.ready_workers) == (0, 0, 1)


def test_a_killer_is_found_and_harms_no_other(pool):
    Worker.deadly = {b"3"}
    items = submit(pool, [b"0", b"1", b"2", b"3", b"4", b"5"])
    answers = [one.future.result(10) for one in items]
    assert [answer.failed for answer in answers] == [False, False, False, True, False, False]
    assert b"got 3 workers that died with it" in answers[3].text
    # After the first death, each of that batch comes alone.
    alone = [blobs for blobs in Worker.sent if b"3" in blobs]
    assert [len(blobs) for blobs in alone] == [4, 1, 1]
    assert len(Worker.all) == 4


def test_what_nobody_waits_for_is_not_scored(pool):
    gone = Item({}, b"gone", time.monotonic() + 60)
    gone.future.cancel()
    late = Item({}, b"late", time.monotonic() - 1)
    pool.submit([gone, late])
    (last,) = submit(pool, [b"last"])
    assert last.future.result(10) == Answer(b"last", False)
    assert Worker.sent == [[b"last"]]


def test_the_queue_takes_all_or_none():
    pool = WorkerPool(PoolConfig(limits=Limits(max_queue=3, max_items=2)))
    pool.submit([item(), item(0.0)])
    with pytest.raises(QueueFullError):
        pool.submit([item(), item(), item()])
    # What nobody waits for makes room.
    assert pool.waiting == 1
    pool.submit([item(), item()])
    assert pool.waiting == 3
    assert pool.retry_after() == 1
