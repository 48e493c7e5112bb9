"""The streaming benchmark: compose streams of known content, push them through the pipeline, and score the events.

A stream is room noise with speech between pauses; some pauses have music or a burst of louder noise. The content of
every sample is known. Only the real-time factor is measured in wall time, so that the same clips, plan and checkpoint
give the same other figures on every machine.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from streamser.audio import SAMPLE_RATE
from streamser.corpora.clips import Clip
from streamser.errors import CorpusError
from streamser.evaluation.compose import Composed, Kind, Span, StreamPlan, compose_all
from streamser.evaluation.metricset import MetricSet, compute_metrics
from streamser.evaluation.report import md_table, percent
from streamser.events import UNCERTAIN, EmotionEvent
from streamser.recognizer import Recognizer
from streamser.stream.pipeline import Stream, StreamConfig

_BLOCK = SAMPLE_RATE // 50  # 20 ms, the resolution of the measured delays
_STEP_S = 0.5  # resolution of the accuracy against seconds of speech


@dataclass(frozen=True, slots=True)
class TimedPrediction:
    """An emotion event and when it came."""

    event: EmotionEvent
    at: int
    """Number of the stream's samples pushed before the event came."""


def score_stream(stream: Composed, recognizer: Recognizer, config: StreamConfig | None = None) -> list[TimedPrediction]:
    """Push a stream through the real pipeline and keep its emotion events."""
    pipeline = Stream(recognizer, config)
    timed: list[TimedPrediction] = []
    for first in range(0, len(stream.samples), _BLOCK):
        block = stream.samples[first : first + _BLOCK]
        events = pipeline.push(block)
        timed += [TimedPrediction(event, first + len(block)) for event in events if isinstance(event, EmotionEvent)]
    timed += [
        TimedPrediction(event, len(stream.samples)) for event in pipeline.close() if isinstance(event, EmotionEvent)
    ]
    return timed


@dataclass(frozen=True, slots=True)
class _SpanResult:
    """The results for one clip of a composed stream."""

    span: Span
    found: bool
    predictions: tuple[TimedPrediction, ...]
    """Events of the utterance that covers most of the clip, the final last; empty when it was not found."""
    pieces: int
    """Number of utterances that the clip was cut into."""


@dataclass(slots=True)
class _Sheet:
    """Counts over all streams."""

    results: list[_SpanResult]
    false: list[tuple[Kind, TimedPrediction]]
    """Finals without speech, by the audio that caused them."""
    length: Counter[str]
    """Samples of each kind."""
    merged: int = 0
    flips: int = 0
    scored: int = 0
    """Samples of all utterances."""


# An utterance belongs to a clip if it covers half of the clip; it is false if at most a tenth of it is speech.
_FOUND, _FALSE = 0.5, 0.1


def _score(stream: Composed, timed: Sequence[TimedPrediction], sheet: _Sheet) -> None:
    of_utterance: dict[int, list[TimedPrediction]] = {}
    for one in timed:
        of_utterance.setdefault(one.event.utterance, []).append(one)
    utterances = [events for events in of_utterance.values() if events[-1].event.final]
    for span in stream.spans:
        sheet.length[span.kind] += span.end - span.start
    for span in stream.spoken:
        sheet.results.append(_found(span, utterances))
    for events in utterances:
        final = events[-1].event
        covered = [(span.overlap(final.start, final.end), span) for span in stream.spans]
        speech = sum(n for n, span in covered if span.kind == "speech")
        sheet.scored += final.end - final.start
        sheet.flips += sum(_shown(a) != _shown(b) for a, b in pairwise(events))
        owned = [s for s in stream.spoken if s.overlap(final.start, final.end) >= _FOUND * (s.end - s.start)]
        sheet.merged += len(owned) > 1
        if speech <= _FALSE * (final.end - final.start):
            _, most = max(((n, s) for n, s in covered if s.kind != "speech"), key=lambda one: one[0])
            # the burst triggered the detector, not the quiet after it
            loud = [s for n, s in covered if s.kind in ("noise", "music") and n >= 0.2 * (final.end - final.start)]
            sheet.false.append(((loud[0] if loud else most).kind, events[-1]))


def _found(span: Span, utterances: Sequence[list[TimedPrediction]]) -> _SpanResult:
    overlaps = [span.overlap(events[-1].event.start, events[-1].event.end) for events in utterances]
    pieces = [i for i, n in enumerate(overlaps) if n > 0]
    found = sum(overlaps) >= _FOUND * (span.end - span.start) and bool(pieces)
    if not found:
        return _SpanResult(span, False, (), len(pieces))
    return _SpanResult(span, True, tuple(utterances[max(pieces, key=lambda i: overlaps[i])]), len(pieces))


def _shown(timed: TimedPrediction) -> str:
    return UNCERTAIN if timed.event.uncertain else timed.event.label


# ---- figures


@dataclass(frozen=True, slots=True)
class SecondsRow:
    """Accuracy of the partial results after `seconds` of an utterance."""

    seconds: float
    right: float
    right_of_certain: float
    """Share of correct predictions among those that are not uncertain; NaN if there is none."""
    count: int


@dataclass(frozen=True, slots=True)
class FalseRow:
    """Events in parts of a stream without speech."""

    kind: str
    minutes: float
    per_minute: float
    """Utterances a minute."""
    certain_per_minute: float
    """Utterances with a label other than `uncertain`, a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """All results of the benchmark."""

    model: str
    independence: str
    plan: StreamPlan
    streams: int
    minutes: float
    utterances: int
    """Number of clips in the streams."""
    found: float
    """Share of the clips that were found."""
    split: float
    """Share of the found clips that were cut into several utterances."""
    merged: int
    """Number of utterances that cover several clips."""
    finals: MetricSet
    """Metrics of the utterances found."""
    seconds: tuple[SecondsRow, ...]
    delay_p50_s: float
    """Time from the last sample of speech to the final, in stream time."""
    delay_p95_s: float
    onset_p50_s: float
    """Time from the first sample of speech to the utterance's first sample; negative because of the pre-roll."""
    first_p50_s: float
    """Time from the first sample of speech to the first partial."""
    flips_per_minute: float
    """Changes of the label, with `uncertain` as a label, within utterances, per minute of utterances."""
    false: tuple[FalseRow, ...]
    real_time_factor: float
    """Wall time of the pipeline over stream time; the one figure that depends on the machine."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self) | {"finals": self.finals.to_dict()}
        return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 5)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def measure_streams(
    recognizer: Recognizer,
    clips: Sequence[Clip],
    plan: StreamPlan | None = None,
    config: StreamConfig | None = None,
    *,
    independence: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> StreamResult:
    """Compose streams of clips that have the recognizer's labels, run them, and score the events.

    A composed stream mixes the clips of many speakers, so that streams do not adapt here.
    """
    plan, config = plan or StreamPlan(), config or StreamConfig()
    config = replace(config, pipeline=replace(config.pipeline, adapt=False))
    if not clips:
        raise CorpusError("no clips to compose streams of; every one was left out")
    sheet = _Sheet([], [], Counter())
    streams, took_s, done = 0, 0.0, 0.0
    for stream in compose_all(clips, plan):
        began = time.monotonic()
        timed = score_stream(stream, recognizer, config)
        took_s += time.monotonic() - began
        _score(stream, timed, sheet)
        streams += 1
        done += len(stream.samples) / SAMPLE_RATE / 60
        if progress:
            progress("minutes of stream", min(round(done), round(plan.minutes)), max(1, round(plan.minutes)))
    return _result(recognizer, plan, sheet, streams, took_s, independence)


def _result(
    recognizer: Recognizer, plan: StreamPlan, sheet: _Sheet, streams: int, took_s: float, independence: str
) -> StreamResult:
    found = [one for one in sheet.results if one.found]
    if not found:
        raise CorpusError(f"the detector found none of the {len(sheet.results)} spoken clips")
    length_s = sum(sheet.length.values()) / SAMPLE_RATE
    delays = [(one.predictions[-1].at - one.span.end) / SAMPLE_RATE for one in found]
    onsets = [(one.predictions[-1].event.start - one.span.start) / SAMPLE_RATE for one in found]
    firsts = [
        (one.predictions[0].at - one.span.start) / SAMPLE_RATE for one in found if not one.predictions[0].event.final
    ]
    return StreamResult(
        model=recognizer.bundle.name,
        independence=independence,
        plan=plan,
        streams=streams,
        minutes=length_s / 60,
        utterances=len(sheet.results),
        found=len(found) / len(sheet.results),
        split=float(np.mean([one.pieces > 1 for one in found])),
        merged=sheet.merged,
        finals=_finals(recognizer.labels, found),
        seconds=_by_seconds(found),
        delay_p50_s=float(np.median(delays)),
        delay_p95_s=float(np.percentile(delays, 95)),
        onset_p50_s=float(np.median(onsets)),
        first_p50_s=float(np.median(firsts)) if firsts else float("nan"),
        flips_per_minute=sheet.flips / (sheet.scored / SAMPLE_RATE / 60),
        false=_false_rows(sheet),
        real_time_factor=took_s / length_s,
    )


def _finals(labels: tuple[str, ...], found: Sequence[_SpanResult]) -> MetricSet:
    clips = [one.span.clip for one in found if one.span.clip is not None]
    finals = [one.predictions[-1].event for one in found]
    return compute_metrics(
        "finals",
        labels,
        np.array([[event.scores[label] for label in labels] for event in finals]),
        np.array([labels.index(clip.label) for clip in clips], np.int64),
        [clip.speaker for clip in clips],
        np.array([event.uncertain for event in finals], np.bool_),
    )


def _by_seconds(found: Sequence[_SpanResult]) -> tuple[SecondsRow, ...]:
    """Partials by the length of speech so far, in half seconds; a clip counts once in each half second."""
    table: dict[int, dict[int, tuple[bool, bool]]] = {}
    for i, one in enumerate(found):
        assert one.span.clip is not None
        for timed in one.predictions[:-1]:
            speech_s = (min(timed.event.end, one.span.end) - one.span.start) / SAMPLE_RATE
            if speech_s > 0:
                step = int(speech_s / _STEP_S)
                table.setdefault(step, {})[i] = (timed.event.label == one.span.clip.label, timed.event.uncertain)
    rows = []
    for step in sorted(table):
        right = np.array([value[0] for value in table[step].values()])
        certain = np.array([not value[1] for value in table[step].values()])
        sure = float(right[certain].mean()) if certain.any() else float("nan")
        if len(right) >= min(20, len(found)):  # a few long utterances cannot be compared with all of them
            rows.append(SecondsRow((step + 1) * _STEP_S, float(right.mean()), sure, len(right)))
    return tuple(rows)


def _false_rows(sheet: _Sheet) -> tuple[FalseRow, ...]:
    rows = []
    groups: list[tuple[str, tuple[str, ...]]] = [(kind, (kind,)) for kind in ("quiet", "noise", "music")]
    for name, kinds in [*groups, ("all", ("quiet", "noise", "music"))]:
        minutes = sum(sheet.length[kind] for kind in kinds) / SAMPLE_RATE / 60
        events = [timed.event for kind, timed in sheet.false if kind in kinds]
        if minutes > 0:
            certain = sum(not event.uncertain for event in events)
            rows.append(FalseRow(name, minutes, len(events) / minutes, certain / minutes))
    return tuple(rows)


# ---- report


def stream_markdown(result: StreamResult) -> str:
    """The report in Markdown."""
    r, f = result, result.finals
    rows = [
        ("utterances found", f"{percent(r.found)} % of {r.utterances}"),
        ("cut into several / several joined", f"{percent(r.split)} % / {r.merged}"),
        ("finals: UA", f"{f.ua} %"),
        ("finals: WA", f"{f.wa} %"),
        ("finals: uncertain, and wrong among the rest", f"{percent(f.abstained)} %, {percent(f.risk)} %"),
        ("finals: ECE", f"{f.ece:.3f}"),
        ("speech end to final, median / p95", f"{r.delay_p50_s:.2f} s / {r.delay_p95_s:.2f} s"),
        ("speech start to first partial, median", "-" if np.isnan(r.first_p50_s) else f"{r.first_p50_s:.2f} s"),
        ("onset against the truth, median", f"{r.onset_p50_s:+.2f} s"),
        ("changes of the label, a minute of speech", f"{r.flips_per_minute:.1f}"),
        ("real-time factor on this machine", f"{r.real_time_factor:.3f}"),
    ]
    seconds = [
        (
            f"{row.seconds - _STEP_S:.1f}-{row.seconds:.1f}",
            percent(row.right),
            percent(row.right_of_certain),
            str(row.count),
        )
        for row in r.seconds
    ]
    false = [
        (row.kind, f"{row.minutes:.1f}", f"{row.per_minute:.2f}", f"{row.certain_per_minute:.2f}") for row in r.false
    ]
    head = f"{r.streams} streams, {r.minutes:.1f} minutes, seed {r.plan.seed}."
    return (
        "\n\n".join(
            [
                f"# {r.model} on composed streams",
                *([r.independence] if r.independence else []),
                head,
                md_table(("figure", "value"), rows),
                "## Partial results against the speech so far",
                md_table(("seconds so far", "right %", "right % where certain", "utterances"), seconds, "rrrr"),
                "## Without speech",
                md_table(("audio", "minutes", "utterances a minute", "with a label, a minute"), false),
            ]
        )
        + "\n"
    )


def write_stream_report(result: StreamResult, out: Path) -> Path:
    """Write Markdown, JSON and, if matplotlib is installed, a picture into a folder; returns the Markdown file."""
    from streamser.evaluation.plots import can_draw, plot_seconds

    out.mkdir(parents=True, exist_ok=True)
    text = stream_markdown(result)
    if result.seconds and can_draw():
        points = [(row.seconds, row.right, row.count) for row in result.seconds]
        plot_seconds(points, result.finals.wa.value, out / "seconds.png")
        text += "\n![accuracy against time](seconds.png)\n"
    (out / "stream.json").write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", "utf-8")
    report = out / "stream.md"
    report.write_text(text, encoding="utf-8")
    return report


__all__ = [
    "StreamPlan",
    "StreamResult",
    "TimedPrediction",
    "measure_streams",
    "score_stream",
    "stream_markdown",
    "write_stream_report",
]
