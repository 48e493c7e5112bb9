"""How emotions are shown: one color for each, one wording for uncertain predictions, one clock format."""

from __future__ import annotations

from streamser.audio import SAMPLE_RATE
from streamser.events import UNCERTAIN

# Any two differ by a CIE76 distance of at least 19, for normal vision and for protan, deutan and
# tritan color blindness, and each differs from a dark background. A label always stands beside the color.
COLORS: dict[str, str] = {
    "angry": "#DD4E03",
    "happy": "#F4C63A",
    "neutral": "#8C8C8C",
    "sad": "#436EDB",
    "fearful": "#C76FC3",
    "disgust": "#18C258",
    "surprised": "#DEC9E0",
    "calm": "#85B9FF",
    "bored": "#A44B40",
}
UNCERTAIN_COLOR = "#B0B0B0"

# Corpora name the same emotion in many ways: anger, angry, ang; joy, happiness, hap.
_STEMS = {
    "ang": "angry",
    "hap": "happy",
    "joy": "happy",
    "neu": "neutral",
    "sad": "sad",
    "fea": "fearful",
    "dis": "disgust",
    "sur": "surprised",
    "cal": "calm",
    "bor": "bored",
}
_SPARE = ("#7E6BB0", "#5F9EA0", "#C9A27E", "#6E8B3D")


def color_of(label: str) -> str:
    """The color of an emotion, the same for all its names.

    >>> color_of("happiness") == color_of("joy") == color_of("happy") == COLORS["happy"]
    True
    """
    if label == UNCERTAIN:
        return UNCERTAIN_COLOR
    known = _STEMS.get(label[:3].lower())
    return COLORS[known] if known else _SPARE[sum(map(ord, label)) % len(_SPARE)]


def clock(samples: int, decimals: int = 0) -> str:
    """A place in the stream as hours, minutes and seconds, cut (not rounded) to `decimals` decimals.

    >>> clock(16000 * 3725 + 8000, 3), clock(15999)
    ('01:02:05.500', '00:00:00')
    """
    seconds, rest = divmod(samples, SAMPLE_RATE)
    fraction = f".{rest * 10**decimals // SAMPLE_RATE:0{decimals}d}" if decimals else ""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{fraction}"
