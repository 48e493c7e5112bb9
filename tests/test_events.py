"""The JSON of events follows event_schema.json, and their times are sample indexes."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest

from streamser.events import (
    EVENT_VERSION,
    EmotionEvent,
    Event,
    Gap,
    SourceChanged,
    SpeechEnded,
    SpeechStarted,
    StreamEnded,
)

SCORES = {"angry": 0.70004, "sad": 0.29996}
EMOTION = EmotionEvent(
    utterance=2, seq=3, start=16_001, end=32_000, final=True, label="angry", scores=SCORES, confidence=0.70004,
    uncertain=False, latency_ms=12.3456,
)  # fmt: skip
EVENTS: list[Event] = [
    SpeechStarted(utterance=0, start=0),
    EMOTION,
    SpeechEnded(utterance=2, start=16_001, end=32_000),
    Gap(start=8_000, length=160),
    SourceChanged(state="lost", at=5, detail="USB microphone"),
    StreamEnded(end=32_000),
    StreamEnded(end=0, error="the microphone is gone"),
]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return dict(json.loads(resources.files("streamser").joinpath("event_schema.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_the_json_of_every_event_follows_the_schema(event: Event, validator: jsonschema.Draft202012Validator) -> None:
    read_back = json.loads(json.dumps(event.to_dict(), allow_nan=False))
    validator.validate(read_back)
    assert (read_back["v"], read_back["type"], read_back["stream"]) == (EVENT_VERSION, event.type, "main")


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_an_additional_or_missing_key_violates_the_schema(
    event: Event, validator: jsonschema.Draft202012Validator
) -> None:
    whole = event.to_dict()
    assert not validator.is_valid({**whole, "mood": "good"})
    for key in whole:
        assert not validator.is_valid({k: v for k, v in whole.items() if k != key}), key


def test_the_schema_has_one_branch_for_each_event_class_and_no_other(schema: dict[str, Any]) -> None:
    branches = [entry["$ref"].removeprefix("#/$defs/") for entry in schema["oneOf"]]
    assert len(branches) == len(set(branches))
    assert set(branches) == {cls.type for cls in get_args(Event)}
    for name in branches:
        assert schema["$defs"][name]["properties"]["type"] == {"const": name}


@pytest.mark.parametrize(("event", "field"), [(SpeechEnded, "reason"), (Gap, "reason"), (SourceChanged, "state")])
def test_the_schema_allows_exactly_the_reasons_that_the_types_allow(
    event: type[Event], field: str, schema: dict[str, Any]
) -> None:
    allowed = get_args(get_type_hints(event)[field])
    assert schema["$defs"][event.type]["properties"][field]["enum"] == list(allowed)


def test_the_schema_forbids_uncertain_as_a_label(validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid({**EMOTION.to_dict(), "label": "uncertain"})


def test_times_in_seconds_distinguish_any_two_samples() -> None:
    hour = 16_000 * 3_600
    times = [SpeechStarted(utterance=0, start=hour + i).to_dict()["start_s"] for i in range(16)]
    assert [round(time * 16_000) for time in times] == list(range(hour, hour + 16))
    gap = Gap(start=8_000, length=160).to_dict()
    assert (gap["start_s"], gap["end_s"], gap["lost_ms"]) == (0.5, 0.51, 10.0)


def test_scores_are_rounded_to_four_digits_and_still_sum_to_one() -> None:
    values = EMOTION.to_dict()
    assert values["scores"] == {"angry": 0.7, "sad": 0.3}
    assert values["confidence"] == 0.7
    assert values["latency_ms"] == 12.35


def test_the_latency_does_not_count_when_events_are_compared() -> None:
    assert replace(EMOTION, latency_ms=99.0) == EMOTION
    assert replace(EMOTION, end=32_001) != EMOTION


def test_events_are_frozen_and_have_slots() -> None:
    with pytest.raises(AttributeError):
        EMOTION.label = "happy"  # type: ignore[misc]
    assert not hasattr(EMOTION, "__dict__")
