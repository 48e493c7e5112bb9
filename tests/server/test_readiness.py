"""`streamser serve` reports to systemd when it accepts clients, and when it stops."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import uuid
from pathlib import Path

import aiohttp
import pytest
from running import START_S, running

from streamser.bundle import Bundle
from streamser.cli.readiness import NOTIFY_VARIABLE, READY, STOPPING, notify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd runs on Linux")


def manager(address: str | Path) -> socket.socket:
    """Open the socket on which a service manager receives notifications."""
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(address))
    receiver.settimeout(START_S)
    return receiver


async def test_serve_notifies_systemd_when_clients_can_connect_and_when_it_stops(bundle: Bundle) -> None:
    name = f"streamser-{uuid.uuid4()}"  # an abstract address, whose length does not depend on a path
    with manager("\0" + name) as receiver, running(bundle.path, NOTIFY_SOCKET="@" + name) as server:
        assert await asyncio.to_thread(receiver.recv, 100) == READY.encode()
        async with aiohttp.ClientSession() as session, session.get(server.url + "healthz") as response:
            assert response.status == 200
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(receiver.recv, 100) == STOPPING.encode()
        assert await asyncio.to_thread(server.process.wait, START_S) == 0


def test_the_address_of_the_service_manager_can_be_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a short relative path: the address may have 107 bytes
    monkeypatch.setenv(NOTIFY_VARIABLE, "notify")
    with manager("notify") as receiver:
        notify(READY)
        assert receiver.recv(100) == READY.encode()


def test_a_missing_service_manager_causes_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(NOTIFY_VARIABLE, str(tmp_path / "gone"))
    notify(READY)
    assert "could not be notified (READY=1)" in caplog.text
    caplog.clear()
    monkeypatch.delenv(NOTIFY_VARIABLE)
    notify(READY)
    assert not caplog.text
