"""Checks of the container image, with podman."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import time
import urllib.request
import wave

from checking import (
    URL,
    ask,
    check,
    code,
    needs_token,
    ready,
    run,
    sample_finals,
    speech,
    stopped_in_mid_utterance,
    wait_for,
)

IMAGE = "localhost/streamser"
BASE = "docker.io/library/python:3.12-slim"
NAME = "streamser-check"
TOKEN = "token-of-the-image-check"


def podman(*arguments: str, check: bool = True) -> str:
    """Run podman and return its output."""
    return run("podman", *arguments, check=check)


def start_container(*options: str, command: tuple[str, ...] = ()) -> None:
    """Replace the container by a new one with these options, and wait until the server is ready."""
    podman("rm", "--force", "--ignore", NAME)
    podman("create", "--name", NAME, "--env", f"STREAMSER_TOKEN={TOKEN}", *options, IMAGE, *command)
    podman("start", NAME)
    wait_for(ready, podman("logs", NAME, check=False))


def healthy() -> bool:
    """Run the image's health check once, as podman does, and return whether it succeeds."""
    return code("podman", "healthcheck", "run", NAME) == 0


def exit_code() -> tuple[str, str]:
    """The container's state and its exit code."""
    state, ended = podman("inspect", NAME, "--format", "{{.State.Status}} {{.State.ExitCode}}").split()
    return state, ended


@check("image", "it is built from the unchanged Dockerfile and has its user, stop signal and health check")
def image_config() -> str:
    (image,) = json.loads(podman("image", "inspect", IMAGE))
    assert image["User"] == image["Config"]["User"] == "10001"
    assert image["Config"]["StopSignal"] == "SIGTERM"
    assert image.get("HealthCheck", image.get("Healthcheck")), "the image has no health check: --format docker"
    (base,) = json.loads(podman("image", "inspect", BASE))
    return f"{image['Size'] / 1e6:.0f} MB, of which {base['Size'] / 1e6:.0f} MB are the base image"


@check("image", "with a read-only root file system it is ready through its published port, as user 10001")
def read_only() -> str:
    start_container("--read-only", "--publish", "127.0.0.1:8765:8765")
    needs_token(TOKEN)
    assert podman("exec", NAME, "id", "--user") == "10001"
    assert code("podman", "exec", NAME, "touch", "/home/streamser/file") != 0
    return ""


@check("image", "podman runs its health check by itself, and the container becomes healthy")
def turns_healthy() -> str:
    field = "{{.State.Health.Status}}"
    return f"after {wait_for(lambda: podman('inspect', NAME, '--format', field) == 'healthy', 'healthy'):.0f} s"


@check("image", "a WebSocket client that streams a sample through the port gets its final")
def image_sample() -> str:
    return sample_finals(TOKEN)


@check("image", "`podman stop` during an utterance: its final arrives, close code 1001, exit code 0")
def image_stop() -> str:
    took = stopped_in_mid_utterance(TOKEN, "podman", "stop", NAME)
    assert exit_code() == ("exited", "0"), exit_code()
    return took


@check("image", "while it drains its health check fails; then it exits with code 0")
def draining() -> str:
    podman("start", NAME)
    wait_for(ready, "ready")
    assert healthy()
    uploading = threading.Thread(target=upload_minutes, daemon=True)
    uploading.start()
    time.sleep(1.0)  # until the upload has arrived and the server computes its finals
    start = time.monotonic()
    podman("kill", "--signal", "TERM", NAME)
    assert not healthy(), "healthy while the server drains"
    assert exit_code()[0] == "running", "the server had ended before the health check ran"
    wait_for(lambda: exit_code()[0] == "exited", "exited", 30)
    assert exit_code() == ("exited", "0"), exit_code()
    return f"exited after {time.monotonic() - start:.1f} s"


def upload_minutes() -> None:
    """Send eight minutes of speech to /v1/label, so that the server has work to drain; no response is needed."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(speech(480))
    request = urllib.request.Request(URL + "/v1/label", file.getvalue(), {"Authorization": f"Bearer {TOKEN}"})
    with contextlib.suppress(OSError, http.client.HTTPException), urllib.request.urlopen(request, timeout=60) as reply:
        reply.read()


@check("image", "its health check fails while the disk for recordings is full, and succeeds again afterwards")
def full_disk() -> str:
    serve = ("serve", "--host", "0.0.0.0", "--record", "/recordings")
    disk = "/recordings:size=17m,mode=0700,uid=10001"
    if code("podman", "run", "--rm", "--tmpfs", disk, "--entrypoint", "true", IMAGE) != 0:
        disk = "/recordings:size=17m,mode=1777"  # this version of podman cannot give a tmpfs an owner
    start_container("--read-only", "--publish", "127.0.0.1:8765:8765", "--tmpfs", disk, command=serve)
    assert healthy()
    podman("exec", NAME, "dd", "if=/dev/zero", "of=/recordings/other", "bs=1M", "count=4")
    assert not healthy(), "healthy though the disk for recordings is full"
    assert "disk for recordings is full" in ask("/healthz")[1]
    podman("exec", NAME, "rm", "/recordings/other")
    assert healthy()
    podman("stop", NAME)
    assert exit_code() == ("exited", "0")
    return ""
