"""Make a profile from half a minute of one speaker's neutral speech."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from streamser.audio import SAMPLE_RATE, Samples
from streamser.errors import AudioError
from streamser.profile import Profile, check_adaptable, fingerprint
from streamser.recognizer import Recognizer

__all__ = ["ENOUGH_SPEECH_S", "LEAST_SPEECH_S", "check_recording", "enrol"]

LEAST_SPEECH_S = 15.0
"""With less speech, the average describes a few sentences rather than the voice."""
ENOUGH_SPEECH_S = 30.0

_QUIET_DBFS = -60.0  # quieter speech is masked by the noise of any sound card
_CLIPPED_SHARE = 0.001  # more samples at full scale than this are audible as distortion
_FULL_SCALE = 0.99


def enrol(
    recognizer: Recognizer, recordings: Sequence[Samples], name: str = "me", least_speech_s: float = LEAST_SPEECH_S
) -> Profile:
    """Make a profile from 16 kHz utterances of neutral speech; AudioError if they are too short or distorted.

    Each utterance has the weight 1, since the speaker was asked for neutral speech.
    """
    check_recording(recordings, least_speech_s)
    check_adaptable(recognizer.bundle)
    total = recognizer.embed(list(recordings)).sum(axis=0, dtype=np.float64)
    return Profile(
        name=name,
        model=recognizer.bundle.name,
        fingerprint=fingerprint(recognizer.bundle),
        speech_s=round(sum(map(len, recordings)) / SAMPLE_RATE, 2),
        utterances=len(recordings),
        weight=float(len(recordings)),
        total=tuple(round(float(value), 6) for value in total),
    )


def check_recording(recordings: Sequence[Samples], least_speech_s: float = LEAST_SPEECH_S) -> None:
    """Raise an AudioError, with advice, for speech that cannot be used for a profile."""
    speech_s = sum(map(len, recordings)) / SAMPLE_RATE
    if not recordings or speech_s < least_speech_s:
        raise AudioError(
            f"only {speech_s:.1f} s of speech; a profile needs at least {least_speech_s:.0f} s "
            f"({ENOUGH_SPEECH_S:.0f} s is better): speak longer, and closer to the microphone"
        )
    whole = np.concatenate(recordings)
    clipped = float(np.mean(np.abs(whole) >= _FULL_SCALE))
    if clipped > _CLIPPED_SHARE:
        raise AudioError(
            f"{100 * clipped:.1f} % of the samples are at full scale: the recording is clipped; "
            "turn the microphone's gain down or move away from it"
        )
    level_db = 10 * math.log10(max(float(np.mean(np.square(whole, dtype=np.float64))), 1e-12))
    if level_db < _QUIET_DBFS:
        raise AudioError(
            f"the speech is at {level_db:.0f} dBFS, below {_QUIET_DBFS:.0f}: too quiet compared with the noise of "
            "the sound card; turn the microphone's gain up"
        )
