"""A server that can no longer record reports this to its clients and to the probe."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import soundfile
from makers import tone
from talking import Message, finals, pcm, serving, talking, two_utterances, wav

from streamser.recognizer import Recognizer
from streamser.server.app import Server
from streamser.stream.wavfile import WavWriter

DATA = pcm(two_utterances())


async def ask(server: Server, path: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(server.url + path) as response:
        return response.status, await response.json()


def is_ready(message: Message) -> bool:
    return bool(message["type"] == "ready")


async def test_a_clients_audio_is_recorded_in_a_file_that_only_the_operator_can_read(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    async with serving(recognizer, record=str(tmp_path / "audio")) as server:
        async with talking(server, sample_rate=16000, stream="kitchen") as talker:
            await talker.send(DATA)
            await talker.end()
        assert (await ask(server, "healthz"))[0] == 200
    (path,) = (tmp_path / "audio").iterdir()
    assert soundfile.read(path, dtype="int16")[0].astype("<i2").tobytes() == DATA
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_while_the_recording_folder_is_missing_clients_are_refused_and_the_probe_fails(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    folder = tmp_path / "audio"
    async with serving(recognizer, record=str(folder)) as server:
        shutil.rmtree(folder)
        status, health = await ask(server, "healthz")
        assert (status, health["ready"], health["live"]) == (503, False, True)
        assert "recording" in health["problems"][0]
        assert str(tmp_path) not in str(health)
        async with talking(server, sample_rate=16000) as talker:
            (error,) = await talker.receive()
        assert (error["code"], talker.ws.close_code) == ("recording", 1013)
        assert str(tmp_path) not in error["message"]
        async with (
            aiohttp.ClientSession() as session,
            session.post(server.url + "v1/label", data=wav(two_utterances())) as response,
        ):
            assert (response.status, (await response.json())["error"]["code"]) == (503, "recording")
        folder.mkdir()
        async with talking(server, sample_rate=16000) as talker:
            await talker.send(DATA)
            assert len(finals(await talker.end())) == 2
        assert (await ask(server, "healthz"))[0] == 200


async def test_if_the_disk_is_full_the_client_gets_its_results_so_far_and_the_reason(
    recognizer: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = 0
    write = WavWriter._append

    def full(self: WavWriter, data: bytes) -> None:
        nonlocal stored
        stored += len(data)
        if stored > 80_000:  # slightly more than the first utterance
            self._file.close()
            raise self._failed(OSError(28, "No space left on device"))
        write(self, data)

    monkeypatch.setattr(WavWriter, "_append", full)
    async with serving(recognizer, record=str(tmp_path)) as server:
        async with talking(server, sample_rate=16000) as talker:
            await talker.receive(is_ready)
            await talker.send(DATA, block=6400)
            messages = await talker.receive()
        assert messages[-1]["code"] == "recording"
        assert "No space left on device" in messages[-1]["message"]
        assert str(tmp_path) not in str(messages)
        assert talker.ws.close_code == 1013
        assert len(finals(messages)) >= 1
        status, health = await ask(server, "healthz")
        assert (status, health["status"]) == (503, "failing")
        assert (await ask(server, "livez"))[0] == 200


async def test_recordings_of_a_killed_server_are_repaired_at_the_next_start(
    recognizer: Recognizer, tmp_path: Path
) -> None:
    writer = WavWriter(tmp_path / "20260101T000000-kitchen.wav")
    for _ in range(25):
        writer.write(tone(duration_s=0.1))
    path = tmp_path / "20260101T000001-killed.wav"
    path.write_bytes(writer.path.read_bytes())  # the file as it is before the writer closes it
    writer.close()
    assert len(soundfile.read(path)[0]) < 40_000
    async with serving(recognizer, record=str(tmp_path)):
        assert len(soundfile.read(path)[0]) == 40_000
