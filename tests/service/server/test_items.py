import asyncio
import time

import pytest

from geneval_reward.service.server.items import Item, ItemQueue, QueueFullError, Room


def item(number, pixels=1, seconds=60.0, attempts=0):
    made = Item({"number": number}, b"", pixels, time.monotonic() + seconds, asyncio.get_running_loop().create_future())
    made.attempts = attempts
    return made


def numbers(batch):
    return [one.head["number"] for one in batch]


def test_batches_cross_requests_in_order():
    async def go():
        queue = ItemQueue(100, max_wait=0.01)
        queue.put([item(0), item(1)])
        queue.put([item(2), item(3), item(4)])
        first = await queue.take(4, lambda: Room.ANY)
        second = await queue.take(4, lambda: Room.ANY)
        return numbers(first), numbers(second), len(queue)

    assert asyncio.run(go()) == ([0, 1, 2, 3], [4], 0)


def test_a_busy_worker_takes_full_batches_only():
    async def go():
        queue = ItemQueue(100, max_wait=0.0)
        room = [Room.FULL]
        queue.put([item(0), item(1)])
        taking = asyncio.create_task(queue.take(3, lambda: room[0]))
        await asyncio.sleep(0.02)
        assert not taking.done()
        queue.put([item(2), item(3)])
        full = await taking
        again = asyncio.create_task(queue.take(3, lambda: room[0]))
        await asyncio.sleep(0.02)
        assert not again.done()
        room[0] = Room.ANY
        queue.poke()
        return numbers(full), numbers(await again)

    assert asyncio.run(go()) == ([0, 1, 2], [3])


def test_what_nobody_waits_for_is_dropped():
    async def go():
        queue = ItemQueue(4, max_wait=0.0)
        gone, late, good = item(0), item(1, seconds=0.0), item(2)
        queue.put([gone, late, good])
        gone.future.cancel()
        with pytest.raises(QueueFullError):
            queue.put([item(9) for _ in range(4)])
        # There is room for those whose places were given up.
        queue.put([item(3), item(4), item(5)])
        return numbers(await queue.take(10, lambda: Room.ANY))

    assert asyncio.run(go()) == [2, 3, 4, 5]


def test_full_is_full_for_all_or_none():
    async def go():
        queue = ItemQueue(3, max_wait=0.0)
        queue.put([item(0), item(1)])
        with pytest.raises(QueueFullError):
            queue.put([item(2), item(3)])
        assert len(queue) == 2
        queue.put_back([item(8), item(9)])
        return numbers(await queue.take(10, lambda: Room.ANY))

    assert asyncio.run(go()) == [8, 9, 0, 1]


def test_what_killed_a_worker_comes_alone():
    async def go():
        queue = ItemQueue(10, max_wait=0.0)
        queue.put([item(0), item(1, attempts=1), item(2, attempts=1), item(3)])
        return [numbers(await queue.take(4, lambda: Room.ANY)) for _ in range(4)]

    assert asyncio.run(go()) == [[0], [1], [2], [3]]


def test_large_images_make_small_batches():
    async def go():
        queue = ItemQueue(10, max_wait=0.0)
        queue.put([item(number, pixels=2**25) for number in range(5)])
        return [len(await queue.take(4, lambda: Room.ANY)) for _ in range(3)]

    assert asyncio.run(go()) == [2, 2, 1]


def test_waiting_for_others_ends():
    async def go():
        queue = ItemQueue(10, max_wait=0.05)
        begun = time.monotonic()
        queue.put([item(0)])
        await queue.take(4, lambda: Room.ANY)
        return time.monotonic() - begun

    assert 0.04 < asyncio.run(go()) < 5
