from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from makers import babble, silence
from running import START_S, running
from talking import pcm

from streamser.bundle import Bundle
from streamser.cli import main

pytestmark = pytest.mark.slow


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_serve_runs_on_loopback_until_a_signal_and_exits_with_code_0(bundle: Bundle, name: str) -> None:
    with running(bundle.path) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert fetch(server.url)[0] == 200
        health = json.loads(fetch(server.url + "healthz")[1])
        assert (health["model"], health["microphone"], health["recording"]) == (bundle.name, False, False)
        server.process.send_signal(getattr(signal, name))
        assert server.process.wait(START_S) == 0
        assert not [line for line in server.lines if "Traceback" in line or "ERROR" in line]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
async def test_on_sigterm_a_client_gets_the_final_of_its_open_utterance(bundle: Bundle) -> None:
    with running(bundle.path) as server:
        url = await asyncio.to_thread(lambda: server.url)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url + "ws/stream?sample_rate=16000") as ws,
        ):
            await ws.send_bytes(pcm(np.concatenate([silence(0.4), babble(1.5)])))
            messages = []
            async for raw in ws:
                messages.append(json.loads(raw.data))
                if messages[-1]["type"] == "emotion" and not messages[-1]["final"]:
                    break  # the utterance is open, and no silence ends it
            server.process.send_signal(signal.SIGTERM)
            messages += [json.loads(raw.data) async for raw in ws]
            assert ws.close_code == 1001
        assert await asyncio.to_thread(server.process.wait, START_S) == 0
    assert [m["utterance"] for m in messages if m["type"] == "emotion" and m["final"]] == [0]
    assert [m["type"] for m in messages[-2:]] == ["stream_ended", "error"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
async def test_a_second_signal_ends_the_server_at_once(bundle: Bundle) -> None:
    with running(bundle.path, "--set", "server.drain_s=600") as server:
        url = await asyncio.to_thread(lambda: server.url)
        port = int(url.rstrip("/").rpartition(":")[2])
        _, upload = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /v1/label HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\nRIFF"
        upload.write(head)  # the rest never arrives, so the server waits for it for ten seconds
        await upload.drain()
        async with aiohttp.ClientSession() as session:
            await health(session, url)  # its response shows that the upload has arrived
            server.process.send_signal(signal.SIGTERM)
            while (await health(session, url))["status"] != "draining":
                await asyncio.sleep(0.02)
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, START_S) != 0
        upload.close()


async def health(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url + "healthz") as response:
        values: dict[str, Any] = await response.json()
        return values


def test_a_generated_token_is_printed_in_the_address_and_is_accepted(bundle: Bundle) -> None:
    with running(bundle.path, "--token", "auto") as server:
        token = server.wait_for_line(r"/#token=(\S+);")[1]
        assert len(token) >= 32
        url = server.url
        assert fetch(url + "v1/models")[0] == 401
        assert fetch(url + "v1/models", Authorization=f"Bearer {token}")[0] == 200


def test_recording_and_a_public_address_are_reported_at_the_start(bundle: Bundle, tmp_path: Path) -> None:
    options = ("--host", "0.0.0.0", "--record", str(tmp_path / "audio"))
    with running(bundle.path, *options, STREAMSER_TOKEN="a-token-from-the-environment") as server:
        server.wait_for_line("RECORDING all audio to")
        server.wait_for_line("other machines can connect")
        server.wait_for_line("clients need the token that you gave")
        assert "a-token-from-the-environment" not in "".join(server.lines)
        port = server.url.rstrip("/").rpartition(":")[2]
        assert json.loads(fetch(f"http://127.0.0.1:{port}/healthz")[1])["recording"] is True


def test_every_log_line_with_log_json_is_a_json_object(bundle: Bundle) -> None:
    with running(bundle.path, before=("--log-json", "--log-level", "info")) as server:
        url = server.wait_for_line(r"serving .* at (http://\S+/);")[1]
        body = json.dumps({"not": "a sound"}).encode()
        request = urllib.request.Request(url + "v1/label?token=a-token-that-is-wrong", data=body)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=30)
        caught.value.close()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(START_S) == 0
    lines = [json.loads(line) for line in server.lines]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert "a-token-that-is-wrong" not in str(lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "needs a token"),
        (["--token", "short"], "server.token: "),
        (["--port", "99999"], "server.port: "),
        (["--allow-origin", "example.org"], "server.allowed_origins: "),
        (["--set", "server.prot=1"], "did you mean"),
    ],
)
def test_invalid_options_of_serve_are_reported_in_one_line(
    bundle: Bundle, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--model", str(bundle.path), *arguments]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("streamser: ")
    assert printed.count("\n") == 1


def test_the_help_of_serve_does_not_need_aiohttp() -> None:
    code = "import sys; sys.modules['aiohttp'] = None; from streamser.cli import main; main(['serve', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--mic" in done.stdout
