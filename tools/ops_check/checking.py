"""Shared by the checks of the unit and of the image: requests, a client that streams speech, and the list of checks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

URL = "http://127.0.0.1:8765"

Check = Callable[[], str]
CHECKS: dict[str, dict[str, Check]] = {"unit": {}, "image": {}}


def check(part: str, promise: str) -> Callable[[Check], Check]:
    """Register the decorated function as a check of a part.

    The check returns a figure to print, or "", and raises AssertionError if the promise is broken.
    """

    def add(function: Check) -> Check:
        CHECKS[part][promise] = function
        return function

    return add


def run(*command: str, check: bool = True) -> str:
    """Run a command and return its output; with `check`, an exit code other than 0 is an AssertionError."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert not check or done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-500:]}"
    return done.stdout.strip()


def code(*command: str) -> int:
    """Run a command and return its exit code."""
    return subprocess.run(command, capture_output=True, check=False, timeout=300).returncode


def ask(path: str, token: str | None = None) -> tuple[int, str]:
    """Send a GET request; returns the HTTP status and the body, status 0 if nothing listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(URL + path, headers=headers), timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> float:
    """Wait until the condition is true; returns the seconds that this took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - start


def ready() -> bool:
    """Whether /healthz responds with status 200."""
    return ask("/healthz")[0] == 200


def needs_token(token: str) -> None:
    """Check that the probes are open and that the API needs the token."""
    assert ask("/healthz")[0] == ask("/livez")[0] == 200
    assert (ask("/v1/models")[0], ask("/v1/models", token)[0]) == (401, 200)


def sample_finals(token: str) -> str:
    """Stream a recorded sample; returns the label of its only final."""
    from streamser import read_audio
    from streamser.client import AsyncClient
    from streamser.samples import find_samples

    async def stream() -> list[Any]:
        async with AsyncClient(URL, token=token, reconnect_s=0).stream() as opened:
            events = await opened.push(read_audio(find_samples()[2].path))
            return events + await opened.finish()

    events = asyncio.run(stream())
    finals = [event for event in events if event.type == "emotion" and event.final]
    assert len(finals) == 1 and events[-1].type == "stream_ended" and events[-1].error is None, events
    return f"{finals[0].label}, {finals[0].confidence:.2f}"


def speech(seconds: float) -> bytes:
    """16-bit PCM of a recorded sentence, repeated without a pause."""
    import numpy as np

    from streamser import read_audio
    from streamser.audio import to_pcm16
    from streamser.samples import find_samples

    sentence = read_audio(find_samples()[2].path)[8000:24000]  # one second, in the middle
    return to_pcm16(np.resize(sentence, int(seconds * 16_000))).tobytes()


def stopped_in_mid_utterance(token: str, *stop: str) -> str:
    """Stop the server (command `stop`) while a client speaks; the client must get its final and close code 1001."""
    return asyncio.run(_stopped_in_mid_utterance(token, *stop))


async def _stopped_in_mid_utterance(token: str, *stop: str) -> str:
    import aiohttp

    pcm = speech(20)
    headers = {"Authorization": f"Bearer {token}"}
    messages: list[dict[str, Any]] = []
    began = asyncio.Event()

    async def speak(ws: Any) -> None:
        for first in range(0, len(pcm), 3200):
            if began.is_set():
                return
            await ws.send_bytes(pcm[first : first + 3200])
            await asyncio.sleep(0.1)

    async with aiohttp.ClientSession(headers=headers) as session, session.ws_connect(URL + "/ws/stream") as ws:
        await ws.send_str(json.dumps({"type": "hello", "sample_rate": 16_000}))
        speaking = asyncio.create_task(speak(ws))
        async for raw in ws:
            messages.append(json.loads(raw.data))
            if messages[-1]["type"] == "emotion" and not messages[-1]["final"]:
                break
        began.set()
        await speaking
        assert messages[-1]["type"] == "emotion", messages
        start = time.monotonic()
        stopping = await asyncio.create_subprocess_exec(*stop, stdout=subprocess.DEVNULL)
        after = [json.loads(raw.data) async for raw in ws]
        closed = ws.close_code
        assert await stopping.wait() == 0
    took = time.monotonic() - start
    assert closed == 1001, f"close code {closed}"
    assert [m["utterance"] for m in after if m["type"] == "emotion" and m["final"]] == [messages[-1]["utterance"]]
    return f"stopped after {took:.1f} s"
