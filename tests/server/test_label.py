from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import numpy as np
import pytest
from makers import babble, silence, tone
from talking import VALIDATOR, finals, pcm, plain, serving, truth, two_utterances, wav

from streamser.audio import resample
from streamser.recognizer import Recognizer
from streamser.server.app import Server


async def post(server: Server, body: Any, query: str = "", **options: Any) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.url + "v1/label" + query, data=body, **options) as response,
    ):
        return response.status, await response.json()


async def test_a_file_gets_the_same_events_as_without_a_server(server: Server, recognizer: Recognizer) -> None:
    audio = two_utterances()
    status, response = await post(server, wav(audio), "?partials=true&stream=talk.wav")
    assert status == 200
    assert plain(response["events"]) == truth(recognizer, pcm(audio))
    for event in response["events"]:
        VALIDATOR.validate(event)
        assert event["stream"] == "talk.wav"


async def test_without_partials_the_other_events_are_the_same_and_the_segments_are_the_finals(server: Server) -> None:
    _, whole = await post(server, wav(two_utterances()), "?partials=true")
    _, short = await post(server, wav(two_utterances()))
    assert plain(short["events"]) == plain([e for e in whole["events"] if e["type"] != "emotion" or e["final"]])
    assert len(short["segments"]) == 2
    for segment, final in zip(short["segments"], finals(short["events"]), strict=True):
        assert segment.items() <= final.items()
    assert short["labels"] == list(short["segments"][0]["scores"])


async def test_a_file_in_a_form_gets_the_same_result_as_a_plain_body(server: Server) -> None:
    _, plainly = await post(server, wav(two_utterances()))
    form = aiohttp.FormData()
    form.add_field("note", "not a file")
    form.add_field("file", wav(two_utterances()), filename="talk.wav", content_type="audio/wav")
    status, response = await post(server, form)
    assert (status, response["segments"]) == (200, plainly["segments"])


@pytest.mark.parametrize("file_format", ["FLAC", "OGG", "WAV"])
@pytest.mark.parametrize("rate", [8000, 44100])
async def test_files_of_other_formats_and_rates_are_labelled(server: Server, file_format: str, rate: int) -> None:
    audio = resample(two_utterances(), 16000, rate)
    stereo = np.stack([audio, audio], axis=1)
    status, response = await post(server, wav(stereo, rate, file_format))
    assert (status, len(response["segments"])) == (200, 2)


async def test_a_file_of_silence_has_no_utterances(server: Server) -> None:
    status, response = await post(server, wav(silence(1.0)))
    assert (status, response["segments"]) == (200, [])
    assert [event["type"] for event in response["events"]] == ["stream_ended"]


@pytest.mark.parametrize(
    ("body", "query", "status", "code"),
    [
        (b"", "", 400, "empty"),
        (b"certainly not a readable audio file", "", 415, "not_sound"),
        (wav(tone())[:20], "", 415, "not_sound"),
        (wav(tone(), 2000), "", 415, "sample_rate"),
        (wav(tone()), "?partials=perhaps", 400, "bad_query"),
        (wav(tone()), "?partial=true", 400, "bad_query"),
        (wav(tone()), "?stream=%0A", 400, "bad_name"),
        (wav(tone()), "?stream=" + "x" * 65, 400, "bad_name"),
    ],
)
async def test_an_invalid_upload_is_refused_with_a_reason(
    server: Server, body: bytes, query: str, status: int, code: str
) -> None:
    got, response = await post(server, body, query)
    assert (got, response["error"]["code"]) == (status, code)
    assert len(response["error"]["message"]) > 20
    assert "object at" not in response["error"]["message"] and "<" not in response["error"]["message"]


async def test_a_misspelled_query_parameter_is_refused_with_the_nearest_name(server: Server) -> None:
    _, response = await post(server, wav(tone()), "?partial=true")
    assert response["error"]["message"] == "unknown query parameter 'partial'; did you mean 'partials'?"
    _, response = await post(server, wav(tone()), "?xyz=1")
    assert response["error"]["message"] == "unknown query parameter 'xyz'; known: stream, partials, model"


async def test_a_truncated_file_is_scored_with_a_warning(server: Server) -> None:
    whole = wav(two_utterances())
    status, response = await post(server, whole)
    assert (status, response["warnings"]) == (200, [])
    status, response = await post(server, whole[: len(whole) // 2])
    assert status == 200
    (warning,) = response["warnings"]
    assert warning.startswith("the file is truncated: it has ")


async def test_a_form_without_a_file_is_refused(server: Server) -> None:
    with aiohttp.MultipartWriter("form-data") as form:
        part = form.append("no file")
        part.set_content_disposition("form-data", name="note")
    status, response = await post(server, form)
    assert (status, response["error"]["code"]) == (400, "empty")
    status, response = await post(server, b"rubbish", headers={"Content-Type": "multipart/form-data"})
    assert (status, response["error"]["code"]) == (400, "bad_form")


async def test_a_file_with_nan_is_refused_and_the_next_file_is_scored(server: Server) -> None:
    import io

    import soundfile

    audio = two_utterances()
    audio[20_000] = np.nan
    file = io.BytesIO()
    soundfile.write(file, audio, 16000, format="WAV", subtype="FLOAT")
    status, response = await post(server, file.getvalue())
    assert (status, response["error"]["code"]) == (422, "damaged")
    assert (await post(server, wav(two_utterances())))[0] == 200


async def test_a_body_over_the_limit_is_refused_with_or_without_a_content_length(recognizer: Recognizer) -> None:
    async def crumbs() -> Any:
        for _ in range(64):
            yield b"\0" * 4096

    async with serving(recognizer, max_body_mb=0.1) as server:
        for body in (b"\0" * 200_000, crumbs()):
            status, response = await post(server, body)
            assert (status, response["error"]["code"]) == (413, "too_large")
            assert "100000" in response["error"]["message"]
        assert (await post(server, wav(babble(1.0))))[0] == 200


async def test_a_small_compressed_file_with_too_much_audio_is_refused(recognizer: Recognizer) -> None:
    async with serving(recognizer, max_audio_s=20) as server:
        bomb = wav(silence(600.0), file_format="FLAC")
        assert len(bomb) < 30_000
        status, response = await post(server, bomb)
        assert (status, response["error"]["code"]) == (413, "too_long")


@pytest.mark.parametrize("samples_in_header", [0, 2**36 - 1])
async def test_a_file_header_with_a_wrong_length_does_not_bypass_the_limits(
    recognizer: Recognizer, samples_in_header: int
) -> None:
    def flac(duration_s: float) -> bytes:
        file = bytearray(wav(np.concatenate([two_utterances(), silence(duration_s - 4.8)]), file_format="FLAC"))
        low = int.from_bytes(file[18:26], "big") >> 36 << 36  # STREAMINFO: the last 36 bits are the length
        file[18:26] = (low | samples_in_header).to_bytes(8, "big")
        return bytes(file)

    async with serving(recognizer, max_audio_s=20) as server:
        status, response = await post(server, flac(60.0))
        assert (status, response["error"]["code"]) == (413, "too_long")
        status, response = await post(server, flac(6.0))
        assert (status, len(response["segments"])) == (200, 2)


async def test_an_upload_that_stops_arriving_is_ended_with_408(recognizer: Recognizer) -> None:
    async def halting() -> Any:
        yield b"RIFF"
        await asyncio.Event().wait()

    async with serving(recognizer, idle_timeout_s=0.2) as server:
        status, response = await post(server, halting())
        assert (status, response["error"]["code"]) == (408, "idle")


async def test_ten_files_at_once_all_get_their_results(server: Server) -> None:
    responses = await asyncio.gather(*(post(server, wav(two_utterances(seed)), "?stream=same") for seed in range(10)))
    assert {status for status, _ in responses} == {200}
    assert len({response["stream"] for _, response in responses}) >= 1
    alone = [await post(server, wav(two_utterances(seed))) for seed in range(10)]
    assert [response["segments"] for _, response in responses] == [response["segments"] for _, response in alone]
