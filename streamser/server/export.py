"""POST /v1/export: events in, a file for another program out, by the writers that `--out` and `--plot` use."""

from __future__ import annotations

import asyncio
import json
import tempfile
from functools import partial
from pathlib import Path

from aiohttp import web

from streamser.errors import ConfigError, MissingExtraError
from streamser.events import Event, event_from_dict
from streamser.outputs import FORMATS, open_writer
from streamser.plot import save_timeline
from streamser.server.bodies import Bodies
from streamser.server.refusals import HttpRefusal, check_query

_SUFFIXES = {suffix.lstrip("."): suffix for suffix in FORMATS}
_PICTURES = {"png": ".png", "svg": ".svg", "pdf": ".pdf"}
_TYPES = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv",
    "vtt": "text/vtt",
    "eaf": "application/xml",
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}
EXPORT_FORMATS = (*_SUFFIXES, *_PICTURES)


def media_type(wanted: str) -> str:
    """The Content-Type of a format."""
    return _TYPES.get(wanted, "text/plain")


class Exporter:
    """Writes one file at a time, because a picture occupies a thread for seconds, and megabytes of memory."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._turn = asyncio.Semaphore(1)

    async def response(self, request: web.Request) -> web.Response:
        """Handle POST /v1/export."""
        check_query(request, "format")
        wanted = request.query.get("format", "")
        if wanted not in EXPORT_FORMATS:
            known = ", ".join(EXPORT_FORMATS)
            raise HttpRefusal(400, "bad_query", f"format must be one of {known}, not {wanted!r:.40}")
        async with self._bodies.receive(request) as body, self._turn:
            content = await asyncio.get_running_loop().run_in_executor(None, partial(_write, bytes(body), wanted))
        name = f"streamser{_SUFFIXES.get(wanted) or _PICTURES[wanted]}"
        return web.Response(
            body=content,
            content_type=media_type(wanted),
            charset=None if wanted in ("png", "pdf") else "utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


def _write(body: bytes, wanted: str) -> bytes:
    events = [_parse(line, number) for number, line in enumerate(body.splitlines(), 1) if line.strip()]
    if not events:
        raise HttpRefusal(
            400, "empty", "the body has no event; send JSON lines, as replay --out talk.jsonl writes them"
        )
    with tempfile.TemporaryDirectory(prefix="streamser-") as folder:
        path = Path(folder, "session" + (_SUFFIXES.get(wanted) or _PICTURES[wanted]))
        try:
            if wanted in _PICTURES:
                save_timeline(path, events, title=" ".join({event.stream: None for event in events}))
            else:
                with open_writer(path) as writer:
                    for event in events:
                        writer.write(event)
            return path.read_bytes()
        except MissingExtraError as error:
            raise HttpRefusal(501, "missing_extra", str(error)) from error
        except (ConfigError, ValueError) as error:  # for example, two streams in a format for one stream
            raise HttpRefusal(422, "bad_events", str(error).replace(f"{path.parent}/", "")) from error


def _parse(line: bytes, number: int) -> Event:
    try:
        data = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError(f"an event must be a JSON object, not {type(data).__name__}")
        return event_from_dict(data)
    except (ValueError, RecursionError) as error:
        raise HttpRefusal(400, "bad_events", f"line {number}: {error}") from error
