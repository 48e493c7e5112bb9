"""`streamser evaluate`: measure a checkpoint on corpora that the tests make, with a `Recognizer`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import LABELS, babble, make_bundle, noise, tone

from streamser.bundle import Bundle
from streamser.cli import main
from streamser.corpora.clips import Clip
from streamser.corpora.reader import map_labels, read_corpus
from streamser.errors import CorpusError, MissingExtraError
from streamser.evaluation.degrade import DEGRADATIONS
from streamser.evaluation.evaluate import EvaluationConfig, evaluate, label_mapping, predict_clips, sample_clips
from streamser.evaluation.independence import training_noises, unseen_clips
from streamser.evaluation.report import markdown
from streamser.recognizer import Recognizer, load

EMOTIONS = (*LABELS, "disgust")


def make_corpus(folder: Path, speakers: int = 3, clips: int = 2, seed: int = 0) -> Path:
    """Make clips of 0.5 s for every emotion and speaker; each emotion has its own pitch, so that predictions differ."""
    (folder / "audio").mkdir(parents=True)
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "speaker", "emotion"])
        for s in range(speakers):
            for k, emotion in enumerate(EMOTIONS):
                for i in range(clips):
                    name = f"audio/s{s}_{emotion}_{i}.wav"
                    audio = tone(200 * 2**k, 0.5, 0.02 * 3 ** (s + 1)) + noise(0.5, 0.003, seed + 100 * s + 10 * k + i)
                    soundfile.write(folder / name, audio, 16_000)
                    rows.writerow([name, f"s{s}", emotion])
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("corpora")
    return [make_corpus(root / "one", seed=1), make_corpus(root / "two", speakers=2, seed=2)]


@pytest.fixture(scope="module")
def clips(corpora: list[Path]) -> list[Clip]:
    found = [clip for folder in corpora for clip in read_corpus(folder)[0]]
    return map_labels(found, label_mapping(LABELS))[0]


def trained_on(folder: Path, **provenance: list[str]) -> Bundle:
    return make_bundle(folder / "tiny", provenance=provenance)


def quick(**changes: object) -> EvaluationConfig:
    return EvaluationConfig(**{"degrade": (), "embed": False, **changes})  # type: ignore[arg-type]


def test_evaluation_gives_the_predictions_of_the_recognizer(recognizer: Recognizer, clips: list[Clip]) -> None:
    predictions = predict_clips(recognizer, clips)
    audio, _ = soundfile.read(clips[3].path, dtype="float32")
    alone = recognizer.predict(audio)
    assert predictions.probabilities[3] == pytest.approx(list(alone.scores.values()), abs=1e-5)
    assert predictions.uncertain[3] == alone.uncertain
    assert len(set(predictions.predicted.tolist())) > 1  # otherwise the tests below would compare nothing


def test_an_unreadable_clip_is_reported_and_left_out(recognizer: Recognizer, clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFFnothing")
    broken = Clip(tmp_path / "broken.wav", "one", "one/s0", "sad")
    predictions = predict_clips(recognizer, [broken, clips[0]])
    assert [problem.kind for problem in predictions.problems] == ["unreadable file"]
    assert predictions.clips == (clips[0],)


def test_figures_are_computed_over_all_clips_and_for_each_corpus(recognizer: Recognizer, clips: list[Clip]) -> None:
    result = evaluate(recognizer, clips, quick())
    assert {one.name: one.clips for one in result.corpora} == {"one": 24, "two": 16}
    assert result.whole.matrix.sum() == 40
    assert sum(np.array(one.confusion) for one in result.corpora).tolist() == result.whole.matrix.tolist()
    right = [
        recognizer.labels[i] == clip.label
        for i, clip in zip(result.predictions.predicted, result.predictions.clips, strict=True)
    ]
    assert result.whole.wa.value == pytest.approx(np.mean(right))
    assert result.mean_ua == pytest.approx(np.mean([one.ua.value for one in result.corpora]))
    assert [row.speaker for row in result.speakers] == ["one/s0", "one/s1", "one/s2", "two/s0", "two/s1"]
    assert sum(result.whole.predicted_shares.values()) == pytest.approx(1.0)


def test_training_and_validation_speakers_are_left_out_of_the_figures(tmp_path: Path, clips: list[Clip]) -> None:
    bundle = trained_on(tmp_path, train_speakers=["one/s0"], validation_speakers=["two/s1"])
    result = evaluate(load(bundle.path, "cpu"), clips, quick(seen=True))
    assert {row.speaker for row in result.speakers} == {"one/s1", "one/s2", "two/s0"}
    assert result.independence.kind == "independent"
    assert dict(result.independence.excluded) == {"train": 8, "validation": 8}
    assert result.seen is not None and result.seen.clips == 8


def test_if_all_speakers_were_trained_on_the_figures_are_not_called_independent(
    tmp_path: Path, clips: list[Clip]
) -> None:
    everybody = sorted({clip.speaker for clip in clips})
    kept, independence = unseen_clips(trained_on(tmp_path, train_speakers=everybody), clips)
    assert independence.kind == "seen"
    assert "SPEAKERS SEEN IN TRAINING" in independence.text
    assert len(kept) == len(clips)


def test_figures_of_a_checkpoint_without_training_speakers_are_not_called_independent(
    bundle: Bundle, clips: list[Clip]
) -> None:
    _, independence = unseen_clips(bundle, clips)
    assert independence.kind == "unknown"
    assert "does not name its training speakers" in independence.text


def test_speakers_with_the_names_of_training_speakers_of_another_corpus_are_not_called_independent(
    tmp_path: Path, clips: list[Clip]
) -> None:
    bundle = trained_on(tmp_path, train_speakers=["first/s0", "first/s1"], validation_speakers=["first/s2"])
    _, independence = unseen_clips(bundle, clips)
    assert independence.kind == "unknown"
    assert "one (here) and first (in training)" in independence.text


def test_excited_counts_as_happy_unless_the_model_has_the_label() -> None:
    assert label_mapping(LABELS)["excited"] == "happy"
    assert label_mapping((*LABELS, "excited"))["excited"] == "excited"
    assert label_mapping(LABELS, {"calm": "neutral"})["calm"] == "neutral"
    with pytest.raises(CorpusError, match="the model has no label 'calm'"):
        label_mapping(LABELS, {"neutral": "calm"})


def test_a_sample_of_clips_is_drawn_evenly_over_labels_and_speakers(clips: list[Clip]) -> None:
    few = sample_clips(clips, 12)
    assert len(few) == 24
    assert {(clip.corpus, clip.speaker, clip.label) for clip in few if clip.corpus == "one"} == {
        ("one", f"one/s{s}", label) for s in range(3) for label in LABELS
    }
    assert sample_clips(clips, 0) == clips


def test_degraded_clips_are_compared_with_the_same_clips_without_degradation(
    recognizer: Recognizer, clips: list[Clip]
) -> None:
    result = evaluate(recognizer, clips, quick(degrade=("gain-20", "noise-0"), degrade_clips=8))
    assert [row.title for row in result.degraded] == [DEGRADATIONS[name].title for name in ("noise-0", "gain-20")]
    for row in result.degraded:
        assert row.measured.clips == 16
        assert row.lost_points == pytest.approx(100 * (row.clean_ua - row.measured.ua.value))
    assert min(row.unchanged for row in result.degraded) < 1


def test_an_unknown_degradation_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown nois-0; known are noise-20"):
        EvaluationConfig(degrade=("nois-0",))


def test_predictions_for_noise_are_reported_by_kind_of_noise(
    recognizer: Recognizer, clips: list[Clip], tmp_path: Path
) -> None:
    recordings = []
    for kind in ("rain", "dog"):
        path = tmp_path / f"{kind}.wav"
        soundfile.write(path, noise(0.5) if kind == "rain" else np.zeros(8000, np.float32), 16_000)
        recordings.append(Clip(path, "noises", "", "", text_id=kind))
    result = evaluate(recognizer, clips, quick(), noise=recordings)
    rows = {row.kind: row for row in result.noise}
    assert set(rows) == {"rain", "dog", "all"}
    assert rows["dog"].abstained == 1.0  # digital silence is always uncertain
    assert rows["all"].clips == 2


def speech_of(folder: Path, corpus: str, count: int) -> list[Clip]:
    """Clips without a label, of one speaker each; the first is digital silence, which is always uncertain."""
    found = []
    for number in range(count):
        path = folder / f"{corpus}{number}.wav"
        soundfile.write(path, babble(0.5, seed=number) if number else np.zeros(8000, np.float32), 16_000)
        found.append(Clip(path, corpus, f"{corpus}/{number}", ""))
    return found


def test_plain_speech_is_reported_by_source_without_speakers_seen_in_training(
    clips: list[Clip], tmp_path: Path
) -> None:
    bundle = trained_on(tmp_path, train_speakers=["talks/1", "news/0", "news/1"])
    recognizer = load(bundle.path, "cpu")
    talks, news = speech_of(tmp_path, "talks", 5), speech_of(tmp_path, "news", 2)
    result = evaluate(recognizer, clips, quick(), plain_speech=[*talks, *news])
    rows = {row.source: row for row in result.plain}
    assert {name: (row.clips, row.seen) for name, row in rows.items()} == {"talks": (4, False), "news": (2, True)}
    alone = [recognizer.predict(soundfile.read(clip.path, dtype="float32")[0]) for clip in (talks[0], *talks[2:])]
    neutral = [one.label == "neutral" for one in alone if not one.uncertain]
    assert rows["talks"].uncertain == (4 - len(neutral)) / 4 >= 0.25
    assert rows["talks"].neutral == sum(neutral) / 4
    assert rows["talks"].emotional == (len(neutral) - sum(neutral)) / 4
    assert rows["talks"].emotional + rows["talks"].neutral > 0, "the shares would be 0 for any predictions"
    text = markdown(result)
    assert "## Plain speech" in text and "news (**seen in training**)" in text and "| mean |" in text
    assert [row["source"] for row in result.to_dict()["plain_speech"]] == ["news", "talks"]


def test_plain_speech_needs_a_checkpoint_with_the_label_neutral(clips: list[Clip], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny", labels=("angry", "sad"))
    some = [clip for clip in clips if clip.label in bundle.labels]
    with pytest.raises(CorpusError, match="has no label 'neutral'; leave --plain out"):
        evaluate(load(bundle.path, "cpu"), some, quick(), plain_speech=speech_of(tmp_path, "talks", 1))


def test_the_option_plain_reads_clips_without_regard_to_their_labels(
    corpora: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained_on(tmp_path).path), str(corpora[0]), "--plain", str(corpora[1])]
    assert main([*words, "--degrade", "none", "--quick", "--json", "--out", str(tmp_path / "report")]) == 0
    (row,) = json.loads(capsys.readouterr().out)["plain_speech"]
    assert (row["source"], row["clips"]) == ("two", 2 * 2 * len(EMOTIONS))


def test_noise_that_was_used_in_training_is_marked(tmp_path: Path, clips: list[Clip]) -> None:
    path = tmp_path / "rain.wav"
    soundfile.write(path, noise(0.5), 16_000)
    recordings = [Clip(path, "noises", "", "", text_id="rain")]
    recipe = {"augment": {"noise_folders": ["noises"]}, "outliers": {"folder": "CORPORA/honks"}}
    bundle = make_bundle(tmp_path / "tiny", provenance={"recipe": recipe})
    assert training_noises(bundle) == {"noises", "honks"}
    result = evaluate(load(bundle.path, "cpu"), clips, quick(), noise=recordings)
    assert result.noise_seen == ("noises",)
    assert "noises was mixed into the training" in markdown(result)


def test_evaluate_writes_a_report_with_pictures_and_prints_whether_speakers_are_independent(
    corpora: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = trained_on(tmp_path, train_speakers=["one/s0"], validation_speakers=["two/s1"])
    out = tmp_path / "report"
    words = [
        "evaluate",
        str(bundle.path),
        *map(str, corpora),
        "--out",
        str(out),
        "--degrade",
        "gain-20",
        "--compute",
        "cpu",
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "Speaker-independent: none of these 3 speakers" in printed
    report = (out / "report.md").read_text(encoding="utf-8")
    for title in ("## Confusion", "## Confidence", "## Degraded copies", "## Embedding", "## Speakers", "disgust 10"):
        assert title in report
    for picture in ("confusion", "reliability", "risk_coverage", "degraded", "embedding"):
        assert f"({picture}.png)" in report
        assert (out / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert numbers["speaker_independent"] is True
    assert numbers["dropped_labels"] == {"disgust": 10}


def test_evaluate_with_json_prints_the_report_that_it_writes(
    corpora: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = trained_on(tmp_path)
    words = [
        "evaluate",
        str(bundle.path),
        str(corpora[0]),
        "--out",
        str(tmp_path / "r"),
        "--quick",
        "--degrade",
        "none",
    ]
    assert main([*words, "--json", "--map", "disgust=angry"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "r" / "report.json").read_text(encoding="utf-8"))
    assert printed["whole"]["clips"] == 30
    assert printed["speaker_independent"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate"], "give a model and at least one corpus"),
        (["evaluate", "{model}", "{corpus}", "--map", "calm"], "--map must be LABEL=MODEL_LABEL"),
        (["evaluate", "{model}", "{corpus}", "--degrade", "fog"], "degrade: unknown fog"),
        (["evaluate", "{model}", "{nowhere}"], "no such corpus folder"),
    ],
)
def test_a_wrong_call_of_evaluate_is_an_error_with_an_explanation(
    words: list[str],
    message: str,
    bundle: Bundle,
    corpora: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"model": bundle.path, "corpus": corpora[0], "nowhere": tmp_path / "nowhere"}
    assert main([word.format(**places) for word in words]) == 1
    assert message in capsys.readouterr().err


def test_a_corpus_without_any_label_of_the_model_is_an_error(
    corpora: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "others", ("calm", "pain"))
    assert main(["evaluate", str(bundle.path), str(corpora[0])]) == 1
    printed = capsys.readouterr().err
    assert "no clip has a label of 'others' (calm, pain)" in printed and "--map" in printed


def test_a_constant_dimension_of_the_embeddings_does_not_stop_the_map(recognizer: Recognizer, tmp_path: Path) -> None:
    """A constant dimension has a deviation of 0, by which t-SNE must not divide."""
    recordings = []
    for i in range(12):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, babble(0.4, seed=i % 3), 16_000)
        recordings.append(Clip(path, "x", f"x/{i % 3}", LABELS[i % 4]))
    result = evaluate(recognizer, recordings, quick(embed=True))
    assert result.embedding is not None
    assert result.embedding.points.shape == (12, 2) and np.isfinite(result.embedding.points).all()


@pytest.mark.parametrize(("missing", "extra"), [("matplotlib", "plot"), ("sklearn", "torch")])
def test_without_a_library_for_pictures_the_report_is_written_without_them_and_the_library_is_named(
    missing: str,
    extra: str,
    corpora: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    bundle, out = trained_on(tmp_path), tmp_path / "report"
    words = ["evaluate", str(bundle.path), *map(str, corpora), "--out", str(out), "--degrade", "gain-20"]
    assert main(words) == 0
    printed = capsys.readouterr().err
    assert printed.startswith("streamser: ") and printed.count("\n") == 1
    assert missing in printed and f"pip install 'streamser[{extra}]'" in printed
    report = (out / "report.md").read_text(encoding="utf-8")
    shown = [path.name for path in out.glob("*.png")]
    assert "embedding.png" not in report and ("confusion.png" in report) is (missing == "sklearn")
    assert all(f"({name})" in report for name in shown)
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["whole"]["clips"] == 40


def test_without_scikit_learn_a_map_of_embeddings_is_refused_before_anything_is_scored(
    recognizer: Recognizer, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    scored: list[int] = []
    with pytest.raises(MissingExtraError, match=r"streamser\[torch\]"):
        evaluate(recognizer, clips, EvaluationConfig(degrade=()), progress=lambda what, done, of: scored.append(done))
    assert not scored
