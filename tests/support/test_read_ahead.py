import threading

import pytest

from geneval_reward.support.read_ahead import read_ahead


def test_order_is_kept_and_no_more_is_read_than_two_batches_ahead():
    read, lock = [], threading.Lock()

    def load(number):
        with lock:
            read.append(number)
        return -number

    batches = read_ahead(iter(range(10)), load, 3, threads=2)
    assert next(batches) == [(0, 0), (1, -1), (2, -2)]
    assert set(read) <= set(range(6))
    assert [item for batch in batches for item, _ in batch] == [3, 4, 5, 6, 7, 8, 9]
    assert sorted(read) == list(range(10))


def test_nothing_to_read():
    assert list(read_ahead([], len, 4)) == []


def test_an_error_is_raised_where_the_result_is_taken():
    with pytest.raises(ZeroDivisionError):
        list(read_ahead([1, 0], lambda number: 1 / number, 1))
