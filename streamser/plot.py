"""Draw a stream as one picture: waveform, voice activity, probabilities over time, and what each utterance was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
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
_DPI = 110
_INCHES_PER_S, _MIN_INCHES, _MAX_INCHES = 0.25, 11.0, 60.0
_LETTER_INCHES = 0.078  # a letter of the captions; captions that would not fit are left out
_ENVELOPE_POINTS = 4000  # twice what a picture has columns


@dataclass(frozen=True, slots=True)
class _Ribbon:
    """How the probabilities of one utterance went."""

    times_s: NDArray[np.float64]
    scores: NDArray[np.float64]  # (classes, times)


def check_plot(path: str | PathLike[str]) -> None:
    """Say now, before hours of sound, whether a picture can be drawn there: ConfigError or MissingExtraError."""
    file = Path(fspath(path))
    if file.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--plot {file}: the extension names the format; known are {', '.join(_FORMATS)}")
    if not file.parent.is_dir():
        raise ConfigError(f"--plot {file}: the folder {file.parent} does not exist; make it first")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("--plot", "plot") from error


def save_timeline(
    path: str | PathLike[str], events: Iterable[Event], *, samples: Samples | None = None, title: str = ""
) -> None:
    """Draw the events of one stream, over its sound when that is given, as .png, .svg or .pdf."""
    check_plot(path)
    from matplotlib.figure import Figure

    told = list(events)
    streams = sorted({event.stream for event in told})
    if len(streams) > 1:
        raise ValueError(f"a picture shows one stream, not {', '.join(streams)}")
    end_s = max(
        [_end(event) / SAMPLE_RATE for event in told] + [len(samples) / SAMPLE_RATE if samples is not None else 0.0]
    )
    end_s = max(end_s, 0.1)
    rows = [1.1, 1.5, 0.42] if samples is not None else [0.3, 1.5, 0.42]
    width = float(np.clip(end_s * _INCHES_PER_S, _MIN_INCHES, _MAX_INCHES))
    figure = Figure(figsize=(width, sum(rows) + 1.75), dpi=_DPI, facecolor="white", layout="constrained")
    sound, ribbons, finals = figure.subplots(3, 1, sharex=True, height_ratios=rows)

    _draw_sound(sound, told, samples)
    labels = _draw_ribbons(ribbons, told)
    _draw_finals(finals, told, inches_per_s=(width - 1.2) / end_s)
    _dress(figure, (sound, ribbons, finals), end_s, title or (streams[0] if streams else ""))
    _draw_legend(figure, labels, any(isinstance(event, Gap) for event in told))
    figure.savefig(fspath(path), dpi=_DPI)


def _end(event: Event) -> int:
    if isinstance(event, EmotionEvent | SpeechEnded | StreamEnded):
        return event.end
    return event.start + event.length if isinstance(event, Gap) else 0


def _speech_spans(events: list[Event], end_s: float) -> Iterator[tuple[float, float]]:
    """Where the voice activity detector heard speech, in seconds."""
    open_at: dict[int, int] = {}
    for event in events:
        if isinstance(event, SpeechStarted):
            open_at[event.utterance] = event.start
        elif isinstance(event, SpeechEnded):
            yield open_at.pop(event.utterance, event.start) / SAMPLE_RATE, event.end / SAMPLE_RATE
    for start in open_at.values():  # an utterance that the stream's end cut off
        yield start / SAMPLE_RATE, end_s


def _draw_sound(axes: Any, events: list[Event], samples: Samples | None) -> None:
    end_s = max([_end(event) for event in events], default=0) / SAMPLE_RATE
    for start_s, stop_s in _speech_spans(events, end_s):
        axes.axvspan(start_s, stop_s, color=_SPEECH, linewidth=0, zorder=0)
    if samples is None or not len(samples):
        axes.set_ylim(0, 1)
        axes.set_ylabel("speech", rotation=0, ha="right", va="center")
        return
    step = max(1, len(samples) // _ENVELOPE_POINTS)
    whole = samples[: len(samples) // step * step].reshape(-1, step)
    times_s = (np.arange(len(whole)) + 0.5) * step / SAMPLE_RATE
    axes.fill_between(times_s, whole.min(axis=1), whole.max(axis=1), color=_INK, linewidth=0.3, zorder=2)
    peak = max(0.01, float(np.abs(samples).max()))
    axes.set_ylim(-1.08 * peak, 1.08 * peak)
    axes.set_ylabel("sound,\nspeech", rotation=0, ha="right", va="center")


def _ribbons(events: list[Event], labels: list[str]) -> Iterator[_Ribbon]:
    by_utterance: dict[int, list[EmotionEvent]] = defaultdict(list)
    starts: dict[int, int] = {}
    for event in events:
        if isinstance(event, SpeechStarted):
            starts[event.utterance] = event.start
        elif isinstance(event, EmotionEvent):
            by_utterance[event.utterance].append(event)
    for utterance, told in by_utterance.items():
        start = starts.get(utterance, told[0].start)
        # Nothing is known before the first event: its values reach back to the utterance's start.
        times_s = np.array([start, *(event.end for event in told)]) / SAMPLE_RATE
        scores = np.array([[event.scores.get(name, 0.0) for name in labels] for event in [told[0], *told]]).T
        yield _Ribbon(times_s, scores)


def _draw_ribbons(axes: Any, events: list[Event]) -> list[str]:
    """Stacked probabilities, a ribbon a class, drawn while an utterance lasts; returns the classes."""
    labels = list(dict.fromkeys(name for event in events if isinstance(event, EmotionEvent) for name in event.scores))
    colours = [color_of(name) for name in labels]
    for ribbon in _ribbons(events, labels):
        axes.stackplot(ribbon.times_s, ribbon.scores, colors=colours, linewidth=0.4, edgecolor="white")
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"])
    axes.set_ylabel("probability", rotation=0, ha="right", va="center")
    return labels


def _draw_finals(axes: Any, events: list[Event], inches_per_s: float) -> None:
    for event in events:
        if isinstance(event, Gap):
            start_s, length_s = event.start / SAMPLE_RATE, event.length / SAMPLE_RATE
            axes.axvspan(start_s, start_s + length_s, facecolor="none", edgecolor="#C00000", hatch="xxxx", linewidth=0)
        if not (isinstance(event, EmotionEvent) and event.final):
            continue
        start_s, length_s = event.start / SAMPLE_RATE, (event.end - event.start) / SAMPLE_RATE
        colour = UNCERTAIN_COLOR if event.uncertain else color_of(event.label)
        filled = (
            {"facecolor": "white", "edgecolor": colour, "hatch": "////"} if event.uncertain else {"facecolor": colour}
        )
        axes.broken_barh([(start_s, length_s)], (0.06, 0.88), linewidth=0.6, **filled)
        _write_caption(axes, event, start_s + length_s / 2, letters=int(length_s * inches_per_s / _LETTER_INCHES))
    axes.set_ylim(0, 1)
    axes.set_ylabel("final", rotation=0, ha="right", va="center")


def _write_caption(axes: Any, event: EmotionEvent, at_s: float, letters: int) -> None:
    """The longest of the wordings that fits into the bar; none when even the shortest does not."""
    sure = f"{event.confidence:.2f}"
    if event.uncertain:
        wordings = [f"{UNCERTAIN}\n{event.label}? {sure}", f"{event.label}?\n{sure}", "?"]
    else:
        wordings = [f"{event.label}\n{sure}", event.label]
    for text in wordings:
        if max(map(len, text.split("\n"))) <= letters:
            box = {"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.5}
            axes.text(at_s, 0.5, text, ha="center", va="center", fontsize=7, color="black", bbox=box, clip_on=True)
            return


def _dress(figure: Any, rows: tuple[Any, ...], end_s: float, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axes in rows:
        axes.tick_params(colors=_INK, labelsize=8, length=2)
        axes.yaxis.label.set(color=_INK, fontsize=8)
        for side in axes.spines.values():
            side.set(color=_FAINT)
    for axes in (rows[0], rows[-1]):
        axes.set_yticks([])
    rows[-1].set_xlim(0, end_s)
    rows[-1].xaxis.set_major_locator(
        MaxNLocator(nbins=int(figure.get_figwidth()), steps=[1, 2, 3, 5, 6, 10], integer=True)
    )
    hours = 0 if end_s >= 3600 else 3  # "00:" is left out of shorter streams
    rows[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(round(value * SAMPLE_RATE))[hours:]))
    rows[0].set_title(title, loc="left", fontsize=9, color=_INK)


def _draw_legend(figure: Any, labels: list[str], gaps: bool) -> None:
    from matplotlib.patches import Patch

    keys = [Patch(facecolor=color_of(name), label=name) for name in labels]
    keys.append(Patch(facecolor="white", edgecolor=UNCERTAIN_COLOR, hatch="////", label=UNCERTAIN))
    keys.append(Patch(facecolor=_SPEECH, label="speech"))
    if gaps:
        keys.append(Patch(facecolor="none", edgecolor="#C00000", hatch="xxxx", label="sound lost"))
    figure.legend(
        handles=keys,
        loc="outside lower left",
        ncols=len(keys),
        fontsize=8,
        frameon=False,
        labelcolor=_INK,
        handlelength=1.2,
    )
