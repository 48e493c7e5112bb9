"""The WebSocket protocol of client and server: messages, limits and refusals, without any network code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from streamser.audio import SAMPLE_RATE
from streamser.events import EVENT_VERSION
from streamser.stream.status import StreamStatus

FORMAT = "s16le"
"""The one sample format on the wire: 16-bit signed integers, little endian, channels interleaved."""
SAMPLE_RATES_HZ = (4_000, 192_000)
"""From 4 kHz, below telephones (8 kHz), to 192 kHz, as in studios."""
MAX_CHANNELS = 32
MAX_STREAM_NAME = 64
_MAX_WORDS = 4096  # a hello is a tenth of this
STATUS_MS = (50, 60_000)

# WebSocket close codes; 44xx are ours and mirror the HTTP status of the same meaning.
CLOSE_DONE = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_TOO_BIG = 1009
CLOSE_INTERNAL = 1011
CLOSE_TRY_LATER = 1013
CLOSE_BAD_REQUEST = 4400
CLOSE_TOKEN = 4401
CLOSE_NOT_FOUND = 4404
CLOSE_TIMEOUT = 4408
CLOSE_SLOW_READER = 4429


# A folder in a path, on POSIX or Windows.
_FOLDERS = re.compile(r"(?<![\w/\\])(?:[A-Za-z]:)?[/\\](?:[^\s'\"/\\]+[/\\])+")


def without_paths(text: str) -> str:
    """The same text with every absolute path shortened to its last part: clients must not see the server's folders.

    >>> without_paths("[Errno 24] Too many open files: '/home/ada/models/x.onnx'")
    "[Errno 24] Too many open files: 'x.onnx'"
    """
    return _FOLDERS.sub("", text)


class Refusal(Exception):  # noqa: N818 - it is a response to a client, not an error of the server
    """The refusal of a client's message: a code for programs, a sentence for people, and a close code."""

    def __init__(self, code: str, message: str, close_code: int = CLOSE_BAD_REQUEST) -> None:
        super().__init__(message)
        self.code = code
        self.close_code = close_code

    def to_dict(self) -> dict[str, Any]:
        return {"v": EVENT_VERSION, "type": "error", "code": self.code, "message": str(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of a client."""

    sample_rate: int = SAMPLE_RATE
    """Hz."""
    channels: int = 1
    """Number of interleaved channels, which are averaged."""
    stream: str | None = None
    """The stream's name in the events; if the client gives none, the server chooses one."""
    partials: bool = True
    """Send results of utterances that have not ended."""
    lossless: bool = False
    """For files: compute every partial result, and accept audio only as fast as this allows."""
    status_ms: int = 1000
    """Shortest time between two status messages; 0 sends none."""
    model: str | None = None
    """Name of an installed checkpoint; None is the server's own."""
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A client's message about lost audio; its length is counted, so that later times stay correct."""

    samples: int
    """At the client's own sample rate."""


def _object(text: str, what: str) -> Mapping[str, Any]:
    if len(text) > _MAX_WORDS:
        raise Refusal("too_big", f"{what} may have at most {_MAX_WORDS} characters, not {len(text)}", CLOSE_TOO_BIG)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal("bad_json", f"{what} must be a JSON object; this is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise Refusal("bad_json", f"{what} must be a JSON object, not {type(value).__name__}")
    return value


def _integer(value: object, name: str, low: int, high: int, code: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refusal(code, f"{name} must be a whole number from {low} to {high}, not {value!r:.80}")
    return value


def _boolean(words: Mapping[str, Any], name: str, default: bool) -> bool:
    value = words.get(name, default)
    if not isinstance(value, bool):
        raise Refusal("bad_hello", f"{name} must be true or false, not {value!r:.80}")
    return value


def check_name(name: object, what: str = "stream") -> None:
    """Refuse a value that cannot be the name of a stream or a checkpoint."""
    if not (isinstance(name, str) and len(name) <= MAX_STREAM_NAME and name.isprintable() and name.strip()):
        raise Refusal(
            "bad_name", f"{what} must be a name of 1 to {MAX_STREAM_NAME} printable characters, not {name!r:.80}"
        )


def parse_hello(text: str, *, audio: bool = True) -> Hello:
    """The first message, checked; `audio` is false for a client that sends no audio.

    >>> parse_hello('{"type": "hello", "sample_rate": 48000, "format": "s16le"}').sample_rate
    48000
    >>> parse_hello('{"type": "hello", "sample_rate": 48000, "format": "f32le"}')
    Traceback (most recent call last):
    ...
    streamser.server.protocol.Refusal: format must be 's16le' (16-bit signed, little endian), not 'f32le'
    """
    words = _object(text, "the first message")
    if words.get("type") != "hello":
        raise Refusal("no_hello", f"the first message must have type 'hello', not {words.get('type')!r:.80}")
    known = {"type", "v", "format", *Hello.__dataclass_fields__}
    unknown = sorted(set(words) - known)
    if unknown:
        raise Refusal("bad_hello", f"hello has no key {unknown[0]!r:.80}; its keys are {', '.join(sorted(known))}")
    if words.get("v", EVENT_VERSION) != EVENT_VERSION:
        raise Refusal("bad_version", f"this server uses version {EVENT_VERSION}, not {words['v']!r:.80}")
    token = words.get("token")
    if token is not None and not isinstance(token, str):
        raise Refusal("bad_hello", "token must be a string")
    if not audio:
        return Hello(token=token)
    if "sample_rate" not in words:
        raise Refusal("sample_rate", "hello needs sample_rate, the rate of the audio that follows, in Hz")
    if words.get("format", FORMAT) != FORMAT:
        raise Refusal(
            "format", f"format must be {FORMAT!r} (16-bit signed, little endian), not {words['format']!r:.80}"
        )
    stream = words.get("stream")
    if stream is not None:
        check_name(stream)
    if (model := words.get("model")) is not None:
        check_name(model, "model")
    status_ms = words.get("status_ms", 1000)
    return Hello(
        sample_rate=_integer(words["sample_rate"], "sample_rate", *SAMPLE_RATES_HZ, "sample_rate"),
        channels=_integer(words.get("channels", 1), "channels", 1, MAX_CHANNELS, "channels"),
        stream=stream,
        model=model,
        partials=_boolean(words, "partials", True),
        lossless=_boolean(words, "lossless", False),
        status_ms=0 if status_ms == 0 else _integer(status_ms, "status_ms (or 0)", *STATUS_MS, "bad_hello"),
        token=token,
    )


def hello_of_query(query: Mapping[str, str]) -> str | None:
    """The hello of a client that can send only audio, from the query of the address; None without sample_rate.

    >>> hello_of_query({"sample_rate": "16000", "partials": "false", "stream": "kitchen"})
    '{"type": "hello", "sample_rate": 16000, "partials": false, "stream": "kitchen"}'
    """
    if "sample_rate" not in query:
        return None
    return json.dumps({"type": "hello", **{name: _query_value(name, text) for name, text in query.items()}})


def _query_value(name: str, text: str) -> object:
    if name in ("stream", "model", "token", "format"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # a wrong type is refused by `parse_hello`


def parse_word(text: str, max_lost_samples: int) -> Lost | Literal["end", "new_speaker"]:
    """A later text message: the end, lost audio, or a new speaker."""
    words = _object(text, "a text message")
    kind = words.get("type")
    if kind == "end":
        return "end"
    if kind == "new_speaker":
        return "new_speaker"
    if kind == "gap":
        return Lost(_integer(words.get("samples"), "samples", 1, max_lost_samples, "bad_gap"))
    raise Refusal(
        "bad_type", f"after hello, a text message must have type 'end', 'gap' or 'new_speaker', not {kind!r:.80}"
    )


def check_pcm(data: bytes, hello: Hello, most_bytes: int) -> None:
    """Refuse a binary message that does not fit the format in the client's hello."""
    if len(data) > most_bytes:
        raise Refusal(
            "too_big",
            f"a message may have at most {most_bytes} bytes, not {len(data)}; send messages of about 20 ms",
            CLOSE_TOO_BIG,
        )
    frame_bytes = 2 * hello.channels
    if len(data) % frame_bytes:
        raise Refusal(
            "odd_bytes",
            f"{len(data)} bytes are not a whole number of {FORMAT} frames with {hello.channels} channel(s): "
            f"send a multiple of {frame_bytes} bytes",
        )


def status_message(status: StreamStatus, dropped: int) -> dict[str, Any]:
    """A stream's status for its client; `dropped` messages were lost because the client reads too slowly."""
    return {
        "v": EVENT_VERSION,
        "type": "status",
        "stream": status.stream,
        "position_s": status.position_s,
        "level_db": status.level_db,
        "vad_state": status.vad_state,
        "dropped": dropped,
        "skipped": status.partials_dropped,
        "latency_p50_ms": status.latency_p50_ms,
        "latency_p95_ms": status.latency_p95_ms,
    }
