from __future__ import annotations

import asyncio

from streamser.server.protocol import Lost
from streamser.server.receivequeue import Message, ReceiveQueue


async def test_waiting_audio_is_joined_into_pieces_of_limited_length() -> None:
    received = ReceiveQueue(1000)
    for byte in b"abcd":
        await received.put(bytes([byte]) * 10)
    assert [(await received.get(25) or (b"", 0.0))[0] for _ in range(2)] == [
        b"a" * 10 + b"b" * 10,
        b"c" * 10 + b"d" * 10,
    ]


async def test_messages_stay_in_order_with_the_audio() -> None:
    received = ReceiveQueue(1000)
    messages: list[Message] = [b"aa", Lost(5), b"bb", b"cc", "new_speaker", b"dd"]
    for message in messages:
        await received.put(message)
    await received.close()
    pieces = []
    while (piece := await received.get(100)) is not None:
        pieces.append(piece[0])
    assert pieces == [b"aa", Lost(5), b"bbcc", "new_speaker", b"dd"]


async def test_a_full_receive_queue_makes_the_client_wait() -> None:
    received = ReceiveQueue(10)
    await received.put(b"x" * 10)
    putting = asyncio.create_task(received.put(b"y"))
    await asyncio.wait({putting}, timeout=0.01)
    assert not putting.done()
    assert (await received.get(10) or (b"", 0.0))[0] == b"x" * 10
    await asyncio.wait_for(putting, 5)


async def test_closing_the_receive_queue_releases_a_waiting_client_and_can_discard_the_audio() -> None:
    received = ReceiveQueue(10)
    await received.put(b"x" * 10)
    putting = asyncio.create_task(received.put(b"y"))
    await asyncio.wait({putting}, timeout=0.01)
    await received.close(forget=True)
    await asyncio.wait_for(putting, 5)
    assert await received.get(10) is None
