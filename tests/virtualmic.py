"""A virtual microphone for PortAudio on machines without a sound card. Each test has its own sound server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "virtual_mic.sh"


def why_missing() -> str | None:
    """Say why this machine cannot have a virtual microphone, or return None."""
    if sys.platform != "linux":
        return "the virtual microphone needs Linux"
    for program in ("pulseaudio", "pactl", "paplay", "bash"):
        if shutil.which(program) is None:
            return f"{program} is not installed (tools/virtual_mic.sh install)"
    try:
        import sounddevice  # noqa: F401
    except OSError:
        return "the PortAudio library is not installed (tools/virtual_mic.sh install)"
    return None


needs_virtual_mic = pytest.mark.skipif(why_missing() is not None, reason=str(why_missing()))


class VirtualMic:
    """A private sound server. Its microphones record the audio that is played into them."""

    def __init__(self) -> None:
        # The name is short because the path of a socket may have only 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="vmic-"))
        self.env: dict[str, str] = {}
        self._players: list[subprocess.Popen[bytes]] = []

    def __call__(self, command: str) -> str:
        done = subprocess.run(
            ["bash", SCRIPT, command, self.folder],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env=self._env(),
        )
        return done.stdout

    def start(self) -> None:
        words = self("start").split()[1:]
        self.env = dict(word.split("=", 1) for word in words)

    @property
    def playing(self) -> bool:
        return any(player.poll() is None for player in self._players)

    def play(self, file: Path, sink: str = "stereo") -> None:
        """Play a file into a microphone while the test continues."""
        player = subprocess.Popen(
            ["bash", SCRIPT, "play", self.folder, file, sink],
            env=self._env(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._players.append(player)

    def silence(self) -> None:
        """Stop all playing."""
        for player in self._players:
            with suppress(ProcessLookupError):
                os.killpg(player.pid, signal.SIGKILL)
            player.wait(5)
        self._players.clear()

    def stop(self) -> None:
        """End the sound server, also if it is frozen."""
        with suppress(subprocess.CalledProcessError):
            self("thaw")
        self.silence()
        self("stop")

    def _env(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if not key.startswith("PULSE_")} | self.env


@contextmanager
def virtual_mic(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualMic]:
    """Start a sound server that PortAudio in this process also finds."""
    import sounddevice

    mic = VirtualMic()
    mic.start()
    try:
        for key, value in mic.env.items():
            monkeypatch.setenv(key, value)
        sounddevice._terminate()
        sounddevice._initialize()
        yield mic
    finally:
        mic.stop()
        monkeypatch.undo()
        sounddevice._terminate()
        sounddevice._initialize()
