"""Generated tones: valid audio, the same every time, and of several kinds."""

from pathlib import Path

import numpy as np
import soundfile

from streamser.audio import SAMPLE_RATE, read_audio
from streamser.training.tones import tone_files, tones


def test_every_recording_is_audible_and_within_the_range() -> None:
    for number in range(60):
        audio = tones(number)
        assert audio.dtype == np.float32
        assert SAMPLE_RATE <= len(audio) <= 4 * SAMPLE_RATE
        assert 0.69 < float(np.abs(audio).max()) <= 0.7001
        assert np.isfinite(audio).all()


def test_a_recording_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few, many = tone_files(tmp_path / "few", 2), tone_files(tmp_path / "many", 5)
    assert [path.name for path in many[:2]] == [path.name for path in few]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(few, many, strict=False))
    assert len({path.read_bytes() for path in many}) == 5


def test_files_that_are_there_are_kept_and_no_parts_are_left(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tones-0000.wav", np.zeros(8), SAMPLE_RATE)
    files = tone_files(tmp_path, 2)
    assert len(read_audio(files[0])) == 8  # what is there is kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tones-0000.wav", "tones-0001.wav"]


def test_most_of_the_energy_is_in_few_frequencies() -> None:
    """A held tone differs from noise: its loudest twentieth of the frequencies holds nearly all of its energy."""
    for number in (0, 4, 8):  # held tones
        power = np.abs(np.fft.rfft(tones(number))) ** 2
        loudest = np.sort(power)[-len(power) // 20 :].sum()
        assert loudest > 0.9 * power.sum()
    noise = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE)
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert np.sort(power)[-len(power) // 20 :].sum() < 0.5 * power.sum()
