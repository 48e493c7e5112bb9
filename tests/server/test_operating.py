"""docs/operating.md and tools/deploy agree with the server's metrics, settings and health check."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from talking import serving

from streamser.recognizer import Recognizer
from streamser.server import ServerConfig
from streamser.server.app import Server
from streamser.server.metrics import HELP
from streamser.stream.status import StreamStatus

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "tools" / "deploy"
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")


def names_in(text: str) -> set[str]:
    """The metrics that a text uses; the parts of a histogram count as the histogram."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\b(?:streamser|process)_\w+", text)}


def test_every_metric_is_documented_in_one_line() -> None:
    for name, meaning in HELP.items():
        assert f"| `{name}` | {meaning} |" in OPERATING


def test_every_counter_of_a_stream_is_documented() -> None:
    described = {"stream", "position_s", "level_db", "vad_state", "source_state", "device", "model", "engine", "paused"}
    for field in fields(StreamStatus):
        assert field.name in described or f"`{field.name}`" in OPERATING, field.name


def test_every_documented_limit_is_a_setting_and_every_maximum_is_documented() -> None:
    limits = re.findall(r"`([a-z_]+_(?:s|kb|mb)|max_\w+|client_queue)`", OPERATING[OPERATING.index("## Limits") :])
    assert set(limits) <= {field.name for field in fields(ServerConfig)}
    assert {name for name in ServerConfig.__slots__ if name.startswith("max_")} <= set(limits)


def test_the_grafana_dashboard_and_the_alerts_use_only_existing_metrics() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = names_in(" ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]))
    assert asked <= set(HELP), asked - set(HELP)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]:
        assert names_in(rule["expr"]) <= set(HELP), rule
        assert rule["annotations"]["summary"]


async def test_every_gauge_of_the_server_has_a_help_text(server: Server) -> None:
    gauges = {**server._hub.gauges(), "streamser_connections": 0, "streamser_ready": 1}
    assert set(gauges) <= set(HELP)


def health_check() -> list[str]:
    """The command of the container's health check, run with this Python."""
    found = re.search(r"HEALTHCHECK.*?CMD (\[.*?\])\n", (DEPLOY.parents[1] / "Dockerfile").read_text(), re.DOTALL)
    assert found
    return [sys.executable, *ast.literal_eval(found[1])[1:]]


async def test_the_containers_health_check_succeeds_only_while_the_server_is_ready(recognizer: Recognizer) -> None:
    import asyncio

    async def check(port: int) -> int:
        command = [word.replace("8765", str(port)) for word in health_check()]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        return await process.wait()

    async with serving(recognizer) as server:
        assert await check(server.port) == 0
        server.drain()
        assert await check(server.port) != 0
    assert await check(server.port) != 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit_and_rates_it_safe(tmp_path: Path) -> None:
    unit = tmp_path / "streamser.service"
    text = (DEPLOY / "streamser.service").read_text()
    unit.write_text(text.replace("/opt/streamser/bin/streamser", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    about_us = [line for line in done.stderr.splitlines() if "streamser" in line and "man page" not in line.lower()]
    assert (done.returncode, about_us) == (0, [])
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)], capture_output=True, text=True, check=False
    )
    exposure = re.search(r"Overall exposure level.*?: (\d+\.\d+)", rated.stdout)
    assert exposure and float(exposure[1]) < 2.5, rated.stdout[-2000:] + rated.stderr


def test_the_command_of_the_unit_is_valid() -> None:
    from streamser.cli import build_parser

    found = re.search(r"^ExecStart=\S+ (.*)$", (DEPLOY / "streamser.service").read_text(), re.MULTILINE)
    assert found
    args = build_parser("serve").parse_args(found[1].split())
    assert (args.command, args.host, args.port, args.log_json) == ("serve", "127.0.0.1", 8765, True)
