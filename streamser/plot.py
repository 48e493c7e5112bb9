"""Draw a stream as one picture: waveform, voice activity, probabilities over time, and each utterance's final."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamser.audio import SAMPLE_RATE, Samples
from streamser.colors import UNCERTAIN_COLOR, clock, color_of
from streamser.errors import ConfigError, MissingExtraError
from streamser.events import UNCERTAIN, EmotionEvent, Event, Gap, SpeechEnded, SpeechStarted, StreamEnded

_FORMATS = (".png", ".svg", ".pdf")
_INK, _FAINT, _SPEECH = "#30343A", "#D7DADE", "#DCE6F2"
_DPI = 300  # as journals require; .svg and .pdf are drawn in vectors
_WIDTH_INCHES = 10.0
_SECONDS_PER_INCH = 4.0  # an utterance of two seconds has room for its label
_MOST_ROWS = 12  # a longer stream gets longer rows instead of more than this many
_LETTER_INCHES = 0.078  # width of a letter of the captions; captions that would not fit are left out
_ENVELOPE_POINTS = 4000  # twice the number of columns of a row
_SIDE_INCHES = 1.2  # margin beside the lanes
_KEY_INCHES = 1.1  # width of an entry of the legend


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of time with its reference label."""

    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True, slots=True)
class _Ribbon:
    """The probabilities of one utterance over time."""

    times_s: NDArray[np.float64]
    scores: NDArray[np.float64]  # (classes, times)

    def touches(self, start_s: float, stop_s: float) -> bool:
        return bool(self.times_s[0] <= stop_s and self.times_s[-1] >= start_s)


def check_plot(path: str | PathLike[str]) -> None:
    """Check, before any audio is read, that a picture can be written: ConfigError or MissingExtraError if not."""
    file = Path(fspath(path))
    if file.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--plot {file}: the extension decides the format; known are {', '.join(_FORMATS)}")
    if not file.parent.is_dir():
        raise ConfigError(f"--plot {file}: the folder {file.parent} does not exist; make it first")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("--plot", "plot") from error


def save_timeline(
    path: str | PathLike[str],
    events: Iterable[Event],
    *,
    samples: Samples | None = None,
    title: str = "",
    width_inches: float | None = None,
    reference: Sequence[Mark] = (),
) -> None:
    """Draw the events of one stream, over its audio when that is given, as .png (300 dpi), .svg or .pdf.

    A long stream is wrapped into rows of `width_inches` (default: 10). `reference` adds a lane with the true labels.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    listed = list(events)
    streams = sorted({event.stream for event in listed})
    if len(streams) > 1:
        raise ValueError(f"a picture shows one stream, not {', '.join(streams)}")
    if width_inches is not None and not 2 <= width_inches <= 100:
        raise ValueError(f"width_inches: within 2..100, not {width_inches:g}")
    width = width_inches or _WIDTH_INCHES
    end_s = max(
        [_end(event) / SAMPLE_RATE for event in listed]
        + [mark.end_s for mark in reference]
        + [len(samples) / SAMPLE_RATE if samples is not None else 0.0, 0.1]
    )
    rows = _rows(end_s, width)
    lanes = [1.1 if samples is not None else 0.3, 1.5, 0.42] + ([0.3] if reference else [])
    figure = Figure(figsize=(width, len(rows) * (sum(lanes) + 0.75) + 1), facecolor="white", layout="constrained")
    axes = figure.subplots(len(rows) * len(lanes), 1, squeeze=False, height_ratios=lanes * len(rows))[:, 0]
    labels = list(dict.fromkeys(name for event in listed if isinstance(event, EmotionEvent) for name in event.scores))
    speech, ribbons = list(_speech_spans(listed, end_s)), list(_ribbons(listed, labels))
    peak = max(0.01, float(np.abs(samples).max())) if samples is not None and len(samples) else 1.0
    axes[0].set_title(title or (streams[0] if streams else ""), loc="left", fontsize=9, color=_INK)
    for number, (start_s, stop_s) in enumerate(rows):
        own = axes[number * len(lanes) : (number + 1) * len(lanes)]
        inches_per_s = (width - _SIDE_INCHES) / (stop_s - start_s)
        _draw_audio(own[0], speech, samples, start_s, stop_s, peak)
        _draw_ribbons(own[1], [one for one in ribbons if one.touches(start_s, stop_s)], labels)
        _draw_finals(own[2], listed, start_s, stop_s, inches_per_s)
        if reference:
            _draw_reference(own[3], reference, start_s, stop_s, inches_per_s)
        _dress(own, start_s, stop_s, width, hours=end_s >= 3600)
    gaps = any(isinstance(event, Gap) for event in listed)
    others = list(dict.fromkeys(mark.label for mark in reference if mark.label not in labels))
    _draw_legend(figure, [*labels, *others], gaps, width)
    figure.savefig(fspath(path), dpi=_DPI)


def _rows(end_s: float, width: float) -> list[tuple[float, float]]:
    """Start and end of each row: all of one length, unless everything fits into one.

    >>> _rows(30.0, 10.0), _rows(100.0, 10.0)
    ([(0.0, 30.0)], [(0.0, 40.0), (40.0, 80.0), (80.0, 120.0)])
    """
    row_s = width * _SECONDS_PER_INCH
    if end_s <= row_s:
        return [(0.0, end_s)]
    row_s = max(row_s, 10.0 * math.ceil(end_s / _MOST_ROWS / 10))
    return [(number * row_s, (number + 1) * row_s) for number in range(math.ceil(end_s / row_s))]


def _end(event: Event) -> int:
    if isinstance(event, EmotionEvent | SpeechEnded | StreamEnded):
        return event.end
    return event.start + event.length if isinstance(event, Gap) else 0


def _speech_spans(events: list[Event], end_s: float) -> Iterator[tuple[float, float]]:
    """Spans in which the voice activity detector found speech, in seconds."""
    open_at: dict[int, int] = {}
    for event in events:
        if isinstance(event, SpeechStarted):
            open_at[event.utterance] = event.start
        elif isinstance(event, SpeechEnded):
            yield open_at.pop(event.utterance, event.start) / SAMPLE_RATE, event.end / SAMPLE_RATE
    for start in open_at.values():  # an utterance that the stream's end cut off
        yield start / SAMPLE_RATE, end_s


def _draw_audio(
    axes: Any, speech: list[tuple[float, float]], samples: Samples | None, start_s: float, stop_s: float, peak: float
) -> None:
    for span in speech:
        if span[0] <= stop_s and span[1] >= start_s:
            axes.axvspan(*span, color=_SPEECH, linewidth=0, zorder=0)
    if samples is None or not len(samples):
        axes.set_ylim(0, 1)
        axes.set_ylabel("speech", rotation=0, ha="right", va="center")
        return
    shown = samples[round(start_s * SAMPLE_RATE) : round(stop_s * SAMPLE_RATE)]
    step = max(1, len(shown) // _ENVELOPE_POINTS)
    whole = shown[: len(shown) // step * step].reshape(-1, step)
    times_s = start_s + (np.arange(len(whole)) + 0.5) * step / SAMPLE_RATE
    axes.fill_between(times_s, whole.min(axis=1), whole.max(axis=1), color=_INK, linewidth=0.3, zorder=2)
    axes.set_ylim(-1.08 * peak, 1.08 * peak)
    axes.set_ylabel("audio,\nspeech", rotation=0, ha="right", va="center")


def _ribbons(events: list[Event], labels: list[str]) -> Iterator[_Ribbon]:
    """The probabilities of each utterance, from its first result on."""
    by_utterance: dict[int, list[EmotionEvent]] = defaultdict(list)
    for event in events:
        if isinstance(event, EmotionEvent):
            by_utterance[event.utterance].append(event)
    for listed in by_utterance.values():
        times_s = np.array([event.end for event in listed]) / SAMPLE_RATE
        scores = np.array([[event.scores.get(name, 0.0) for name in labels] for event in listed]).T
        yield _Ribbon(times_s, scores)


def _draw_ribbons(axes: Any, ribbons: list[_Ribbon], labels: list[str]) -> None:
    """Stacked probabilities, one ribbon for each class."""
    colors = [color_of(name) for name in labels]
    for ribbon in ribbons:
        axes.stackplot(ribbon.times_s, ribbon.scores, colors=colors, linewidth=0.4, edgecolor="white")
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
    axes.set_ylabel("probability", rotation=0, ha="right", va="center")


def _draw_finals(axes: Any, events: list[Event], start_s: float, stop_s: float, inches_per_s: float) -> None:
    axes.set_ylim(0, 1)
    axes.set_ylabel("final", rotation=0, ha="right", va="center")
    for event in events:
        if not isinstance(event, EmotionEvent | Gap) or _end(event) / SAMPLE_RATE < start_s:
            continue
        if event.start / SAMPLE_RATE > stop_s:
            continue
        if isinstance(event, Gap):
            lost = (event.start / SAMPLE_RATE, _end(event) / SAMPLE_RATE)
            axes.axvspan(*lost, facecolor="none", edgecolor="#C00000", hatch="xxxx", linewidth=0)
        elif event.final:
            _draw_final(axes, event, start_s, stop_s, inches_per_s)


def _draw_final(axes: Any, event: EmotionEvent, start_s: float, stop_s: float, inches_per_s: float) -> None:
    """A bar with its caption in the middle of its visible part."""
    begin_s, end_s = max(event.start_s, start_s), min(event.end_s, stop_s)
    color = UNCERTAIN_COLOR if event.uncertain else color_of(event.label)
    filled = {"facecolor": "white", "edgecolor": color, "hatch": "////"} if event.uncertain else {"facecolor": color}
    axes.broken_barh([(begin_s, end_s - begin_s)], (0.06, 0.88), linewidth=0.6, **filled)
    sure = f"{event.confidence:.2f}"
    if event.uncertain:
        wordings = [f"{UNCERTAIN}\n{event.label}? {sure}", f"{event.label}?\n{sure}", "?"]
    else:
        wordings = [f"{event.label}\n{sure}", event.label]
    _write_caption(axes, wordings, (begin_s + end_s) / 2, int((end_s - begin_s) * inches_per_s / _LETTER_INCHES))


def _draw_reference(axes: Any, reference: Sequence[Mark], start_s: float, stop_s: float, inches_per_s: float) -> None:
    axes.set_ylim(0, 1)
    axes.set_ylabel("reference", rotation=0, ha="right", va="center")
    for mark in reference:
        begin_s, end_s = max(mark.start_s, start_s), min(mark.end_s, stop_s)
        if end_s > begin_s:
            axes.broken_barh([(begin_s, end_s - begin_s)], (0.06, 0.88), facecolor=color_of(mark.label))
            letters = int((end_s - begin_s) * inches_per_s / _LETTER_INCHES)
            _write_caption(axes, [mark.label], (begin_s + end_s) / 2, letters)


def _write_caption(axes: Any, wordings: list[str], at_s: float, letters: int) -> None:
    """Write the longest caption that fits into the bar; none if even the shortest does not fit."""
    for text in wordings:
        if max(map(len, text.split("\n"))) <= letters:
            box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5}
            axes.text(at_s, 0.5, text, ha="center", va="center", fontsize=7, color="black", bbox=box, clip_on=True)
            return


def _dress(lanes: Any, start_s: float, stop_s: float, width: float, *, hours: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axes in lanes:
        axes.set_xlim(start_s, stop_s)
        axes.tick_params(colors=_INK, labelsize=8, length=2)
        axes.tick_params(axis="x", labelbottom=axes is lanes[-1])
        axes.yaxis.label.set(color=_INK, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=max(2, int(width)), steps=[1, 2, 3, 5, 6, 10], integer=True))
        for side in axes.spines.values():
            side.set(color=_FAINT)
    for axes in [lanes[0], *lanes[2:]]:
        axes.set_yticks([])
    from_letter = 0 if hours else 3  # "00:" is left out of shorter streams
    lanes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(round(value * SAMPLE_RATE))[from_letter:]))


def _draw_legend(figure: Any, labels: list[str], gaps: bool, width: float) -> None:
    from matplotlib.patches import Patch

    keys = [Patch(facecolor=color_of(name), label=name) for name in labels]
    keys.append(Patch(facecolor="white", edgecolor=UNCERTAIN_COLOR, hatch="////", label=UNCERTAIN))
    keys.append(Patch(facecolor=_SPEECH, label="speech"))
    if gaps:
        keys.append(Patch(facecolor="none", edgecolor="#C00000", hatch="xxxx", label="audio lost"))
    figure.legend(
        handles=keys,
        loc="outside lower left",
        ncols=max(1, min(len(keys), int(width / _KEY_INCHES))),
        fontsize=8,
        frameon=False,
        labelcolor=_INK,
        handlelength=1.2,
    )
