"""Restore the signals' default handling; give the examples in docstrings a recognizer and recorded speech."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

# A run in the background of a script, or under nohup, begins with these ignored, and every program that a test starts
# inherits that: the tests of signals would fail there.
for _name, _handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    _number = getattr(signal, _name, None)  # Windows has no SIGHUP
    if _number is not None and signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)

sys.path.insert(0, str(Path(__file__).parent / "tests"))


@pytest.fixture(autouse=True)
def examples(
    request: pytest.FixtureRequest, doctest_namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the docstrings of streamser.stream only: `recognizer`, `spoken_pcm` at 48 kHz, and the file spoken.wav."""
    if not (isinstance(request.node, pytest.DoctestItem) and request.node.name.startswith("streamser.stream.")):
        return
    if "recognizer" not in doctest_namespace:
        import numpy as np
        import soundfile
        from makers import babble, make_bundle, silence

        from streamser.audio import resample
        from streamser.recognizer import load

        folder = request.getfixturevalue("tmp_path_factory").mktemp("examples")
        audio = np.concatenate([silence(0.5), babble(1.5), silence(0.8)])
        soundfile.write(folder / "spoken.wav", audio, 16_000)
        doctest_namespace["folder"] = folder
        doctest_namespace["recognizer"] = load(make_bundle(folder / "tiny").path, "cpu")
        doctest_namespace["spoken_pcm"] = np.array_split(resample(audio, 16_000, 48_000), 50)
    monkeypatch.chdir(doctest_namespace["folder"])
