"""MicroBatcher: few calls, bounded wait, errors where they belong."""

import pickle
import threading
import time

import pytest

from geneval_reward.reward.trainers.batching import MicroBatcher


def double(items):
    return [item * 2 for item in items]


class Recorder:
    def __init__(self, gate=None):
        self.batches, self.gate = [], gate

    def __call__(self, items):
        if self.gate is not None:
            assert self.gate.wait(10)
        self.batches.append(list(items))
        return double(items)


def test_what_comes_together_is_scored_together_and_answered_in_order():
    score = Recorder()
    batcher = MicroBatcher(score, max_batch=100, max_wait=0.2)
    futures = [batcher.submit(number) for number in range(50)]
    assert [future.result(10) for future in futures] == [2 * number for number in range(50)]
    assert score.batches == [list(range(50))]


def test_a_full_batch_does_not_wait():
    batcher = MicroBatcher(Recorder(), max_batch=4, max_wait=60)
    begun = time.monotonic()
    assert [future.result(10) for future in [batcher.submit(number) for number in range(8)]] == list(range(0, 16, 2))
    assert [len(batch) for batch in batcher.score.batches] == [4, 4]
    assert time.monotonic() - begun < 10


def test_one_item_waits_no_longer_than_max_wait():
    batcher = MicroBatcher(double, max_batch=100, max_wait=0.05)
    begun = time.monotonic()
    assert batcher.submit(1).result(10) == 2
    assert 0.05 <= time.monotonic() - begun < 5


def test_while_one_batch_is_scored_the_next_one_fills():
    gate = threading.Event()
    batcher = MicroBatcher(score := Recorder(gate), max_batch=8, max_wait=0)
    first = batcher.submit(0)
    while not first.running():
        time.sleep(0.001)
    rest = [batcher.submit(number) for number in range(1, 6)]
    gate.set()
    assert [future.result(10) for future in [first, *rest]] == [0, 2, 4, 6, 8, 10]
    assert score.batches == [[0], [1, 2, 3, 4, 5]]


def test_from_many_threads_everyone_gets_their_own():
    batcher, answers = MicroBatcher(double, max_batch=16, max_wait=0.01), {}
    threads = [
        threading.Thread(target=lambda n=n: answers.__setitem__(n, batcher.submit(n).result(10))) for n in range(100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: 2 * n for n in range(100)}


def test_errors_of_one_item_and_of_a_batch():
    def one(items):
        return [ValueError(f"bad {item}") if item < 0 else item for item in items]

    batcher = MicroBatcher(one, max_wait=0.05)
    good, bad = batcher.submit(1), batcher.submit(-1)
    assert good.result(10) == 1
    with pytest.raises(ValueError, match="bad -1"):
        bad.result(10)

    def all_of_them(items):
        raise RuntimeError("no memory")

    batcher = MicroBatcher(all_of_them, max_wait=0.05)
    for future in [batcher.submit(1), batcher.submit(2)]:
        with pytest.raises(RuntimeError, match="no memory"):
            future.result(10)
    with pytest.raises(RuntimeError, match="expected 1 results, one per item, got 0"):
        MicroBatcher(lambda items: [], max_wait=0).submit(1).result(10)


def test_a_cancelled_item_is_not_scored():
    gate = threading.Event()
    batcher = MicroBatcher(score := Recorder(gate), max_wait=0)
    first = batcher.submit(0)
    while not first.running():
        time.sleep(0.001)
    cancelled, last = batcher.submit(1), batcher.submit(2)
    assert cancelled.cancel()
    gate.set()
    assert last.result(10) == 4
    assert score.batches == [[0], [2]]


def test_its_thread_ends_and_starts_again():
    batcher = MicroBatcher(double, max_wait=0, idle=0.01)
    for number in range(20):  # around the moment of ending nothing may be lost
        assert batcher.submit(number).result(10) == 2 * number
        time.sleep(0.01 * (number % 3))
    thread = batcher._thread
    if thread is not None:
        thread.join(10)
    assert batcher._thread is None


def test_pickle_and_limits():
    batcher = MicroBatcher(double, max_batch=3, max_wait=0)
    assert batcher.submit(1).result(10) == 2
    copied = pickle.loads(pickle.dumps(batcher))
    assert (copied.submit(2).result(10), copied.max_batch) == (4, 3)
    with pytest.raises(ValueError, match="expected max_batch >= 1"):
        MicroBatcher(double, max_batch=0)
