"""Parse the bytes that a server sends, to find where another message may be inserted."""

from __future__ import annotations

import json
import struct

from streamser.events import EVENT_VERSION

__all__ = ["LOST_CODE", "Follower", "closing_frames", "unavailable"]

LOST_CODE = 1012
"""WebSocket close code "service restart": the client may connect again."""

_TEXT, _CLOSE = 0x81, 0x88  # the first byte of an unfragmented frame
_MOST_HEADER = 64 * 1024


class Follower:
    """Parses the bytes of a server on one connection: an HTTP response and, after an upgrade, WebSocket frames."""

    def __init__(self) -> None:
        self.upgraded = False
        """True once the connection is a WebSocket."""
        self.closed = False
        """True once the server has sent its close frame."""
        self._head = b""
        self._in_header = True
        self._left = 0

    @property
    def between_frames(self) -> bool:
        """Whether the WebSocket's next byte begins a frame."""
        return self.upgraded and not self._head and not self._left

    def feed(self, data: bytes) -> None:
        """Parse the next bytes."""
        if self._in_header:
            data = self._read_header(data)
        while data and self.upgraded:
            data = self._frame(data)

    def _read_header(self, data: bytes) -> bytes:
        """Collect bytes up to the end of the first response's header; returns the bytes after it."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) < _MOST_HEADER:
            return b""
        self._in_header = False
        self.upgraded = end >= 0 and self._head.startswith(b"HTTP/1.1 101 ")
        rest, self._head = self._head[end + 4 :], b""
        return rest

    def _frame(self, data: bytes) -> bytes:
        if self._left:
            taken = min(self._left, len(data))
            self._left -= taken
            return data[taken:]
        self._head += data
        if len(self._head) < 2:
            return b""
        length, size = self._head[1] & 0x7F, 2  # a server's frames have no mask
        if length >= 126:
            size += 2 if length == 126 else 8
            if len(self._head) < size:
                return b""
            length = int.from_bytes(self._head[2:size], "big")
        self.closed = self.closed or self._head[0] == _CLOSE
        rest, self._head, self._left = self._head[size:], b"", length
        return rest


def closing_frames(code: str, message: str) -> bytes:
    """The frames of an error message and of the close that follows it."""
    text = json.dumps({"v": EVENT_VERSION, "type": "error", "code": code, "message": message}).encode()
    reason = message.encode()[:123].decode(errors="ignore").encode()
    return _framed(_TEXT, text) + _framed(_CLOSE, struct.pack("!H", LOST_CODE) + reason)


def _framed(first: int, payload: bytes) -> bytes:
    if len(payload) < 126:
        return struct.pack("!BB", first, len(payload)) + payload
    return struct.pack("!BBH", first, 126, len(payload)) + payload


def unavailable(code: str, message: str) -> bytes:
    """A whole HTTP response with status 503."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\nRetry-After: 5\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
