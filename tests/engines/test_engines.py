"""Which engine is opened, and the fallback to the CPU if a device fails during the work."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import babble, make_bundle, make_onnx, make_weights, tone

from streamser import engines
from streamser.audio import Samples
from streamser.bundle import Bundle
from streamser.engines import AudioEngine, Engine, FallbackEngine, WindowScores, cuda_is_likely, open_engine
from streamser.engines.onnx import OnnxEngine
from streamser.errors import EngineError, MissingExtraError
from streamser.features import Frames
from streamser.recognizer import Recognizer, load


class Device:
    """An engine that works `good` times, and then always fails (out of memory, or `error`)."""

    name, compute = "torch", "cuda:0"

    def __init__(self, bundle: Bundle, good: int, error: Exception | None = None) -> None:
        self._cpu = OnnxEngine(bundle)
        self._good = good
        self._error = error or EngineError("cuda:0: CUDA out of memory. Tried to allocate 2.00 GiB")
        self._lock = threading.Lock()

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        with self._lock:
            self._good -= 1
            if self._good < 0:
                raise self._error
        return self._cpu.run(frames)

    def metrics(self) -> dict[str, Any]:
        return {"engine": self.name, "device": self.compute}


class AudioDevice(Device):
    """A `Device` that also computes the features."""

    def run_audio(self, recordings: Sequence[Samples], shift: Frames | None = None) -> list[WindowScores]:
        return [WindowScores(*self.run(np.zeros((1, 59, 64), np.float32)), True) for _ in recordings]


def falling(first: Callable[[], Engine], bundle: Bundle) -> FallbackEngine:
    return FallbackEngine(first, lambda: OnnxEngine(bundle), bundle.features)


def no_device() -> Engine:
    raise EngineError("device cuda: torch sees no CUDA device")


@pytest.mark.parametrize("device", [Device, AudioDevice])
def test_out_of_memory_falls_back_to_the_cpu_with_one_warning_and_a_reason_in_the_metrics(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, device: type[Device]
) -> None:
    engine = falling(lambda: device(bundle, good=1), bundle)
    recognizer = Recognizer(bundle, engine)
    recognizer.predict(tone())
    assert (engine.compute, engine.metrics()["fallback"]) == ("cuda:0", None)
    with caplog.at_level(logging.WARNING):
        predictions = [recognizer.predict([tone(), babble(2.0)]) for _ in range(5)]
    assert predictions == [load(bundle.path, "cpu").predict([tone(), babble(2.0)])] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "cuda:0: CUDA out of memory. Tried to allocate 2.00 GiB; from here on the onnx engine computes on the cpu"
    ]
    assert (engine.name, engine.compute) == ("onnx", "cpu")
    assert "out of memory" in recognizer.metrics()["fallback"]


def test_a_missing_device_falls_back_to_the_cpu_at_once(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        engine = falling(no_device, bundle)
    assert len(caplog.records) == 1
    assert "torch sees no CUDA device" in caplog.text
    assert engine.metrics()["fallback"] == "device cuda: torch sees no CUDA device"
    assert (engine.name, engine.compute) == ("onnx", "cpu")


def test_many_threads_with_the_same_failure_cause_one_warning(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    recognizer = Recognizer(bundle, falling(lambda: Device(bundle, good=20), bundle))
    expected = load(bundle.path, "cpu").predict(babble(2.0))
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(8) as threads:
        predictions = list(threads.map(lambda _: recognizer.predict(babble(2.0)), range(64)))
    assert all(prediction == expected for prediction in predictions)
    assert len(caplog.records) == 1


def test_a_stream_that_begins_during_the_fallback_does_not_get_the_step_graph_of_the_failed_engine(
    bundle: Bundle,
) -> None:
    first, second = Device(bundle, 0), Device(bundle, 1)
    first.steps, second.steps = object(), object()  # type: ignore[attr-defined]
    engine = FallbackEngine(lambda: first, lambda: second, bundle.features)
    found: list[object] = []

    class OtherStream(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # the fallback is under way when the warning is logged
            found.append(engine.steps)

    handler = OtherStream()
    logging.getLogger("streamser.engines").addHandler(handler)
    try:
        engine.run(np.zeros((1, 59, 64), np.float32))
    finally:
        logging.getLogger("streamser.engines").removeHandler(handler)
    assert found == [second.steps]  # type: ignore[attr-defined]


def test_a_failure_of_the_second_engine_is_not_hidden(bundle: Bundle) -> None:
    engine = FallbackEngine(lambda: Device(bundle, 0), lambda: Device(bundle, 0), bundle.features)
    for _ in range(2):
        with pytest.raises(EngineError, match="out of memory"):
            engine.run(np.zeros((1, 59, 64), np.float32))


def test_an_invalid_argument_does_not_cause_a_fallback(bundle: Bundle) -> None:
    engine = falling(lambda: Device(bundle, 5, ValueError("frames must have shape ...")), bundle)
    with pytest.raises(ValueError, match="frames must have shape"):
        engine.run(np.zeros((1, 64), np.float32))
    assert (engine.compute, engine.metrics()["fallback"]) == ("cuda:0", None)


def test_an_engine_that_computes_features_is_distinguished_from_one_that_does_not(bundle: Bundle) -> None:
    assert isinstance(AudioDevice(bundle, 1), AudioEngine)
    assert isinstance(falling(no_device, bundle), AudioEngine)
    assert not isinstance(OnnxEngine(bundle), AudioEngine)


# Which engine is opened


@pytest.mark.parametrize(("engine", "device"), [("auto", "cpu"), ("onnx", "cpu"), ("onnx", "auto")])
def test_onnx_runtime_is_the_engine_for_the_cpu(bundle: Bundle, engine: str, device: str) -> None:
    assert isinstance(open_engine(bundle, engine, device), OnnxEngine)


def test_auto_without_cuda_opens_onnx_runtime_and_never_imports_torch(bundle: Bundle) -> None:
    script = (
        "import sys, streamser; from streamser import engines\n"
        "engines.cuda_is_likely = lambda: False\n"
        "recognizer = streamser.load(sys.argv[1])\n"
        "print(recognizer.metrics()['engine'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(bundle.path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["onnx", "False"]


def test_auto_tries_cuda_if_it_is_likely_and_falls_back(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def open_torch(bundle: Bundle, device: str) -> Engine:
        asked.append(device)
        return no_device()

    monkeypatch.setattr(engines, "cuda_is_likely", lambda: True)
    monkeypatch.setattr(engines, "_open_torch", open_torch)
    engine = open_engine(bundle)
    assert asked == ["cuda"]
    assert engine.metrics()["engine"] == "onnx"
    assert engine.metrics()["fallback"]
    assert len(caplog.records) == 1
    assert open_engine(bundle, "onnx").metrics().get("fallback") is None
    assert asked == ["cuda"]


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_by_name_is_an_error_if_there_is_no_cuda_device(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, device: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "_open_torch", lambda bundle, device: no_device())
    with pytest.raises(EngineError, match="torch sees no CUDA device"):
        open_engine(bundle, "auto", device)
    assert not caplog.records


def test_without_torch_the_torch_engine_names_the_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = engines.importlib.util.find_spec
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    assert not cuda_is_likely()
    for engine, device in (("torch", "cpu"), ("auto", "cuda")):
        with pytest.raises(MissingExtraError, match=r"pip install 'streamser\[torch\]'"):
            open_engine(bundle, engine, device)
    assert open_engine(bundle).name == "onnx"


def test_hiding_the_gpus_makes_cuda_unlikely(monkeypatch: pytest.MonkeyPatch) -> None:
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not cuda_is_likely()


def test_the_int8_engine_uses_the_8_bit_graph_and_refuses_a_checkpoint_without_it(tmp_path: Path) -> None:
    plain = make_bundle(tmp_path / "plain")
    with pytest.raises(EngineError, match="plain has no graphs with 8-bit weights; use the engine onnx"):
        open_engine(plain, "onnx-int8")
    with pytest.raises(ValueError, match="the onnx-int8 engine computes on the cpu"):
        open_engine(plain, "onnx-int8", "cuda")
    weights = make_weights(plain.features, len(plain.labels), seed=1)  # other weights, to see which graph is used
    both = make_bundle(tmp_path / "both", int8=make_onnx(weights))
    frames = np.ones((1, both.features.window_frames, both.features.bins), np.float32)
    engine = open_engine(both, "onnx-int8")
    assert engine.name == "onnx-int8"
    alone = make_bundle(tmp_path / "alone", onnx=make_onnx(weights))
    np.testing.assert_array_equal(engine.run(frames)[0], open_engine(alone).run(frames)[0])
    assert np.abs(engine.run(frames)[0] - open_engine(both).run(frames)[0]).max() > 1e-3
