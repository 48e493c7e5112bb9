"""tools/measure_not_speech.py makes sounds that are not speech, and counts those that are `uncertain`."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import measure_not_speech

from streamser.audio import SAMPLE_RATE


def test_the_sounds_are_the_same_every_time_and_loud_enough() -> None:
    first = [(kind, measure_not_speech.at_level(audio)) for kind, audio in measure_not_speech.sounds()]
    again = [(kind, measure_not_speech.at_level(audio)) for kind, audio in measure_not_speech.sounds()]
    for (kind, audio), (other, same) in zip(first, again, strict=True):
        assert kind == other
        assert np.array_equal(audio, same)
        assert np.isfinite(audio).all()
        assert len(audio) >= SAMPLE_RATE
        assert np.abs(audio).max() == pytest.approx(0.7, abs=1e-3) or kind == "silence or offset"
    assert {"sine", "held chord", "tune", "noise", "telephone"} <= {kind for kind, _ in first}


def test_recordings_that_the_training_used_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "noises"
    folder.mkdir()
    for name in ("rain-1.wav", "rain-2.wav", "dog-1.wav"):
        (folder / name).touch()

    def of(recipe: dict[str, Any]) -> list[str]:
        bundle: Any = SimpleNamespace(provenance={"recipe": recipe})
        return [path.name for path in measure_not_speech.unused_recordings(folder, bundle)]

    assert of({"outliers": {"folder": "noises", "names": ["dog*"]}}) == ["rain-1.wav", "rain-2.wav"]
    assert of({"outliers": {"folder": "CORPORA/noises"}}) == []
    assert of({"outliers": {"folder": "other"}}) == of({}) == ["dog-1.wav", "rain-1.wav", "rain-2.wav"]


def test_every_kind_is_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_not_speech.py", "lightsernet"])
    some = [("silence or offset", np.zeros(SAMPLE_RATE)), ("noise", np.ones(SAMPLE_RATE)), ("noise", np.ones(8))]
    monkeypatch.setattr(measure_not_speech, "sounds", lambda: iter(some))
    measure_not_speech.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lightsernet"
    assert lines[1].split() == ["silence", "or", "offset", "1", "of", "1", "uncertain"]
    assert "of 2 uncertain" in lines[2]
