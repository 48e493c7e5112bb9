"""The fuzz targets: one function for each kind of input, which takes any bytes and allows only the documented errors.

`fuzz.py` calls them with inputs chosen by coverage. `tests/test_fuzz_targets.py` calls them in CI, with the seeds, the
regressions and inputs from hypothesis. A target returns after a correct result or a documented error; any other error
is a fault.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from makers import make_bundle

from streamser import bundle as bundles
from streamser import manifest
from streamser.audio import mono_pieces, open_audio
from streamser.bundle import Bundle, load_bundle
from streamser.cli.labeltable import open_table
from streamser.config import load_config
from streamser.corpora.reader import read_corpus
from streamser.engines.onnx import OnnxEngine
from streamser.errors import AudioError, BundleError, ConfigError, CorpusError, ProtocolError
from streamser.events import StreamEnded, event_from_dict
from streamser.integrations.wyomingmessages import BadMessageError, checked_chunk, read_message
from streamser.onnxgraph import check_graph
from streamser.outputs import open_writer
from streamser.profile import Profile
from streamser.profile import _seal as seal_of_profile
from streamser.recognizer import Recognizer, load
from streamser.server.forms import FormError, file_of_form
from streamser.server.options import ServerConfig
from streamser.server.protocol import Lost, Refusal, check_pcm, hello_of_query, parse_hello, parse_word
from streamser.server.security import refuse_host, refuse_origin, shown_token, token_matches
from streamser.settings import parse_value
from streamser.stream.channel import Stream
from streamser.stream.pcm import PcmConverter
from streamser.training.recipe import load_recipe

Target = Callable[[bytes], object]

TARGETS: dict[str, Target] = {}

_MOST_SAMPLES = 1 << 20  # a small file may hold hours of audio, so only its beginning is read
_DTYPES = ("i1", "u1", "<i2", ">i2", "i4", "i8", "f2", "<f4", ">f4", "f8", "g", "?", "u2", "c8", "M8[s]", "m8[s]", "S2")
_LABELS = ("angry", "happy", "sad")


def target(function: Target) -> Target:
    TARGETS[function.__name__] = function
    return function


@functools.cache
def folder() -> Path:
    """A folder for files, in memory if the system has /dev/shm."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="streamser-fuzz-", dir=memory if memory.is_dir() else None))


@functools.cache
def tiny() -> Bundle:
    return make_bundle(folder() / "tiny")


@functools.cache
def recognizer() -> Recognizer:
    return load(tiny().path, "cpu")


def written(name: str, data: bytes) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


# ---- files


@target
def audio_file(data: bytes) -> None:
    with suppress(AudioError), open_audio(io.BytesIO(data), "fuzz") as audio:
        length = 0
        for piece in mono_pieces(audio, "fuzz"):
            assert piece.dtype == np.float32 and piece.ndim == 1 and np.isfinite(piece).all()
            length += len(piece)
            if length > _MOST_SAMPLES:
                break


@target
def config_yaml(data: bytes) -> None:
    with suppress(ConfigError):
        load_config(written("config.yaml", data))


@target
def config_override(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with suppress(ConfigError):
        load_config(overrides=[text])
    with suppress(ConfigError):
        parse_value(text, "--set")


@target
def recipe(data: bytes) -> None:
    with suppress(ConfigError):
        load_recipe(written("recipe.yaml", data))


@target
def bundle_manifest(data: bytes) -> None:
    """Load the bytes unchanged, then with a new seal, so that the code after the check of the seal runs too."""
    place = folder() / "manifest"
    place.mkdir(exist_ok=True)
    (place / manifest.MANIFEST).write_bytes(data)
    with suppress(BundleError):
        load_bundle(place, verify=False)
    with suppress(BundleError, yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError):
        manifest._check_events(place, data.decode())
        values = yaml.safe_load(data)
        values.pop("seal", None)
        values["seal"] = manifest.seal_of(values)
        resealed = json.dumps(values).encode()
    with suppress(BundleError, UnboundLocalError):
        (place / manifest.MANIFEST).write_bytes(resealed)
        load_bundle(place, verify=False)


@target
def bundle_weights(data: bytes) -> None:
    path = folder() / "weights"
    path.mkdir(exist_ok=True)
    (path / bundles.WEIGHTS).write_bytes(data)
    files = {**tiny().files, bundles.WEIGHTS: hashlib.sha256(data).hexdigest()}
    with suppress(BundleError):
        dataclasses.replace(tiny(), path=path, files=files).weights()


@target
def onnx_graph(data: bytes) -> None:
    with suppress(ValueError):
        check_graph(data)


@target
def onnx_session(data: bytes) -> None:
    """Open the bytes as an engine: check the graph, then load it in ONNX Runtime."""
    path = folder() / "graph"
    path.mkdir(exist_ok=True)
    (path / bundles.GRAPH).write_bytes(data)
    files = {**tiny().files, bundles.GRAPH: hashlib.sha256(data).hexdigest()}
    with suppress(BundleError):
        OnnxEngine(dataclasses.replace(tiny(), path=path, files=files))


@target
def profile(data: bytes) -> None:
    """Load the bytes unchanged, then with a new seal."""
    with suppress(ConfigError):
        Profile.load(written("profile.json", data))
    with suppress(ConfigError, ValueError, RecursionError, TypeError, AttributeError):
        values = json.loads(data)
        values.pop("seal", None)
        values["seal"] = seal_of_profile(values)
        found = Profile.load(written("profile.json", json.dumps(values).encode()))
        assert np.isfinite(found.total).all() and 0 < found.weight <= found.utterances


@target
def corpus_manifest(data: bytes) -> None:
    place = folder() / "corpus"
    (place / "audio").mkdir(parents=True, exist_ok=True)
    (place / "audio" / "a.wav").touch()
    (place / "manifest.csv").write_bytes(data)
    with suppress(CorpusError, ProtocolError):
        clips, report = read_corpus(place)
        assert all(place in clip.path.parents and ".." not in clip.path.parts for clip in clips)
        report.text()


@target
def output_file(data: bytes) -> None:
    """Continue an output file of any content, or refuse the file and leave it unchanged."""
    suffixes = (".jsonl", ".csv", ".vtt", ".TextGrid", ".txt", ".rttm")
    path = written("out" + suffixes[data[0] % len(suffixes)] if data else "out.csv", data[1:])
    try:
        with open_writer(path, labels=_LABELS) as writer:
            writer.write(StreamEnded(end=16_000))
    except ConfigError:
        assert path.read_bytes() == data[1:]


@target
def label_table(data: bytes) -> None:
    path = written("labels.csv" if data[:1] < b"\x80" else "labels.jsonl", data[1:])
    with suppress(ConfigError):
        open_table(path, _LABELS, "tiny", utterances=False, overwrite=False).close()


# ---- the network


@target
def websocket(data: bytes) -> None:
    """Parse a hello, then each further part (separated by zero bytes) as a command and as audio."""
    first, *rest = data.split(b"\0")
    with suppress(Refusal):
        hello = parse_hello(first.decode("utf-8", "replace"))
        for part in rest:
            with suppress(Refusal):
                word = parse_word(part.decode("utf-8", "replace"), 1 << 30)
                assert word in ("end", "new_speaker") or (isinstance(word, Lost) and word.samples > 0)
            with suppress(Refusal):
                check_pcm(part, hello, 1 << 16)
                PcmConverter(hello.sample_rate, hello.channels).feed(part)


@target
def websocket_address(data: bytes) -> None:
    words = [part.partition("=")[::2] for part in data.decode("utf-8", "surrogateescape").split("&")]
    text = hello_of_query(dict(words))
    if text is not None:
        with suppress(Refusal):
            parse_hello(text)


@target
def http_form(data: bytes) -> None:
    content_type, _, body = data.partition(b"\n")
    with suppress(FormError):
        found = file_of_form(body, content_type.decode("latin-1"))
        assert found is None or found in body


@target
def http_headers(data: bytes) -> None:
    host, origin, authorization, token = (*data.decode("utf-8", "surrogateescape").split("\n", 3), "", "", "", "")[:4]
    for config in (ServerConfig(), ServerConfig(token="x" * 32)):
        refuse_host(host, config)
        refuse_origin(origin, host, config)
        shown = shown_token({"Authorization": authorization}, {"token": token})
        assert token_matches(shown, config) == (config.token is None or shown == config.token)


@target
def http_events(data: bytes) -> None:
    """Parse a line of /v1/export; an event that is written and parsed again must be equal."""
    with suppress(ValueError, RecursionError):
        values = json.loads(data)
        if isinstance(values, dict):
            event = event_from_dict(values)
            assert event_from_dict(json.loads(json.dumps(event.to_dict()))).to_dict() == event.to_dict()


@target
def wyoming(data: bytes) -> None:
    async def converse() -> None:
        reader = asyncio.StreamReader(limit=1 << 16)
        reader.feed_data(data)
        reader.feed_eof()
        while (event := await read_message(reader)) is not None:
            with suppress(ValueError):
                chunk = checked_chunk(event)
                PcmConverter(chunk.rate, chunk.channels).feed(chunk.audio)

    with suppress(BadMessageError, asyncio.IncompleteReadError):
        _loop().run_until_complete(converse())


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


# ---- the Python API


def array_from(data: bytes) -> tuple[np.ndarray[Any, Any] | bytes, float, int]:
    """Make PCM of any type, shape and stride, a sample rate and a number of channels from bytes."""
    head, body = (data[:12] + bytes(12))[:12], data[12:]
    rate = float(np.frombuffer(head[:8], "<f8")[0]) if head[8] & 1 else int.from_bytes(head[:3], "little")
    channels = head[9] if head[8] & 2 else 1 + head[9] % 4
    if head[8] & 4:
        return body, rate, channels
    dtype = np.dtype(_DTYPES[head[10] % len(_DTYPES)])
    values = np.frombuffer(body[: len(body) - len(body) % dtype.itemsize], dtype)
    rows = head[11] % 5
    if rows and len(values) >= rows:
        values = values[: len(values) - len(values) % rows].reshape(-1, rows)
        values = values.T if head[8] & 8 else values
    values = values[:: -1 if head[8] & 16 else 1 + (head[8] >> 6)]
    return (values[None] if head[8] & 32 else values), rate, channels


@target
def pushed_array(data: bytes) -> None:
    pcm, rate, channels = array_from(data)
    with suppress(ValueError), np.errstate(all="ignore"):
        converter = PcmConverter(rate, channels)  # type: ignore[arg-type]
        for samples in (converter.feed(pcm), converter.flush()):
            assert samples.dtype == np.float32 and samples.ndim == 1 and np.isfinite(samples).all()


@target
def pushed_stream(data: bytes) -> None:
    """Push the PCM of `array_from` into a stream in two pieces, then valid audio."""
    pcm, rate, channels = array_from(data)
    stream = Stream(recognizer())
    with np.errstate(all="ignore"):
        for piece in itertools.chain([pcm[: len(pcm) // 2], pcm[len(pcm) // 2 :]] if np.ndim(pcm) else [pcm]):
            with suppress(ValueError, AudioError):
                stream.push(piece, rate, channels)  # type: ignore[arg-type]
        with suppress(AudioError):
            stream.push(np.zeros(1600, np.float32))
        with suppress(AudioError):
            assert isinstance(stream.close()[-1], StreamEnded)
