"""Real-time speech emotion recognition: local, streaming, and `uncertain` when the confidence is too low.

    import streamser

    recognizer = streamser.load()
    print(recognizer.predict(streamser.read_audio("hello.wav")))

    with streamser.listen() as events:
        for event in events:
            print(event)

Each name below is imported from its module on first use, so that `import streamser` takes a millisecond.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamser.audio import SAMPLE_RATE, read_audio
    from streamser.baseline import Baseline
    from streamser.bundle import Bundle, find_models, load_bundle
    from streamser.client import AsyncClient, Client
    from streamser.config import Config, load_config
    from streamser.enrolment import enrol
    from streamser.errors import (
        AudioError,
        BundleError,
        ConfigError,
        CorpusError,
        DeviceError,
        EngineError,
        MissingExtraError,
        ProtocolError,
        ServerError,
        StreamserError,
    )
    from streamser.events import EmotionEvent, Event, Gap, SourceChanged, SpeechEnded, SpeechStarted, StreamEnded
    from streamser.profile import Profile
    from streamser.recognizer import Prediction, Recognizer, RecognizerConfig, load
    from streamser.stream.channel import Stream
    from streamser.stream.pipeline import Listener, listen, replay
    from streamser.stream.sources import MicSource, PushSource, WavSource

__all__ = [
    "SAMPLE_RATE",
    "AsyncClient",
    "AudioError",
    "Baseline",
    "Bundle",
    "BundleError",
    "Client",
    "Config",
    "ConfigError",
    "CorpusError",
    "DeviceError",
    "EmotionEvent",
    "EngineError",
    "Event",
    "Gap",
    "Listener",
    "MicSource",
    "MissingExtraError",
    "Prediction",
    "Profile",
    "ProtocolError",
    "PushSource",
    "Recognizer",
    "RecognizerConfig",
    "ServerError",
    "SourceChanged",
    "SpeechEnded",
    "SpeechStarted",
    "Stream",
    "StreamEnded",
    "StreamserError",
    "WavSource",
    "enrol",
    "find_models",
    "listen",
    "load",
    "load_bundle",
    "load_config",
    "read_audio",
    "replay",
]

_MODULES = {
    "audio": ("SAMPLE_RATE", "read_audio"),
    "baseline": ("Baseline",),
    "bundle": ("Bundle", "find_models", "load_bundle"),
    "client": ("AsyncClient", "Client"),
    "config": ("Config", "load_config"),
    "enrolment": ("enrol",),
    "errors": (
        "AudioError",
        "BundleError",
        "ConfigError",
        "CorpusError",
        "DeviceError",
        "EngineError",
        "MissingExtraError",
        "ProtocolError",
        "ServerError",
        "StreamserError",
    ),
    "events": ("EmotionEvent", "Event", "Gap", "SourceChanged", "SpeechEnded", "SpeechStarted", "StreamEnded"),
    "profile": ("Profile",),
    "recognizer": ("Prediction", "Recognizer", "RecognizerConfig", "load"),
    "stream.channel": ("Stream",),
    "stream.pipeline": ("Listener", "listen", "replay"),
    "stream.sources": ("MicSource", "PushSource", "WavSource"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'streamser' has no attribute {name!r}")
    value = getattr(import_module(f"streamser.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # the next look-up does not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
