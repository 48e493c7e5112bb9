from __future__ import annotations

import json

import pytest

from streamser.server.protocol import (
    CLOSE_TOO_BIG,
    Hello,
    Lost,
    Refusal,
    check_pcm,
    parse_hello,
    parse_word,
)


def hello(**words: object) -> str:
    return json.dumps({"type": "hello", "sample_rate": 16000, **words})


def test_a_hello_describes_the_audio_and_has_defaults() -> None:
    assert parse_hello(hello()) == Hello(sample_rate=16000, channels=1, partials=True, lossless=False, status_ms=1000)
    parsed = parse_hello(hello(channels=2, stream="kitchen", partials=False, lossless=True, status_ms=0, v=1))
    assert (parsed.channels, parsed.stream, parsed.partials, parsed.lossless, parsed.status_ms) == (
        2,
        "kitchen",
        False,
        True,
        0,
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": -16000}, "sample_rate"),
        ({"sample_rate": 3999}, "sample_rate"),
        ({"sample_rate": 10**9}, "sample_rate"),
        ({"sample_rate": 16000.5}, "sample_rate"),
        ({"sample_rate": "16000"}, "sample_rate"),
        ({"sample_rate": True}, "sample_rate"),
        ({"sample_rate": None}, "sample_rate"),
        ({"channels": 0}, "channels"),
        ({"channels": 33}, "channels"),
        ({"channels": "2"}, "channels"),
        ({"format": "f32le"}, "format"),
        ({"format": 7}, "format"),
        ({"stream": ""}, "bad_name"),
        ({"stream": "   "}, "bad_name"),
        ({"stream": "x" * 65}, "bad_name"),
        ({"stream": "two\nlines"}, "bad_name"),
        ({"stream": 5}, "bad_name"),
        ({"partials": 1}, "bad_hello"),
        ({"lossless": "yes"}, "bad_hello"),
        ({"status_ms": 1}, "bad_hello"),
        ({"status_ms": -1}, "bad_hello"),
        ({"token": 5}, "bad_hello"),
        ({"samplerate": 16000}, "bad_hello"),
        ({"v": 2}, "bad_version"),
        ({"type": "start"}, "no_hello"),
    ],
)
def test_an_invalid_hello_is_refused_with_a_code_for_its_fault(words: dict[str, object], code: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_hello(hello(**words))
    assert caught.value.code == code
    assert 10 < len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", "hello", "[]", "17", '"hello"', "null", "[" * 4000, '{"type": "hello"', "NaN"])
def test_a_first_message_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_hello(text)
    assert caught.value.code == "bad_json"


def test_a_hello_of_a_megabyte_is_refused_as_too_big() -> None:
    with pytest.raises(Refusal) as caught:
        parse_hello(hello(stream="x" * 1_000_000))
    assert caught.value.close_code == CLOSE_TOO_BIG


def test_a_hello_needs_the_sample_rate_unless_no_audio_follows() -> None:
    with pytest.raises(Refusal, match="sample_rate"):
        parse_hello('{"type": "hello"}')
    assert parse_hello('{"type": "hello", "token": "abc"}', audio=False) == Hello(token="abc")


def test_later_commands_are_end_new_speaker_and_gap() -> None:
    assert parse_word('{"type": "end"}', 100) == "end"
    assert parse_word('{"type": "new_speaker"}', 100) == "new_speaker"
    assert parse_word('{"type": "gap", "samples": 100}', 100) == Lost(100)
    for bad in ('{"type": "gap"}', '{"type": "gap", "samples": 0}', '{"type": "gap", "samples": 101}', '{"type": "x"}'):
        with pytest.raises(Refusal):
            parse_word(bad, 100)


def test_a_message_of_audio_must_have_whole_frames_within_the_limit() -> None:
    stereo = Hello(channels=2)
    check_pcm(b"\0" * 8, stereo, 8)
    check_pcm(b"", stereo, 8)
    for data, code in ((b"\0" * 6, "odd_bytes"), (b"\0" * 7, "odd_bytes"), (b"\0" * 12, "too_big")):
        with pytest.raises(Refusal) as caught:
            check_pcm(data, stereo, 8)
        assert caught.value.code == code
