"""Read Wyoming messages with limits on their size and duration."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from wyoming.audio import AudioChunk
from wyoming.event import Event

MAX_CHUNK_BYTES = 1 << 20
"""Largest payload: a voice satellite's chunks have 20 to 100 ms, much less than a megabyte."""
MAX_HEADER_BYTES = 1 << 16
MESSAGE_S = 10.0
"""Time within which a message must be complete."""


class BadMessageError(Exception):
    """The bytes are not a Wyoming message, so the next one cannot be found; or a message was not complete in time."""

    def __init__(self, why: str, code: str = "bad-message") -> None:
        super().__init__(why)
        self.code = code


async def read_message(reader: asyncio.StreamReader) -> Event | None:
    """The next message, None at the end; BadMessageError if it is invalid or takes longer than MESSAGE_S.

    The package's own reader takes messages of any size and duration, and does not report a bad message to the client.
    """
    first = await reader.read(1)
    if not first:
        return None
    try:
        return await asyncio.wait_for(_read_rest(first, reader), MESSAGE_S)
    except asyncio.TimeoutError:
        raise BadMessageError(f"not a Wyoming message: it was not complete within {MESSAGE_S:g} s") from None
    except (ValueError, RecursionError) as error:
        raise BadMessageError(f"not a Wyoming message: {error}") from error


async def _read_rest(first: bytes, reader: asyncio.StreamReader) -> Event:
    header = _object(first if first == b"\n" else first + await reader.readline())
    data = _object(json.dumps(header.get("data") or {}))
    if length := _length(header, "data_length", MAX_HEADER_BYTES):
        data |= _object(await reader.readexactly(length))
    length = _length(header, "payload_length", MAX_CHUNK_BYTES)
    payload = await reader.readexactly(length) if length else None
    if not isinstance(header.get("type"), str):
        raise ValueError("it has no type")
    return Event(header["type"], data, payload)


def _object(text: str | bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, not {type(value).__name__}")
    return value


def _length(header: dict[str, Any], name: str, most: int) -> int:
    value = header.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} must be 0 to {most}, not {value!r:.40}")
    return value


def checked_chunk(event: Event) -> AudioChunk:
    """A message's chunk of audio; ValueError if its rate, channels or sample width are not those of a microphone."""
    for name, low, high in (("rate", 4_000, 192_000), ("channels", 1, 32), ("width", 2, 2)):
        value = event.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            wanted = "2 (16-bit samples, little endian)" if name == "width" else f"{low} to {high}"
            raise ValueError(f"{name} must be {wanted}, not {value!r:.40}")
    chunk: AudioChunk = AudioChunk.from_event(event)
    if len(chunk.audio) % (2 * chunk.channels):
        raise ValueError(f"{len(chunk.audio)} bytes are not a whole number of frames of {2 * chunk.channels} bytes")
    return chunk
