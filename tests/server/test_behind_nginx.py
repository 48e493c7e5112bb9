"""The configuration for TLS, tools/deploy/nginx.conf, works in nginx."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from talking import DEADLINE_S, finals, pcm, serving, two_utterances, wav

from streamser.recognizer import Recognizer

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CONFIG = Path(__file__).parents[2] / "tools" / "deploy" / "nginx.conf"
TOKEN = "a-token-for-these-tests"
NAME = "emotion.example"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="nginx and openssl are not installed"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configured(folder: Path, port: int, upstream: int) -> Path:
    """Write nginx.conf with this test's ports and certificate; a user without special rights can run it."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    made = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={NAME} -addext subjectAltName=DNS:{NAME}".split()
    subprocess.run(["openssl", *made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    config = CONFIG.read_text()
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("http://127.0.0.1:8765;", f"http://127.0.0.1:{upstream};"),
        ("/etc/ssl/certs/emotion.example.pem", str(certificate)),
        ("/etc/ssl/private/emotion.example.key", str(key)),
        ("/var/log/nginx/streamser.log", str(folder / "access.log")),
    ):
        assert old in config, old
        config = config.replace(old, new)
    temporary = "\n".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # otherwise its workers could not write to the test's folder
    main.write_text(
        f"{user} daemon off; pid {folder / 'pid'}; error_log {folder / 'error.log'};\nevents {{}}\n"
        f"http {{\n{temporary}\n{config}\n}}\n"
    )
    return main


@asynccontextmanager
async def proxied(recognizer: Recognizer, folder: Path) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """Run a server behind nginx; yields a client that trusts the proxy's certificate, and the proxy's URL."""
    port = free_port()
    async with serving(recognizer, token=TOKEN) as server:
        main = configured(folder, port, server.port)
        assert NGINX
        process = await asyncio.create_subprocess_exec(NGINX, "-p", str(folder), "-c", str(main))
        try:
            await asyncio.wait_for(listens(port), DEADLINE_S)
            trust = ssl.create_default_context(cafile=str(folder / "cert.pem"))
            resolver = _ToLoopback()
            connector = aiohttp.TCPConnector(ssl=trust, resolver=resolver)
            async with aiohttp.ClientSession(connector=connector) as session:
                yield session, f"https://{NAME}:{port}/"
        finally:
            process.terminate()
            await process.wait()


class _ToLoopback(aiohttp.abc.AbstractResolver):
    """Resolves every name to this machine."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


async def listens(port: int) -> None:
    """Wait until the port accepts connections."""
    while not await connects(port):
        await asyncio.sleep(0.05)


async def connects(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_nginx_passes_pages_streams_and_uploads_but_not_metrics_and_the_liveness_probe(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with proxied(recognizer, tmp_path) as (session, url):
        async with session.get(url) as page:
            assert page.status == 200
            assert "Strict-Transport-Security" in page.headers
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        async with session.ws_connect(url + f"ws/stream?sample_rate=16000&token={TOKEN}", origin=url[:-1]) as ws:
            await ws.send_bytes(pcm(two_utterances()))
            await ws.send_json({"type": "end"})
            messages = [json.loads(message.data) async for message in ws]
        assert len(finals(messages)) == 2
        async with session.post(url + "v1/label", data=wav(two_utterances()), headers=bearer) as response:
            assert (response.status, len((await response.json())["segments"])) == (200, 2)
        async with session.post(url + "v1/label", data=wav(two_utterances())) as response:
            assert response.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(url + f"ws/stream?token={TOKEN}", origin="https://evil.example")
        assert caught.value.status == 403
        for path in ("metrics", "livez"):
            async with session.get(url + path, headers=bearer) as response:
                assert response.status == 404
    log = (tmp_path / "access.log").read_text()
    assert re.search(r"GET /ws/stream 101", log)
    assert TOKEN not in log
