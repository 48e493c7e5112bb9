from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import aiohttp
import pytest
from talking import pcm, serving, talking, two_utterances, wav

from streamser.bundle import Bundle
from streamser.errors import ConfigError
from streamser.recognizer import Recognizer
from streamser.server import ServerConfig
from streamser.server.app import Server

prometheus = pytest.importorskip("prometheus_client.parser")

TOKEN = "a-token-for-these-tests"


async def get(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, server.url + path, headers=headers, allow_redirects=False) as response,
    ):
        return response.status, await response.text(), dict(response.headers)


async def test_the_page_and_its_files_have_headers_that_forbid_other_sites(server: Server) -> None:
    for path, kind in (("", "text/html"), ("app.js", "text/javascript"), ("base.css", "text/css")):
        status, body, headers = await get(server, path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "http://" not in body.replace("http://127.0.0.1", "").replace("http://www.w3.org", "")


@pytest.mark.parametrize("path", ["..%2fapp.py", "%2e%2e/server/app.py", "../app.py", "index.html", ".git/config"])
async def test_no_path_of_a_request_reads_a_file_outside_the_page(server: Server, path: str) -> None:
    status, body, _ = await get(server, path)
    assert status == 404
    assert "import" not in body


async def test_health_names_the_checkpoint_and_whether_audio_is_stored(server: Server, bundle: Bundle) -> None:
    async with aiohttp.ClientSession() as session, session.get(server.url + "healthz") as response:
        health = await response.json()
    assert health["status"] == "ok"
    assert (health["model"], health["recording"], health["microphone"]) == (bundle.name, False, False)


async def test_models_lists_the_current_checkpoint_and_the_installed_ones(
    server: Server, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSER_MODELS", str(bundle.path.parent))
    async with aiohttp.ClientSession() as session, session.get(server.url + "v1/models") as response:
        content = await response.json()
    assert content["current"]["name"] == bundle.name
    assert content["current"]["labels"] == list(bundle.labels) == list(content["current"]["colours"])
    assert bundle.name in [model["name"] for model in content["models"]]


async def test_metrics_count_events_clients_and_segments(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        await session.post(server.url + "v1/label", data=wav(two_utterances()))
    async with talking(server, sample_rate=16000) as talker:
        await talker.receive(lambda message: message["type"] == "ready")
        _, body, headers = await get(server, "metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in prometheus.text_string_to_metric_families(body)}
    events = {sample.labels["type"]: sample.value for sample in families["streamser_events"].samples}
    assert events["speech_ended"] == events["speech_started"] == 2
    assert families["streamser_clients"].samples[0].value == 1
    assert families["streamser_worker_segments"].samples[0].value == 2
    count = next(s for s in families["streamser_final_latency_seconds"].samples if s.name.endswith("_count"))
    assert count.value == 2


async def test_an_unknown_path_is_refused_with_the_existing_ones(server: Server) -> None:
    status, body, _ = await get(server, "v1/nothing")
    assert status == 404
    assert "/v1/label" in body
    status, body, _ = await get(server, "v1/label")
    assert status == 405
    assert "does not accept GET" in body


async def test_a_foreign_host_or_site_is_refused_on_every_route(server: Server) -> None:
    for path in ("", "v1/models", "healthz", "metrics", "ws/stream", "ws/events", "nothing"):
        assert (await get(server, path, Host="evil.example"))[0] == 403
        status, body, headers = await get(server, path, Origin="https://evil.example")
        assert status == 403
        assert "allowed_origins" in body
        assert "Access-Control-Allow-Origin" not in headers


async def test_a_page_of_another_site_gets_no_websocket(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("ws/stream", "ws/events"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(server.url + path, origin="https://evil.example")
            assert caught.value.status == 403
        async with session.ws_connect(server.url + "ws/stream", origin=server.url.rstrip("/")):
            pass


async def test_an_allowed_site_may_send_requests(recognizer: Recognizer) -> None:
    site = "https://home.example"
    async with serving(recognizer, allowed_origins=(site,)) as server:
        status, _, headers = await get(server, "v1/models", Origin=site)
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, site)
        asked = {"Origin": site, "Access-Control-Request-Method": "POST"}
        status, _, headers = await get(server, "v1/label", "OPTIONS", **asked)
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, site)
        assert "POST" in headers["Access-Control-Allow-Methods"]


async def test_with_a_token_only_the_page_and_the_probe_are_open(recognizer: Recognizer) -> None:
    async with serving(recognizer, token=TOKEN) as server:
        for path in ("", "app.js", "healthz"):
            assert (await get(server, path))[0] == 200
        for path in ("v1/models", "metrics"):
            status, body, headers = await get(server, path)
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
            assert TOKEN not in body
            assert (await get(server, path, Authorization="Bearer " + TOKEN[:-1]))[0] == 401
            assert (await get(server, path, Authorization=f"Bearer {TOKEN}"))[0] == 200
            assert (await get(server, f"{path}?token={TOKEN}"))[0] == 200
        assert (await get(server, "v1/label", "POST"))[0] == 401


def test_an_address_that_others_can_reach_is_refused_without_a_token(recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError, match="token"):
        Server(recognizer, ServerConfig(host="0.0.0.0", port=0))


async def test_a_port_in_use_is_reported_in_one_line_with_a_solution(recognizer: Recognizer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"{port} on 127\.0\.0\.1 is in use.*--port 0") as caught:
            await Server(recognizer, ServerConfig(port=port)).start()
        assert "\n" not in str(caught.value)


async def test_an_address_of_another_machine_is_refused_as_host(recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError, match=r"server\.host"):
        await Server(recognizer, ServerConfig(host="192.0.2.1", port=0, token=TOKEN)).start()


async def test_closing_notifies_every_client_and_does_not_wait_for_clients_that_do_not_read(
    recognizer: Recognizer,
) -> None:
    async with (
        serving(recognizer) as server,
        talking(server, sample_rate=16000) as reading,
        talking(server, sample_rate=16000) as not_reading,
    ):
        for talker in (reading, not_reading):
            await talker.receive(lambda message: message["type"] == "ready")
            await talker.send(pcm(two_utterances())[:40_000])
        began = asyncio.get_running_loop().time()
        receiving = asyncio.create_task(reading.receive())
        await server.close()
        assert asyncio.get_running_loop().time() - began < 3.0  # 0.6 s on an idle machine
        messages = await receiving
        assert (messages[-1]["code"], reading.ws.close_code) == ("going_away", 1001)


def test_without_aiohttp_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from streamser.errors import MissingExtraError\n"
        "try:\n    import streamser.server.app\n"
        "except MissingExtraError as error:\n    sys.exit('streamser[serve]' not in str(error))\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
