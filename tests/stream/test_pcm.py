"""Anything that a program pushes gives audio or a ValueError, and an invalid sample does not end a stream."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
from makers import silence
from stream_parts import finals, two_utterances

from streamser.recognizer import Recognizer
from streamser.stream.channel import Stream
from streamser.stream.pcm import PcmConverter
from streamser.stream.pipeline import Listener
from streamser.stream.sources import PushSource, SourceConfig

NO_RATES = [math.nan, math.inf, 1e308, 5e-324, 0, -1, 999, 16_000.5, "16000", True]


@pytest.mark.parametrize("rate", NO_RATES, ids=str)
def test_an_invalid_sample_rate_is_refused_without_an_effect_on_the_stream(recognizer: Recognizer, rate: Any) -> None:
    stream, plain = Stream(recognizer), Stream(recognizer)
    audio = two_utterances()
    events, expected = stream.push(audio[:30_000]), plain.push(audio[:30_000])
    with pytest.raises(ValueError, match="sample_rate: a whole number"):
        stream.push(audio, sample_rate=rate)
    events += [*stream.push(audio[30_000:]), *stream.close()]
    assert events == [*expected, *plain.push(audio[30_000:]), *plain.close()]
    with pytest.raises(ValueError, match="sample_rate: a whole number"):
        PushSource(sample_rate=rate)


@pytest.mark.parametrize("channels", [0, -1, 1025, 2.0, math.nan, "1"], ids=str)
def test_an_invalid_number_of_channels_is_refused(recognizer: Recognizer, channels: Any) -> None:
    with pytest.raises(ValueError, match="channels: a whole number from 1 to 1024"):
        Stream(recognizer).push(silence(0.1), channels=channels)


@pytest.mark.parametrize("pcm", [10**12, "text", [0.0], None, np.float32(1)], ids=repr)
def test_pcm_that_is_neither_bytes_nor_an_array_is_refused(recognizer: Recognizer, pcm: Any) -> None:
    with pytest.raises(ValueError, match=r"pcm: bytes of 16-bit samples or a NumPy array, not"):
        Stream(recognizer).push(pcm)


@pytest.mark.parametrize("lost", [-1, 1.5, math.nan, True], ids=str)
def test_a_loss_must_be_a_number_of_samples(recognizer: Recognizer, lost: Any) -> None:
    with pytest.raises(ValueError, match="samples: a whole number, 0 or more"):
        Stream(recognizer).lose(lost)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30], ids=str)
def test_invalid_samples_become_silence_with_one_warning_and_the_stream_continues(
    recognizer: Recognizer, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    audio = two_utterances()
    hurt, mended = audio.copy(), audio.copy()
    hurt[20_000:20_003], mended[20_000:20_003] = value, 0.0
    stream, expected = Stream(recognizer), Stream(recognizer)
    with caplog.at_level(logging.WARNING):
        events = [*stream.push(hurt), *stream.close()]
    assert events == [*expected.push(mended), *expected.close()]
    assert len(finals(events)) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "pushed audio: 3 samples are NaN, infinite or beyond ±1e10; they are replaced by silence"
    ]


def test_an_invalid_sample_does_not_end_a_live_listener(recognizer: Recognizer) -> None:
    audio = two_utterances()
    audio[20_000] = np.nan
    source = PushSource(live=True, config=SourceConfig(queue_s=60))
    with Listener(source, recognizer) as events:
        source.push(audio[:25_000])
        source.push(audio[25_000:])
        source.close()
        assert len(finals(events)) == 2


@pytest.mark.parametrize("dtype", ["bool", "complex64", "U1", "O", "M8[s]", "m8[s]", "V4", "uint16", "uint32"])
def test_an_array_of_another_type_than_audio_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=r"audio must be int8\.\.int64, uint8 or float, not"):
        PcmConverter().feed(np.zeros(4, dtype))


@pytest.mark.parametrize("shape", [(), (2, 0), (0, 2), (1, 1, 1), (3, 2)])
def test_an_array_of_another_shape_is_refused_and_an_empty_array_gives_no_audio(shape: tuple[int, ...]) -> None:
    if shape == (0, 2):
        assert len(PcmConverter(channels=2).feed(np.zeros(shape, np.int16))) == 0
    else:
        with pytest.raises(ValueError, match=r"pcm: has|audio must have the shape"):
            PcmConverter().feed(np.zeros(shape, np.float32))


def test_doubles_beyond_the_range_of_float32_become_silence() -> None:
    assert PcmConverter().feed(np.array([1e300, -1e300, 0.5])).tolist() == [0.0, 0.0, 0.5]
