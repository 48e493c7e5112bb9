"""Clients choose one of the installed checkpoints, and several checkpoints serve at the same time."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from makers import make_bundle
from talking import finals, pcm, plain, serving, talking, truth, two_utterances, wav

import streamser
from streamser.calibration import Calibration
from streamser.errors import ServerError
from streamser.recognizer import Recognizer, load
from streamser.server import checkpoints
from streamser.server.checkpoints import MOST_OTHERS, Checkpoints
from streamser.server.protocol import Refusal
from streamser.stream.worker import PipelineConfig


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recognizer:
    """Install a checkpoint "other", whose predictions are always uncertain, and a damaged checkpoint "broken"."""
    unsure = make_bundle(tmp_path / "other", calibration=Calibration(temperature=50.0, threshold=0.9))
    broken = tmp_path / "broken"
    broken.mkdir()
    monkeypatch.setattr(checkpoints, "find_models", lambda: {"other": unsure.path, "broken": broken})
    return load(unsure.path, "cpu")


async def test_a_client_gets_the_events_of_the_checkpoint_that_it_names(
    recognizer: Recognizer, other: Recognizer
) -> None:
    async with serving(recognizer) as server:
        async with talking(server, sample_rate=16_000, lossless=True, model="other") as talker:
            await talker.send(pcm(two_utterances()))
            messages = await talker.end()
        assert messages[0]["threshold"] == 0.9
        assert plain(messages) == truth(other, pcm(two_utterances()))
        assert all(final["uncertain"] for final in finals(messages))
        client = streamser.AsyncClient(server.url)
        both = await asyncio.gather(
            client.label(wav(two_utterances()), model="other"), client.label(wav(two_utterances()))
        )
        assert [final.uncertain for final in both[0].finals] == [True, True]
        assert [final.utterance for final in both[0].finals] == [final.utterance for final in both[1].finals]


async def test_a_client_can_only_name_an_installed_and_undamaged_checkpoint(
    recognizer: Recognizer, other: Recognizer
) -> None:
    async with serving(recognizer) as server:
        client = streamser.AsyncClient(server.url)
        for name in (str(other.bundle.path), "../other", "absent", "broken"):
            with pytest.raises(ServerError) as refused:
                await client.label(wav(two_utterances()), model=name)
            assert (refused.value.code, refused.value.status) in (("no_model", 404), ("bad_name", 400))
            assert str(other.bundle.path.parent) not in str(refused.value).replace(name[:60], "")
            with pytest.raises(ServerError):
                async with client.stream(model=name):
                    pass
        listed = (await client.models())["models"]
        assert [("error" in model, model["name"]) for model in listed] == [(False, "other"), (True, "broken")]


async def test_step_graphs_are_opened_before_the_first_stream_and_outside_the_event_loop(
    recognizer: Recognizer, other: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Recognizer, bool]] = []

    def steps(of: Recognizer) -> None:
        opened.append((of, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(Recognizer, "steps", property(steps))
    both = Checkpoints(recognizer, PipelineConfig(), lambda _: other)
    assert opened == [(recognizer, True)], "the server has no clients yet"
    await both.worker("other")
    assert opened[1:] == [(other, False)]
    await both.close(1.0)


async def test_the_number_of_loaded_checkpoints_is_limited(
    recognizer: Recognizer, other: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "find_models", lambda: {str(i): other.bundle.path for i in range(9)})
    opened: list[str] = []

    def open_model(path: str) -> Recognizer:
        opened.append(path)
        return other

    all_of_them = Checkpoints(recognizer, PipelineConfig(), open_model)
    for name in (*map(str, range(MOST_OTHERS)), "0", recognizer.bundle.name):
        await all_of_them.worker(name)
    with pytest.raises(Refusal, match="in use already"):
        await all_of_them.worker(str(MOST_OTHERS))
    assert len(opened) == MOST_OTHERS
    await all_of_them.close(1.0)
