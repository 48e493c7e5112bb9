"""Measure the cost of a live stream: one process, one checkpoint on one engine, the whole pipeline."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, to_mono
from streamser.engines import WindowScores, run_frames
from streamser.engines.devicesteps import DeviceSteps
from streamser.engines.steps import ChunkSteps
from streamser.events import EmotionEvent, Event, SpeechStarted
from streamser.features import extract
from streamser.recognizer import Recognizer, load
from streamser.stream.pcm import PcmConverter
from streamser.stream.pipeline import Listener, PipelineConfig, Stream, StreamConfig
from streamser.stream.sourcebase import SourceItem
from streamser.stream.status import SourceState

__all__ = ["measure_stream"]

_BLOCK_BYTES = 640  # 20 ms of 16-bit samples, as a microphone or a client delivers them
_COMPARED = 24  # results that are computed once more from their whole window


def measure_stream(model: str, engine: str, compute: str, threads: int, audio: Path) -> dict[str, Any]:
    """Figures of one stream over a file of 16-bit samples; prints "ready" at the first score (cold start)."""
    recognizer = load(model, compute, engine=engine, threads=threads)
    _first_score(recognizer, audio)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    cold_start_cpu_s = time.process_time()
    seconds = audio.stat().st_size / 2 / SAMPLE_RATE
    began = time.process_time()
    windows = _live(recognizer, audio)
    cpu_s = time.process_time() - began
    peak_mb = _peak_mb()
    plain = StreamConfig(pipeline=PipelineConfig(smoothing=0.0, adapt=False))
    return {
        "cpu_ms_per_s": 1000 * cpu_s / seconds,
        "streams_per_core": seconds / cpu_s,
        "peak_mb": peak_mb,
        "cold_start_cpu_s": cold_start_cpu_s,
        "windows": windows,
        **_latencies(recognizer, audio, plain),
    }


def _first_score(recognizer: Recognizer, audio: Path) -> None:
    """Push audio until the first result."""
    stream = Stream(recognizer)
    for block in _blocks(audio):
        if any(isinstance(event, EmotionEvent) for event in stream.push(block)):
            return


def _blocks(audio: Path) -> Iterator[bytes]:
    with audio.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


class _Blocks:
    """The file as a source of 20 ms blocks that never waits."""

    live = False
    overflows = 0
    description = "measured audio"
    state: SourceState = "open"

    def __init__(self, audio: Path) -> None:
        self._audio = audio

    def __iter__(self) -> Iterator[SourceItem]:
        position, converter = 0, PcmConverter()
        for pcm in _blocks(self._audio):
            block = AudioBlock(converter.feed(pcm), position, time.monotonic())
            position = block.end
            yield block

    def close(self) -> None:
        """Do nothing; the source ends with the file."""


def _live(recognizer: Recognizer, audio: Path) -> list[tuple[int, int]]:
    """Run the threads of a live stream as fast as possible; returns the windows that were scored, in samples."""
    with Listener(_Blocks(audio), recognizer) as events:
        return [(event.start, event.end) for event in events if isinstance(event, EmotionEvent)]


def _latencies(recognizer: Recognizer, audio: Path, config: StreamConfig) -> dict[str, Any]:
    """Milliseconds of the pushes that give a result, and the largest difference from the scores of whole windows."""
    stream = Stream(recognizer, config)
    partials, finals, totals = [], [], []
    worst, compared, onset = 0.0, 0, 0
    position, pace = 0, 1
    for block in _blocks(audio):
        began = time.perf_counter()
        events: list[Event] = stream.push(block)
        took_ms = (time.perf_counter() - began) * 1000
        position += len(block) // 2
        for event in events:
            if isinstance(event, SpeechStarted):
                onset = event.start
            elif isinstance(event, EmotionEvent) and event.final:
                finals.append(took_ms)
                spoken_end = event.end - config.segmenter.post_roll_ms * SAMPLE_RATE / 1000
                totals.append((position - spoken_end) * 1000 / SAMPLE_RATE + took_ms)
            elif isinstance(event, EmotionEvent):
                partials.append(took_ms)
                if len(partials) % pace == 0 and compared < _COMPARED:
                    worst = max(worst, _difference(recognizer, event, onset, audio))
                    compared, pace = compared + 1, pace + 1
    result: dict[str, Any] = {"compared": compared, "scores_differ": worst}
    for name, values in (("partial", partials), ("final", finals), ("final_total", totals)):
        result[f"{name}_ms"] = {f"p{q}": float(np.percentile(values or [0.0], q)) for q in (50, 95, 99)}
    return result


def _difference(recognizer: Recognizer, event: EmotionEvent, onset: int, audio: Path) -> float:
    """Largest difference of a partial's scores from those of the same window computed as a whole."""
    steps = recognizer.steps
    chunked = steps if isinstance(steps, ChunkSteps | DeviceSteps) else None  # its results cover the utterance so far
    frames = extract(_samples(audio, onset if chunked else event.start, event.end), recognizer.features)
    if chunked is not None:
        frames = frames[: len(frames) // chunked.multiple * chunked.multiple]
        logits, embedding = recognizer.engine.run(frames[None])
        scores = WindowScores(logits, embedding, True)
    else:
        scores = run_frames(recognizer.engine, [frames], recognizer.features)[0]
    expected = recognizer.predict_scores([scores])[0].scores
    return max(abs(expected[label] - score) for label, score in event.scores.items())


def _samples(audio: Path, start: int, end: int) -> Samples:
    return to_mono(np.fromfile(audio, "<i2", end - start, offset=2 * start))


def _peak_mb() -> float | None:
    """Peak resident memory of the process in MiB; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
