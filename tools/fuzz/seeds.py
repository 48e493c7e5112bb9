#!/usr/bin/env python3
"""Write the seeds of the fuzz targets: small valid inputs, and inputs that once caused a fault."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path
from typing import Any

import soundfile

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import targets  # noqa: E402  # needs the path added above
from makers import babble, make_bundle, make_onnx, make_weights  # noqa: E402

from streamser.config import shipped_config  # noqa: E402
from streamser.features import FeatureConfig  # noqa: E402

HEADER = "stream,utterance,start_s,end_s,label,uncertain,likeliest,confidence,p_angry,p_happy,p_sad"


def recordings() -> dict[str, bytes]:
    found = {}
    audio = babble(0.1)
    for kind, subtype, rate in (
        ("WAV", "PCM_16", 16_000), ("WAV", "PCM_U8", 8_000), ("WAV", "FLOAT", 8_000), ("WAV", "GSM610", 8_000),
        ("WAV", "ULAW", 8_000), ("WAV", "IMA_ADPCM", 8_000), ("WAV", "MS_ADPCM", 8_000), ("WAV", "NMS_ADPCM_32", 8_000),
        ("WAV", "G721_32", 8_000), ("FLAC", "PCM_16", 16_000), ("FLAC", "PCM_24", 48_000), ("OGG", "VORBIS", 16_000),
        ("OGG", "OPUS", 16_000), ("MP3", "MPEG_LAYER_III", 16_000), ("AU", "G723_24", 8_000), ("AIFF", "PCM_16", 8_000),
        ("CAF", "ALAC_16", 8_000), ("XI", "DPCM_16", 44_100), ("W64", "PCM_16", 8_000), ("RF64", "PCM_16", 8_000),
    ):  # fmt: skip
        file = io.BytesIO()
        soundfile.write(file, audio[:800], rate, format=kind, subtype=subtype)
        found[f"{kind}-{subtype}".lower()] = file.getvalue()
    flac = bytearray(found["flac-pcm_16"])
    flac[18:26] = (int.from_bytes(flac[18:26], "big") | (1 << 36) - 1).to_bytes(8, "big")
    return {**found, "flac-claims-terabytes": bytes(flac)}


def texts(*lines: str) -> dict[str, bytes]:
    return {str(number): line.encode("utf-8", "surrogateescape") for number, line in enumerate(lines)}


def bombs() -> dict[str, bytes]:
    aliases = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    return {
        "aliases": aliases.encode(),
        "deep": b"vad: " + b"[" * 3000,
        "digits": b"vad:\n  mode: " + b"9" * 400,
        "many-digits": b"vad:\n  mode: " + b"9" * 5000,
        "int": b"vad:\n  mode: !!int x\n",
        "date": b"vad:\n  mode: 2026-99-99\n",
        "python": b"vad: !!python/object/apply:os.system ['true']\n",
        "directive": b"%YAML 1." + b"1" * 5000 + b"\n--- {}\n",
        "merge": b"vad:\n  <<: {mode: 1}\n",
    }


def array(rate: int, flags: int, dtype: int, rows: int, values: bytes) -> bytes:
    return struct.pack("<I", rate)[:3] + bytes(5) + bytes([flags, 1, dtype, rows]) + values


def all_seeds() -> dict[str, dict[str, bytes]]:
    tiny = make_bundle(targets.folder() / "seed")
    features = FeatureConfig(length_s=1.0, stride_s=0.5)
    graph = make_onnx(make_weights(features, 4))
    small = make_onnx(make_weights(FeatureConfig(n_mels=8, length_s=1.0), 2))
    event: dict[str, Any] = {
        "v": 1, "type": "emotion", "stream": "main", "utterance": 0, "seq": 1, "start_s": 0.5, "end_s": 1.5,
        "final": True, "label": "sad", "scores": {"sad": 0.9, "happy": 0.1}, "confidence": 0.9, "uncertain": False,
        "latency_ms": 12.5,
    }  # fmt: skip
    pcm = (babble(0.2) * 32767).astype("<i2").tobytes()
    arrays = {f"{dtype}-{flags}": array(16_000, flags, dtype, 0, pcm[:512]) for dtype in range(17) for flags in (0, 40)}
    arrays |= {
        f"rate-{index}": struct.pack("<d", rate) + bytes([1, 1, 7, 0]) + pcm[:512]
        for index, rate in enumerate((float("nan"), float("inf"), 1e308, 5e-324, 16_000.0, 44_100.0))
    }
    hello = {"type": "hello", "sample_rate": 16000, "channels": 2, "stream": "kitchen", "partials": False}
    recipe = (HERE.parents[1] / "models" / "lightsernet" / "recipe.yaml").read_bytes()
    form = (
        b'multipart/form-data; boundary=x\n--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        b"RIFF\r\n--x--\r\n"
    )
    chunk = json.dumps({"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 4})
    row = '{"file": "a.wav", "duration_s": 1.0, "label": "sad", "scores": {}, "model": "tiny"}\n'
    return {
        "audio_file": recordings(),
        "config_yaml": {"shipped": shipped_config().read_bytes(), **bombs()},
        "config_override": texts(
            "vad.mode=3", "source.device=[1]", "vad.mode=!!int x", "server.token=a", "x", "vad.mode="),
        "recipe": {"shipped": recipe, **bombs()},
        "bundle_manifest": {"tiny": (tiny.path / "bundle.yaml").read_bytes(), **bombs()},
        "bundle_weights": {
            "tiny": tiny.read("weights.safetensors")[:2048],
            "terabyte": struct.pack("<Q", 58)
            + b'{"a":{"dtype":"F32","shape":[274877906944],"data_offsets":[0,4]}}0000',
            "header": struct.pack("<Q", 1 << 62) + b"{}",
        },
        "onnx_graph": {"tiny": graph[:3000], "small": small},
        "onnx_session": {"small": small},
        "profile": texts(
            json.dumps(
                {
                    "streamser_profile": 3, "name": "anna", "model": "tiny", "fingerprint": "0" * 64, "speech_s": 30.5,
                    "utterances": 8, "weight": 8.0, "total": [0.5, -1.25, 3.0],
                }
            ),
            '{"streamser_profile": 3, "total": [NaN, 1e999]}', '{"streamser_profile": 99}', "[" * 3000,
        ),
        "corpus_manifest": texts(
            "path,speaker,label\naudio/a.wav,1,sad\n", "path,speaker,emotion\n../a.wav,1,sad\n/etc/passwd,1,sad\n",
            "\ufeffpath,speaker,label,text_id\naudio/a.wav,1,\x00\n", "mood\n",
        ),
        "output_file": {
            "jsonl": b"\0" + json.dumps(event).encode() + b"\n",
            "csv": b"\1" + HEADER.encode() + b"\nmain,0,0.5000,1.5000,sad,false,sad,0.9,0.1,0.0,0.9\n",
            "vtt": b"\2WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nsad 90 %\n\n",
            "textgrid": b'\3File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \n',
            "labels": b"\x040.500000\t1.500000\tsad 90 %\n",
            "rttm": b"\5SPEAKER main 1 0.5000 1.0000 <NA> <NA> sad 0.9 <NA>\n",
        },
        "label_table": texts("~" + HEADER + "\n", "\x80" + row, "\x80" + row + '{"file": "\u2028'),
        "websocket": {
            "hello": json.dumps(hello).encode() + b'\0{"type": "gap", "samples": 5}\0' + pcm[:64].replace(b"\0", b"\1")
            + b'\0{"type": "end"}',
            "deep": b"[" * 5000,
        },
        "websocket_address": texts(
            "sample_rate=16000&partials=false&stream=a&token=b", "sample_rate=1e400&channels=[1]"),
        "http_form": {
            "file": form, "empty": b"multipart/form-data; boundary=\n", "parts": form[:32] + b"--x\r\n\r\n\r\n" * 70},
        "http_headers": texts(
            "localhost:8765\nhttp://localhost:8765\nBearer x\nx", "[\nhttp://[::1\nbearer\n", "\udcff\n\udcff\n"),
        "http_events": {
            "emotion": json.dumps(event).encode(),
            "gap": b'{"type": "gap", "start_s": 1.0, "end_s": 1.5, "reason": "client"}',
            "ended": b'{"type": "stream_ended", "end_s": 3.5, "error": null}',
        },
        "wyoming": {
            "chunk": chunk.encode() + b"\n" + pcm[:4] + b'{"type": "audio-stop", "data_length": 2}\n{}',
            "huge": b'{"type": "a", "payload_length": 99999999999}\n',
            "nul": b'{"type": "describe"}\n\0',
        },
        "pushed_array": arrays,
        "pushed_stream": dict(list(arrays.items())[::5]),
    }  # fmt: skip


if __name__ == "__main__":
    for name, seeds in all_seeds().items():
        place = HERE / "seeds" / name
        place.mkdir(parents=True, exist_ok=True)
        for title, content in seeds.items():
            (place / title).write_bytes(content)
