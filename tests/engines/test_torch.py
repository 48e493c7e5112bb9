"""The torch engine gives the scores of the ONNX engine, from frames and from audio, on the CPU and CUDA."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from makers import babble, make_bundle, make_features, noise, silence, tone  # noqa: E402
from netmakers import make_net, make_net_bundle  # noqa: E402

from streamser.audio import SAMPLE_RATE  # noqa: E402
from streamser.bundle import Bundle  # noqa: E402
from streamser.engines import FallbackEngine, open_engine, run_audio  # noqa: E402
from streamser.engines.onnx import OnnxEngine  # noqa: E402
from streamser.engines.torch import TorchEngine  # noqa: E402
from streamser.errors import AudioError, BundleError, EngineError  # noqa: E402
from streamser.features import extract  # noqa: E402
from streamser.nets import zoo  # noqa: E402
from streamser.recognizer import load  # noqa: E402

HOUSE = zoo.get("lightsernet").features
CENTRED = replace(HOUSE, sample_rate=22_050, center=True, window_samples=800, hop_samples=300, mel_max_hz=8_000.0)
FRONT_ENDS = {
    "tile": HOUSE,
    "zero": replace(HOUSE, short="zero", length_s=2.0, stride_s=0.7),
    "centred, another rate": replace(CENTRED, short="zero", long="windows"),
    "centred, tile": replace(CENTRED, sample_rate=SAMPLE_RATE, length_s=1.3),
    "narrow window, keep, middle": replace(HOUSE, window_samples=640, hop_samples=160, short="keep", long="middle"),
    "head": replace(HOUSE, long="head", length_s=1.0),
}
RECORDINGS = [
    babble(4.21, seed=1),
    tone(300.0, 0.83),
    noise(1.0, seed=3),
    babble(9.0, seed=2, level=0.02),
    np.concatenate([silence(1.5), babble(0.7), silence(1.2)]),
    tone(4_000.0, 3.0),
    silence(2.0),
]


@pytest.fixture(scope="module")
def net_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_net_bundle(tmp_path_factory.mktemp("net") / "light", "lightsernet")


@pytest.fixture(scope="module")
def engine(net_bundle: Bundle) -> TorchEngine:
    return TorchEngine(net_bundle, "cpu")


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_features_and_network_in_torch_give_the_same_logits_as_numpy_and_onnx(tmp_path: Path, front_end: str) -> None:
    bundle = make_net_bundle(tmp_path / "net", "lightsernet", FRONT_ENDS[front_end])
    expected = run_audio(OnnxEngine(bundle), RECORDINGS, bundle.features)
    found = TorchEngine(bundle, "cpu").run_audio(RECORDINGS)
    for wanted, got in zip(expected, found, strict=True):
        np.testing.assert_allclose(got.logits, wanted.logits, atol=1e-4)
        np.testing.assert_allclose(got.embedding, wanted.embedding, atol=1e-4, rtol=1e-4)
        assert got.audible == wanted.audible
    assert [score.audible for score in found] == [True] * 4 + [FRONT_ENDS[front_end].long != "head", True, False]
    means = np.stack([score.logits.mean(axis=0) for score in found])
    assert means.std(axis=0).min() > 0.5  # the recordings' scores differ by far more than the tolerance


@pytest.mark.parametrize("variant", ["lightsernet", "sepconv"])
def test_frames_give_the_same_logits_in_both_engines(tmp_path: Path, variant: str) -> None:
    bundle = make_net_bundle(tmp_path / "net", variant)
    frames = np.stack(
        [extract(audio[:40_000], bundle.features) for audio in (RECORDINGS[0], RECORDINGS[3], noise(2.5))]
    )
    wanted, got = OnnxEngine(bundle).run(frames), TorchEngine(bundle, "cpu").run(frames)
    np.testing.assert_allclose(got[0], wanted[0], atol=1e-4)
    np.testing.assert_allclose(got[1], wanted[1], atol=1e-4, rtol=1e-4)
    assert wanted[0].std(axis=0).min() > 0.1
    other = OnnxEngine(make_net_bundle(tmp_path / "other", variant, seed=1)).run(frames)
    assert np.abs(other[0] - wanted[0]).max() > 0.1  # the control: another network's logits differ


def test_a_recognizer_gives_the_same_predictions_with_both_engines(net_bundle: Bundle) -> None:
    on_torch, on_onnx = load(net_bundle.path, "cpu", engine="torch"), load(net_bundle.path, "cpu")
    assert (on_torch.metrics()["engine"], on_onnx.metrics()["engine"]) == ("torch", "onnx")
    for got, wanted in zip(on_torch.predict(RECORDINGS), on_onnx.predict(RECORDINGS), strict=True):
        assert (got.label, got.uncertain, got.windows) == (wanted.label, wanted.uncertain, wanted.windows)
        np.testing.assert_allclose(list(got.scores.values()), list(wanted.scores.values()), atol=1e-4)
    np.testing.assert_allclose(on_torch.embed(RECORDINGS), on_onnx.embed(RECORDINGS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch", [2, 8])
def test_filling_batches_up_to_a_power_of_two_does_not_change_the_logits(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    alone = engine.run_audio(RECORDINGS)
    frames = np.stack([extract(audio, HOUSE)[:100] for audio in (RECORDINGS[0], RECORDINGS[3], RECORDINGS[5])])
    logits, embedding = engine.run(frames)
    sizes: list[int] = []
    forward = engine._net.forward
    monkeypatch.setattr(engine._net, "forward", lambda x: (sizes.append(len(x)), forward(x))[1])
    monkeypatch.setattr(engine, "_max_batch", batch)
    for one, among in zip(alone, engine.run_audio(RECORDINGS), strict=True):
        np.testing.assert_allclose(among.logits, one.logits, atol=1e-4)
        assert among.audible == one.audible
    np.testing.assert_allclose(engine.run(frames)[0], logits, atol=1e-4)
    np.testing.assert_allclose(engine.run(frames)[1], embedding, atol=1e-4, rtol=1e-4)
    assert set(sizes) <= {1, 2, 4, 8}
    assert max(sizes) == batch


def test_an_empty_batch_gives_empty_logits(engine: TorchEngine) -> None:
    logits, embedding = engine.run(np.zeros((0, 10, 40), np.float32))
    assert (logits.shape[0], logits.shape[1], embedding.shape[0]) == (0, 4, 0)
    assert engine.run_audio([]) == []


def test_the_torch_engine_does_not_change_global_settings_of_torch(net_bundle: Bundle) -> None:
    before = (torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic)
    TorchEngine(net_bundle).run_audio(RECORDINGS[:2])
    assert (torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == before
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_many_threads_get_the_same_logits_as_one_thread(engine: TorchEngine) -> None:
    expected = engine.run_audio(RECORDINGS[:3])
    with ThreadPoolExecutor(4) as threads:
        for predictions in threads.map(lambda _: engine.run_audio(RECORDINGS[:3]), range(8)):
            for got, wanted in zip(predictions, expected, strict=True):
                np.testing.assert_array_equal(got.logits, wanted.logits)


# Errors


@pytest.mark.parametrize("open_one", [OnnxEngine, TorchEngine])
def test_audio_that_is_too_short_for_the_network_is_an_error_with_the_reason(
    tmp_path: Path, open_one: type[OnnxEngine] | type[TorchEngine]
) -> None:
    bundle = make_net_bundle(tmp_path / "keep", "sepconv", replace(zoo.get("sepconv").features, short="keep"))
    with pytest.raises(AudioError, match=r"0\.032 s of audio \(2 frames\) is too little for keep"):
        open_one(bundle).run(np.zeros((1, 2, 64), np.float32))


def test_the_torch_engine_refuses_an_unknown_variant_but_onnx_runtime_opens_it(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "foreign", variant="lightsernett")
    with pytest.raises(BundleError, match=r"foreign: unknown variant 'lightsernett'; .*lightsernet"):
        open_engine(bundle, "torch", "cpu")
    assert open_engine(bundle, "auto", "cpu").name == "onnx"


def test_weights_of_another_network_are_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"weights\.safetensors: not the weights of variant lightsernet"):
        TorchEngine(make_bundle(tmp_path / "odd", variant="lightsernet", features=HOUSE))
    with pytest.raises(BundleError, match="variant lightsernet takes 40 bins, but features give 64"):
        TorchEngine(make_bundle(tmp_path / "odd", variant="lightsernet", features=make_features()))


def test_weights_for_another_number_of_classes_are_a_bundle_error(tmp_path: Path) -> None:
    weights = {name: value.numpy() for name, value in make_net("lightsernet", HOUSE, classes=7).state_dict().items()}
    bundle = make_bundle(tmp_path / "seven", variant="lightsernet", features=HOUSE, weights=weights)
    with pytest.raises(BundleError, match="not the weights of variant lightsernet"):
        TorchEngine(bundle)


def test_nan_weights_are_a_bundle_error(tmp_path: Path) -> None:
    weights = {name: value.numpy().copy() for name, value in make_net("lightsernet", HOUSE).state_dict().items()}
    weights["head.weight"][:] = np.nan
    bundle = make_bundle(tmp_path / "nan", variant="lightsernet", features=HOUSE, weights=weights)
    with pytest.raises(BundleError, match=r"weights\.safetensors: the network gives NaN"):
        TorchEngine(bundle)


def test_altered_weights_never_reach_torch(net_bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(net_bundle.path, tmp_path / "light")
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.safetensors: SHA-256 is"):
        TorchEngine(replace(net_bundle, path=folder))


# CUDA


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_by_name_on_a_machine_without_a_gpu_is_an_error(net_bundle: Bundle) -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(
            EngineError, match=f"compute {device}: torch sees no CUDA device.*; use compute auto or cpu"
        ):
            load(net_bundle.path, device)


def test_a_cuda_failure_during_the_work_is_an_engine_error_that_causes_a_fallback(
    net_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The real engine on the CPU, which takes the name of a CUDA device when it raises torch's exception."""
    engine = TorchEngine(net_bundle, "cpu")

    def out_of_memory(*_: object) -> None:
        monkeypatch.setattr(engine, "_device", torch.device("cuda", 0))
        engine.compute = "cuda:0"
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore text.")

    monkeypatch.setattr(engine._net, "forward", out_of_memory)
    fallback = FallbackEngine(lambda: engine, lambda: OnnxEngine(net_bundle), net_bundle.features)
    with caplog.at_level(logging.WARNING):
        predictions = [fallback.run_audio(RECORDINGS[:2]) for _ in range(3)]
    assert [record.getMessage() for record in caplog.records] == [
        "cuda:0: CUDA out of memory. Tried to allocate 2.00 GiB.; from here on the onnx engine computes on the cpu"
    ]
    expected = run_audio(OnnxEngine(net_bundle), RECORDINGS[:2], HOUSE)
    np.testing.assert_array_equal(predictions[-1][0].logits, expected[0].logits)


def test_a_failure_of_torch_on_the_cpu_is_not_converted_into_an_engine_error(
    net_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(net_bundle, "cpu")

    def broken(*_: object) -> None:
        raise RuntimeError("a fault in the network")

    monkeypatch.setattr(engine._net, "forward", broken)
    with pytest.raises(RuntimeError, match="a fault in the network"):
        engine.run_audio(RECORDINGS[:1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_gives_the_same_logits_as_the_cpu(net_bundle: Bundle) -> None:
    on_cuda = load(net_bundle.path, "cuda")
    assert on_cuda.metrics()["device"].startswith("cuda:")
    expected = run_audio(OnnxEngine(net_bundle), RECORDINGS, HOUSE)
    for got, wanted in zip(run_audio(on_cuda.engine, RECORDINGS, HOUSE), expected, strict=True):
        np.testing.assert_allclose(got.logits, wanted.logits, atol=1e-4)
        assert got.audible == wanted.audible
    assert load(net_bundle.path).metrics()["device"] == "cuda:0"
