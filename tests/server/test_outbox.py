from __future__ import annotations

import asyncio

import pytest

from streamser.server.outbox import Outbox
from streamser.server.protocol import CLOSE_SLOW_READER, Refusal


async def drain(outbox: Outbox) -> list[object]:
    outbox.close()
    got = []
    while (message := await outbox.get()) is not None:
        got.append(message["n"])
    return got


async def test_messages_come_out_in_the_order_they_went_in() -> None:
    outbox = Outbox(8)
    for n in range(5):
        outbox.put({"n": n}, droppable=n % 2 == 0)
    assert await drain(outbox) == [0, 1, 2, 3, 4]


async def test_when_it_is_full_the_oldest_partial_goes_and_is_counted() -> None:
    outbox = Outbox(8)
    for n in range(12):
        outbox.put({"n": n}, droppable=n % 2 == 0)
    assert outbox.dropped == 4
    assert await drain(outbox) == [1, 3, 5, 7, 8, 9, 10, 11]


async def test_a_partial_that_comes_when_only_finals_wait_is_the_one_to_go() -> None:
    outbox = Outbox(8)
    for n in range(8):
        outbox.put({"n": n})
    outbox.put({"n": 8}, droppable=True)
    assert outbox.dropped == 1
    assert await drain(outbox) == list(range(8))


async def test_one_final_too_many_is_a_client_that_does_not_read() -> None:
    outbox = Outbox(8)
    for n in range(8):
        outbox.put({"n": n})
    with pytest.raises(Refusal) as caught:
        outbox.put({"n": 8})
    assert (caught.value.code, caught.value.close_code) == ("slow_reader", CLOSE_SLOW_READER)


async def test_get_waits_for_a_message_and_wakes_at_the_end() -> None:
    outbox = Outbox(8)
    getting = asyncio.create_task(outbox.get())
    await asyncio.wait({getting}, timeout=0.01)
    assert not getting.done()
    outbox.put({"n": 1})
    assert await asyncio.wait_for(getting, 5) == {"n": 1}
    getting = asyncio.create_task(outbox.get())
    await asyncio.wait({getting}, timeout=0.01)
    outbox.close()
    assert await asyncio.wait_for(getting, 5) is None


async def test_last_words_are_said_even_when_it_is_full_and_nothing_after_them() -> None:
    outbox = Outbox(8)
    for n in range(8):
        outbox.put({"n": n})
    outbox.clear()
    outbox.close({"n": "last"})
    outbox.put({"n": "too late"})
    outbox.close({"n": "too late as well"})
    assert await drain(outbox) == ["last"]
