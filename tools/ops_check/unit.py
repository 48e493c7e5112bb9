"""Checks of the installed systemd unit."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from pathlib import Path

from checking import (
    ask,
    check,
    code,
    needs_token,
    ready,
    run,
    sample_finals,
    stopped_in_mid_utterance,
    wait_for,
)

ENVIRONMENT = Path("/etc/streamser/environment")
DROP_IN = Path("/run/systemd/system/streamser.service.d/check.conf")
RECORDINGS = Path("/var/lib/streamser/recordings")


def token() -> str:
    """The token in the unit's environment file."""
    return ENVIRONMENT.read_text().partition("=")[2].strip()


def shown(name: str) -> str:
    """The value of a systemd property of the service."""
    return run("systemctl", "show", "streamser", "--property", name, "--value")


def status_of_process() -> dict[str, str]:
    """The fields of /proc/PID/status for the service's main process."""
    lines = Path(f"/proc/{shown('MainPID')}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def reconfigure(text: str | None) -> None:
    """Write the drop-in file of these checks, or remove it (None), and restart the service."""
    if text is None:
        DROP_IN.unlink()
    else:
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(f"[Service]\n{text}\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "streamser")


@check("unit", "the enabled unit starts at boot, and `systemctl start` waits until it accepts clients")
def starts() -> str:
    # The checks' own unit is ordered after the service: systemd starts it as soon as it considers the service started.
    assert (shown("ActiveState"), shown("NRestarts")) == ("active", "0")
    assert ready(), "started, but /healthz does not respond with status 200"
    took = [int(shown(name)) for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")]
    return f"ready {(took[1] - took[0]) / 1e6:.1f} s after its start"


@check("unit", "`/healthz` and `/livez` are open, the API needs the token, and only root can read its file")
def probes() -> str:
    needs_token(token())
    mode, folder = ENVIRONMENT.stat().st_mode, ENVIRONMENT.parent.stat().st_mode
    assert (stat.S_IMODE(mode), stat.S_IMODE(folder), ENVIRONMENT.stat().st_uid) == (0o600, 0o700, 0)
    return ""


@check("unit", "it runs as a dynamic user without capabilities, with filtered system calls, on a read-only system")
def sandbox() -> str:
    status = status_of_process()
    uids = set(status["Uid"].split())
    assert len(uids) == 1 and 61184 <= int(uids.copy().pop()) <= 65519, uids
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mounts = Path(f"/proc/{shown('MainPID')}/mountinfo").read_text().splitlines()
    (root,) = [line.split()[5] for line in mounts if line.split()[4] == "/"]
    assert root.split(",")[0] == "ro", root
    return f"user {uids.pop()}"


@check("unit", "`systemd-analyze security` rates the running unit safe")
def exposure() -> str:
    found = re.search(r"Overall exposure level.*?: (\d+\.\d+)", run("systemd-analyze", "security", "streamser"))
    assert found and float(found[1]) < 2.5, found
    return f"exposure {found[1]} of 10"


@check("unit", "a WebSocket client that streams a sample gets its final")
def unit_sample() -> str:
    return sample_finals(token())


@check("unit", "each of its lines in the journal is a JSON object, and none contains the token")
def journal() -> str:
    lines = run("journalctl", "--boot", "--output", "cat", "_SYSTEMD_UNIT=streamser.service").splitlines()
    events = [json.loads(line) for line in lines]
    assert all({"time", "level", "logger", "message"} <= set(event) for event in events)
    assert any("stream" in event for event in events), lines
    assert not any(token() in line for line in lines)
    return f"{len(lines)} lines"


@check("unit", "`systemctl stop` during an utterance: its final arrives, close code 1001, exit code 0")
def unit_stop() -> str:
    took = stopped_in_mid_utterance(token(), "systemctl", "stop", "streamser")
    ended = [shown(name) for name in ("ActiveState", "Result", "ExecMainCode", "ExecMainStatus")]
    assert ended == ["inactive", "success", "1", "0"], ended  # code 1: it exited, no signal killed it
    return took


@check("unit", "after `kill -9` systemd starts it again")
def unit_kill() -> str:
    run("systemctl", "start", "streamser")
    assert ready()
    before = shown("MainPID")
    os.kill(int(before), signal.SIGKILL)
    took = wait_for(lambda: shown("NRestarts") == "1" and ready(), "started again")
    assert shown("MainPID") != before
    return f"ready again after {took:.1f} s"


@check("unit", "`--record` writes below /var/lib/streamser, and only its dynamic user can read the files")
def unit_record() -> str:
    command = run("systemctl", "cat", "streamser")
    start = re.findall(r"^ExecStart=(.+)$", command, re.MULTILINE)[-1]
    before = set(RECORDINGS.glob("**/*.wav"))
    try:
        reconfigure(f"ExecStart=\nExecStart={start} --record {RECORDINGS}")
        assert json.loads(ask("/healthz")[1])["recording"] is True
        user = int(status_of_process()["Uid"].split()[0])
        sample_finals(token())
        (file,) = set(RECORDINGS.glob("**/*.wav")) - before
        assert file.stat().st_size > 32_000
        for path, mode in ((file, 0o600), (RECORDINGS, 0o700), (RECORDINGS.parent, 0o700)):
            found = path.stat()
            assert (stat.S_IMODE(found.st_mode), found.st_uid) == (mode, user), path
    finally:
        reconfigure(None)
    assert json.loads(ask("/healthz")[1])["recording"] is False
    return f"{file.stat().st_size} bytes"


@check("unit", "its memory stays below an eighth of `MemoryMax`")
def memory() -> str:
    peak = int(status_of_process()["VmHWM"].split()[0]) / 1000
    assert peak * 1e6 < int(shown("MemoryMax")) / 8
    enforced = "enforced" if shown("MemoryCurrent").isdigit() else "not enforced here: no memory controller"
    return f"peak {peak:.0f} MB; the limit is {enforced}"


@check("unit", "with an invalid token `systemctl start` fails, and systemd gives up after ten tries")
def wrong_setting() -> str:
    right = ENVIRONMENT.read_text()
    run("systemctl", "stop", "streamser")
    run("systemctl", "reset-failed", "streamser", check=False)
    try:
        ENVIRONMENT.write_text("STREAMSER_TOKEN=short\n")
        assert code("systemctl", "start", "streamser") != 0
        took = wait_for(lambda: shown("ActiveState") == "failed" and shown("SubState") == "failed", "failed", 120)
        tries = shown("NRestarts")
    finally:
        ENVIRONMENT.write_text(right)
    assert "server.token" in run("journalctl", "--boot", "--unit", "streamser", "--lines", "20")
    run("systemctl", "reset-failed", "streamser")
    run("systemctl", "start", "streamser")
    assert ready()
    return f"{tries} restarts in {took:.0f} s"
