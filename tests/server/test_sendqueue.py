from __future__ import annotations

import asyncio

import pytest

from streamser.server.protocol import CLOSE_SLOW_READER, Refusal
from streamser.server.sendqueue import SendQueue


async def drain(queue: SendQueue) -> list[object]:
    queue.close()
    got = []
    while (message := await queue.get()) is not None:
        got.append(message["n"])
    return got


async def test_messages_leave_the_send_queue_in_order() -> None:
    queue = SendQueue(8)
    for n in range(5):
        queue.put({"n": n}, droppable=n % 2 == 0)
    assert await drain(queue) == [0, 1, 2, 3, 4]


async def test_a_full_send_queue_drops_the_oldest_partial_and_counts_it() -> None:
    queue = SendQueue(8)
    for n in range(12):
        queue.put({"n": n}, droppable=n % 2 == 0)
    assert queue.dropped == 4
    assert await drain(queue) == [1, 3, 5, 7, 8, 9, 10, 11]


async def test_if_only_finals_wait_a_new_partial_is_dropped() -> None:
    queue = SendQueue(8)
    for n in range(8):
        queue.put({"n": n})
    queue.put({"n": 8}, droppable=True)
    assert queue.dropped == 1
    assert await drain(queue) == list(range(8))


async def test_a_final_that_does_not_fit_into_the_send_queue_is_refused_as_slow_reader() -> None:
    queue = SendQueue(8)
    for n in range(8):
        queue.put({"n": n})
    with pytest.raises(Refusal) as caught:
        queue.put({"n": 8})
    assert (caught.value.code, caught.value.close_code) == ("slow_reader", CLOSE_SLOW_READER)


async def test_get_waits_for_a_message_and_returns_none_at_the_end() -> None:
    queue = SendQueue(8)
    getting = asyncio.create_task(queue.get())
    await asyncio.wait({getting}, timeout=0.01)
    assert not getting.done()
    queue.put({"n": 1})
    assert await asyncio.wait_for(getting, 5) == {"n": 1}
    getting = asyncio.create_task(queue.get())
    await asyncio.wait({getting}, timeout=0.01)
    queue.close()
    assert await asyncio.wait_for(getting, 5) is None


async def test_the_closing_message_is_sent_even_if_the_queue_was_full() -> None:
    queue = SendQueue(8)
    for n in range(8):
        queue.put({"n": n})
    queue.clear()
    queue.close({"n": "last"})
    queue.put({"n": "too late"})
    queue.close({"n": "too late as well"})
    assert await drain(queue) == ["last"]
