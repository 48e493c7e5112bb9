"""The `Recognizer` averages and calibrates the output of the network; the tests compute this again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import LABELS, babble, make_bundle, make_features, make_weights, noise, silence, tone

from streamser.audio import SAMPLE_RATE, Samples, Segment
from streamser.baseline import Baseline
from streamser.bundle import Bundle
from streamser.calibration import Calibration
from streamser.errors import AudioError, ConfigError, EngineError
from streamser.features import Frames, cut_window, extract, window_starts
from streamser.recognizer import Prediction, Recognizer, RecognizerConfig, load

FEATURES = make_features()
RECORDINGS = [tone(300.0), babble(3.3, seed=1), noise(0.4), babble(1.0, seed=2), tone(2_500.0, 7.25)]


def expected_logits(audio: Samples) -> Frames:
    """The logits of the tiny network for a recording, computed without the Recognizer."""
    weights = make_weights(FEATURES, len(LABELS))
    frames = extract(audio, FEATURES)
    means = [cut_window(frames, start, FEATURES).mean(axis=0) for start in window_starts(len(frames), FEATURES)]
    return np.mean([mean @ weights["weight"] + weights["bias"] for mean in means], axis=0)


def softmax(values: Frames) -> Frames:
    weights = np.exp(np.float64(values) - np.max(values))
    return weights / weights.sum()


# Predictions


@pytest.mark.parametrize("audio", RECORDINGS, ids=range(len(RECORDINGS)))
def test_a_prediction_is_computed_from_the_calibrated_mean_of_the_windows_logits(
    recognizer: Recognizer, audio: Samples
) -> None:
    logits = expected_logits(audio)
    np.testing.assert_allclose(recognizer.logits(audio), [logits], atol=1e-4)
    prediction = recognizer.predict(audio)
    np.testing.assert_allclose(list(prediction.scores.values()), softmax(logits), atol=1e-4)
    assert prediction.label == LABELS[int(np.argmax(logits))]
    assert prediction.confidence == max(prediction.scores.values())
    assert prediction.windows == len(window_starts(len(extract(audio, FEATURES)), FEATURES))


def test_different_recordings_get_different_predictions(recognizer: Recognizer) -> None:
    logits = recognizer.logits(RECORDINGS)
    assert logits.shape == (5, 4)
    assert np.abs(logits[:, None] - logits[None]).max(axis=2)[~np.eye(5, dtype=bool)].min() > 0.05
    assert len({prediction.label for prediction in recognizer.predict(RECORDINGS)}) > 1


def test_a_batch_gives_exactly_the_same_results_as_one_recording_at_a_time(recognizer: Recognizer) -> None:
    together = recognizer.predict(RECORDINGS)
    assert together == [recognizer.predict(audio) for audio in RECORDINGS]
    np.testing.assert_array_equal(
        recognizer.embed(RECORDINGS), np.concatenate([recognizer.embed(s) for s in RECORDINGS])
    )


def test_a_segment_is_scored_by_its_samples(recognizer: Recognizer) -> None:
    segment = Segment(utterance=3, start=12_345, samples=RECORDINGS[1], final=True)
    assert recognizer.predict(segment) == recognizer.predict(RECORDINGS[1])
    assert recognizer.predict([segment, RECORDINGS[0]]) == recognizer.predict([RECORDINGS[1], RECORDINGS[0]])


def test_predict_frames_gives_the_same_predictions_as_predict(recognizer: Recognizer) -> None:
    assert recognizer.predict_frames([extract(audio, FEATURES) for audio in RECORDINGS]) == recognizer.predict(
        RECORDINGS
    )


def test_the_end_of_a_long_recording_is_scored_in_an_own_window(recognizer: Recognizer) -> None:
    audio = tone(300.0, 3.3)
    changed = audio.copy()
    changed[-800:] = noise(0.05, level=0.5)
    difference = np.abs(recognizer.logits(changed) - recognizer.logits(audio)).max()
    assert difference > 1e-3
    assert recognizer.predict(changed).windows == 6  # five windows in steps of 0.5 s, and one that ends with the audio


def test_the_embedding_is_the_mean_over_the_windows(recognizer: Recognizer) -> None:
    frames = extract(RECORDINGS[1], FEATURES)
    means = [cut_window(frames, start, FEATURES).mean(axis=0) for start in window_starts(len(frames), FEATURES)]
    np.testing.assert_allclose(recognizer.embed(RECORDINGS[1]), [np.mean(means, axis=0)], atol=1e-3)


def test_empty_lists_give_empty_results(recognizer: Recognizer) -> None:
    assert recognizer.predict([]) == []
    assert recognizer.predict_frames([]) == []
    assert recognizer.logits([]).shape == (0, 4)
    assert recognizer.embed([]).shape == (0, 64)


# Calibration and abstention


def test_probabilities_follow_temperature_and_bias(tmp_path: Path) -> None:
    calibration = Calibration(temperature=2.5, bias=(0.5, -1.0, 0.0, 2.0))
    prediction = load(make_bundle(tmp_path / "warm", calibration=calibration).path, "cpu").predict(RECORDINGS[1])
    expected = softmax((expected_logits(RECORDINGS[1]) + np.array([0.5, -1.0, 0.0, 2.0])) / 2.5)
    np.testing.assert_allclose(list(prediction.scores.values()), expected, atol=1e-4)
    assert sum(prediction.scores.values()) == pytest.approx(1.0, abs=1e-12)


def test_huge_logits_give_probabilities_without_overflow(recognizer: Recognizer) -> None:
    probabilities = recognizer.calibrate(np.array([[1e6, -1e6, 0.0, 1e6]], np.float32))
    np.testing.assert_allclose(probabilities, [[0.5, 0.0, 0.0, 0.5]])


def test_below_the_threshold_a_prediction_is_uncertain_and_its_label_is_the_likeliest_class(bundle: Bundle) -> None:
    confidence = load(bundle.path, "cpu").predict(RECORDINGS[1]).confidence
    assert 0.3 < confidence < 0.95
    bold = load(bundle.path, "cpu", threshold=confidence - 0.01).predict(RECORDINGS[1])
    shy = load(bundle.path, "cpu", threshold=confidence + 0.01).predict(RECORDINGS[1])
    assert (bold.uncertain, shy.uncertain) == (False, True)
    assert (bold.label, bold.scores) == (shy.label, shy.scores)


def test_the_threshold_of_the_checkpoint_is_used_unless_another_one_is_given(bundle: Bundle) -> None:
    assert load(bundle.path, "cpu").threshold == bundle.calibration.threshold == 0.3
    assert load(bundle.path, "cpu", threshold=0.0).threshold == 0.0


@pytest.mark.parametrize("duration_s", [0.1, 1.0, 5.0])
def test_digital_silence_is_always_uncertain(bundle: Bundle, duration_s: float) -> None:
    recognizer = load(bundle.path, "cpu", threshold=0.0)
    assert recognizer.predict(silence(duration_s)).uncertain
    assert recognizer.predict(np.full(16_000, 1e-9, np.float32)).uncertain
    assert not recognizer.predict(noise(duration_s, level=1e-3)).uncertain
    frames = extract(silence(duration_s), recognizer.features)
    assert [p.uncertain for p in recognizer.predict_frames([frames, frames[:0]])] == [True, True]


def test_one_loud_frame_in_silence_is_not_uncertain(bundle: Bundle) -> None:
    audio = silence(2.0)
    audio[20_000:20_400] = 0.3
    assert not load(bundle.path, "cpu", threshold=0.0).predict(audio).uncertain


@pytest.mark.parametrize("samples", [1, 2, 500, 1_023])
def test_less_than_one_frame_of_audio_gives_an_uncertain_prediction(bundle: Bundle, samples: int) -> None:
    recognizer = load(bundle.path, "cpu", threshold=0.0)
    prediction = recognizer.predict(tone()[1 : samples + 1])
    assert (prediction.uncertain, prediction.windows) == (True, 1)
    assert np.isfinite(recognizer.embed(tone()[:samples])).all()


def test_one_frame_of_audio_is_enough_for_a_prediction(bundle: Bundle) -> None:
    assert not load(bundle.path, "cpu", threshold=0.0).predict(tone()[:1_024]).uncertain


def test_heavily_clipped_audio_is_always_uncertain_with_its_scores_unchanged(adaptive: Recognizer) -> None:
    recognizer = load(adaptive.bundle.path, "cpu", threshold=0.0)
    clipped = np.clip(100 * babble(1.5), -1.0, 1.0)
    other = recognizer.predict(babble(1.5))
    assert (other.uncertain, other.problem) == (False, "")
    assert other.embedding is not None
    baseline = Baseline(np.asarray(other.embedding, np.float64), 1.0, 1)
    for prediction in (recognizer.predict([babble(1.5), clipped])[1], recognizer.predict(clipped, baseline)):
        assert (prediction.uncertain, prediction.problem) == (True, "clipped")
    np.testing.assert_allclose(
        list(recognizer.predict(clipped).scores.values()), recognizer.calibrate(recognizer.logits(clipped))[0]
    )


def test_a_prediction_names_the_problem_of_its_audio(recognizer: Recognizer) -> None:
    short, silent = recognizer.predict(tone()[1:100]), recognizer.predict(silence())
    assert (short.problem, silent.problem) == ("too short", "no sound")
    assert recognizer.predict(np.sign(tone())).problem == "clipped"


# Errors


def test_a_recording_without_samples_is_an_error_with_its_number(recognizer: Recognizer) -> None:
    with pytest.raises(AudioError, match="audio: has no samples"):
        recognizer.predict(np.zeros(0, np.float32))
    with pytest.raises(AudioError, match="audio 1: has no samples"):
        recognizer.predict([tone(), np.zeros(0, np.float32)])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_samples_are_refused(recognizer: Recognizer, value: float) -> None:
    audio = tone()
    audio[100] = value
    for method in (recognizer.predict, recognizer.embed, recognizer.logits):
        with pytest.raises(AudioError, match="audio 1: 1 of 16000 samples are NaN or infinite"):
            method([tone(), audio])


def test_float_samples_in_the_range_of_integers_are_refused_with_a_solution(recognizer: Recognizer) -> None:
    with pytest.raises(AudioError, match=r"reaches 9830.*divide 16-bit values by 32768"):
        recognizer.predict(tone() * 32_768)


def test_integer_audio_is_scaled_by_its_type(recognizer: Recognizer) -> None:
    as_int = (tone() * 32_768).astype(np.int16)
    assert recognizer.predict(as_int) == recognizer.predict(as_int.astype(np.float64) / 32_768)


@pytest.mark.parametrize("audio", [np.zeros((100, 2), np.float32), np.float32(0.5), 0.5, None, "hello.wav"])
def test_arguments_that_are_no_audio_are_an_error(recognizer: Recognizer, audio: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        recognizer.predict(audio)
    with pytest.raises(ValueError, match="16 kHz mono samples in a one-dimensional array, or a Segment, not"):
        recognizer.predict([audio])


def test_frames_of_another_checkpoint_are_a_value_error(recognizer: Recognizer) -> None:
    with pytest.raises(ValueError, match=r"frames must have shape \(time, 64\), not \(10, 40\)"):
        recognizer.predict_frames([np.zeros((10, 40), np.float32)])


class NanEngine:
    """An engine that returns NaN logits."""

    name, compute = "onnx", "cpu"

    def run(self, frames: Frames) -> tuple[Frames, Frames]:
        return np.full((len(frames), 4), np.nan, np.float32), np.zeros((len(frames), 64), np.float32)

    def metrics(self) -> dict[str, Any]:
        return {}


def test_nan_logits_are_an_engine_error(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="tiny: the network gives NaN or infinite logits"):
        Recognizer(bundle, NanEngine()).predict(tone())


# The neutral prior


def test_the_neutral_prior_changes_only_the_odds_of_neutral(bundle: Bundle) -> None:
    plain = load(bundle.path, "cpu").predict(RECORDINGS[1]).scores
    prior = load(bundle.path, "cpu", neutral_prior=0.7).predict(RECORDINGS[1]).scores
    odds = [scores["neutral"] / (1 - scores["neutral"]) for scores in (plain, prior)]
    assert odds[1] / odds[0] == pytest.approx(0.7 / 0.3 * 3)
    assert prior["angry"] / prior["sad"] == pytest.approx(plain["angry"] / plain["sad"])


def test_a_neutral_prior_of_one_fourth_does_not_change_four_classes(bundle: Bundle) -> None:
    plain = load(bundle.path, "cpu").predict(RECORDINGS)
    same = load(bundle.path, "cpu", neutral_prior=0.25).predict(RECORDINGS)
    for left, right in zip(plain, same, strict=True):
        assert list(left.scores.values()) == pytest.approx(list(right.scores.values()), abs=1e-12)


def test_the_configured_neutral_prior_has_priority_over_that_of_the_checkpoint(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "calm", calibration=Calibration(neutral_prior=0.9)).path
    usual = load(make_bundle(tmp_path / "usual").path, "cpu").predict(RECORDINGS[1]).scores["neutral"]
    assert load(path, "cpu").predict(RECORDINGS[1]).scores["neutral"] > usual
    equal = load(path, "cpu", neutral_prior=0.25).predict(RECORDINGS[1]).scores["neutral"]
    assert equal == pytest.approx(usual)


def test_a_neutral_prior_needs_the_label_neutral(tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "others", labels=("calm", "tense")).path
    with pytest.raises(ConfigError, match=r"recognizer\.neutral_prior: the checkpoint 'others' has no label 'neutral'"):
        load(path, "cpu", neutral_prior=0.5)


# Threads, metrics and options


def test_many_threads_get_the_same_logits_as_one_thread(recognizer: Recognizer) -> None:
    expected = recognizer.predict(RECORDINGS)
    with ThreadPoolExecutor(8) as threads:
        predictions: list[list[Prediction]] = list(threads.map(lambda _: recognizer.predict(RECORDINGS), range(40)))
    assert all(prediction == expected for prediction in predictions)


def test_metrics_count_windows_and_name_the_engine(bundle: Bundle) -> None:
    recognizer = load(bundle.path, "cpu")
    windows = sum(prediction.windows for prediction in recognizer.predict(RECORDINGS))
    metrics = recognizer.metrics()
    assert (metrics["model"], metrics["engine"], metrics["device"]) == ("tiny", "onnx", "cpu")
    assert metrics["windows"] == windows
    assert metrics["compute_s"] > 0


def test_a_recognizer_has_the_values_of_its_checkpoint(recognizer: Recognizer, bundle: Bundle) -> None:
    assert (recognizer.bundle, recognizer.labels, recognizer.features) == (bundle, LABELS, FEATURES)


def test_a_checkpoint_is_loaded_by_name_from_the_folder_of_streamser_models(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSER_MODELS", str(bundle.path.parent))
    assert load("tiny").bundle == bundle


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"compute": "gpu"}, "compute: auto, cpu, cuda or cuda:N, not 'gpu'"),
        ({"compute": "cuda:"}, "compute: "),
        ({"engine": "tflite"}, "engine: auto, onnx, onnx-int8, torch, not 'tflite'"),
        ({"engine": "onnx", "compute": "cuda"}, "the onnx engine computes on the cpu"),
        ({"threads": 0}, "threads: must be 1 to 256, not 0"),
        ({"threads": 100_000}, "threads: must be 1 to 256, not 100000"),
        ({"threshold": 1.5}, r"threshold: must be 0 to 1, not 1\.5"),
        ({"neutral_prior": 1.0}, "neutral_prior: must be above 0 and below 1, or null, not 1.0"),
        ({"threshold": float("nan")}, r"threshold: must be 0 to 1, not nan"),
    ],
)
def test_an_invalid_recognizer_setting_is_refused_with_the_rule(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        RecognizerConfig(**fields)


def test_an_unknown_option_of_load_is_a_type_error(bundle: Bundle) -> None:
    with pytest.raises(TypeError, match="treshold"):
        load(bundle.path, treshold=0.5)


def test_a_long_recording_is_scored_in_bounded_memory(recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamser import engines

    audio = babble(20.0)
    whole = recognizer.predict(audio)
    batches: list[int] = []
    run = recognizer.engine.run

    class Watched:
        name, compute = "onnx", "cpu"

        def run(self, frames: Frames) -> tuple[Frames, Frames]:
            batches.append(len(frames))
            return run(frames)

        def metrics(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(engines, "_BATCH_FRAMES", 5 * FEATURES.window_frames)
    assert Recognizer(recognizer.bundle, Watched()).predict(audio) == whole
    assert max(batches) == 5
    assert sum(batches) == whole.windows
    assert len(audio) / SAMPLE_RATE == 20.0


def test_with_trimming_silence_around_a_recording_hardly_changes_the_logits(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "trims", features=make_features(trim_db=25.0))
    trims = load(bundle.path, compute="cpu")
    little, much = silence(0.4), silence(2.0)
    speech = babble(2.0, seed=5)
    alone, around = trims.logits([np.concatenate([quiet, speech, quiet]) for quiet in (little, much)])
    np.testing.assert_allclose(alone, around, atol=0.05 * float(np.abs(alone).max()))


def test_the_old_name_of_compute_works_with_a_warning(bundle: Bundle) -> None:
    with pytest.warns(DeprecationWarning, match="compute="):
        engine = load(bundle.path, device="cpu").engine
    assert engine.compute == "cpu"
    with pytest.warns(DeprecationWarning, match="engine.compute"):
        assert engine.device == "cpu"
