"""A profile holds what neutral speech taught, belongs to one checkpoint, and changes what it must and nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import babble, make_bundle, noise, silence

from streamser.audio import SAMPLE_RATE, AudioBlock
from streamser.bundle import Calibration, load_bundle
from streamser.cli import main
from streamser.cli.calibrate import collect, segmenter_for
from streamser.config import Config
from streamser.errors import AudioError, ConfigError
from streamser.profile import (
    LEAST_SPEECH_S,
    LOGIT_STRENGTH,
    Profile,
    adapt,
    enrol,
    find_profiles,
    load_profile,
    profile_folder,
    profile_path,
)
from streamser.recognizer import Recognizer, load
from streamser.stream.sources import TimedBlock

VOICE = [babble(2.0, seed=seed, level=0.1) for seed in range(10)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's settings folder of the test's own."""
    for name in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return profile_folder()


def test_a_profile_comes_back_as_it_was_saved(recognizer: Recognizer, tmp_path: Path) -> None:
    made = enrol(recognizer, VOICE, "anna")
    place = made.save(tmp_path / "deep" / "anna.json")
    assert Profile.load(place) == made
    assert made.speech_s == 20.0
    assert len(made.logits_mean) == len(recognizer.labels)
    assert made.embedding_mean == pytest.approx(recognizer.embed(VOICE).mean(axis=0), abs=1e-4)
    assert 0 < made.embedding_spread < np.ptp(recognizer.embed(VOICE), axis=0).sum()


def test_it_holds_no_more_than_averages(recognizer: Recognizer, tmp_path: Path) -> None:
    place = enrol(recognizer, VOICE).save(tmp_path / "me.json")
    assert place.stat().st_size < 5_000


def test_the_answers_to_the_enrolled_voice_move_to_those_to_average_neutral_speech(recognizer: Recognizer) -> None:
    whole = enrol(recognizer, VOICE).adaptation(recognizer.bundle, 1 / LOGIT_STRENGTH)
    adapted = recognizer.with_adaptation(replace(whole, anchor=None))
    assert recognizer.bundle.neutral is not None
    assert adapted.logits(VOICE).mean(axis=0) == pytest.approx(recognizer.bundle.neutral.logits_mean, abs=1e-3)
    assert np.abs(recognizer.logits(VOICE).mean(axis=0) - recognizer.bundle.neutral.logits_mean).max() > 0.1
    neutral = recognizer.labels.index("neutral")
    strangers = [noise(2.0, seed=seed) for seed in range(3)]
    anchored = recognizer.with_adaptation(whole)
    raised = [(anchored.logits(sounds) - adapted.logits(sounds))[:, neutral].mean() for sounds in (VOICE, strangers)]
    assert raised[0] > raised[1] + 0.1  # neutral is the likelier where the voice is as it was


def test_strength_nought_changes_nothing_and_half_changes_half(recognizer: Recognizer) -> None:
    made = enrol(recognizer, VOICE)
    whole, half, none = (made.adaptation(recognizer.bundle, strength) for strength in (1.0, 0.5, 0.0))
    assert not none.logit_bias.any()
    assert half.logit_bias == pytest.approx(whole.logit_bias / 2)
    assert np.abs(whole.logit_bias).max() > 0.1
    with pytest.raises(ValueError, match="strength: within 0"):
        made.adaptation(recognizer.bundle, 5)


def test_enrolling_with_an_adapted_recognizer_learns_the_voice_and_not_the_adaptation(recognizer: Recognizer) -> None:
    made = enrol(recognizer, VOICE)
    assert enrol(recognizer.with_adaptation(made.adaptation(recognizer.bundle)), VOICE) == made


def test_a_profile_of_another_checkpoint_is_refused_with_the_way_out(recognizer: Recognizer, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", seed=7)
    with pytest.raises(ConfigError, match=r"made for tiny .* not for other .*streamser calibrate.*--model other"):
        enrol(recognizer, VOICE).adaptation(other)


def test_a_new_calibration_or_card_keeps_the_profile_valid(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    made = enrol(load(bundle.path, "cpu"), VOICE)
    again = make_bundle(tmp_path / "tiny", calibration=Calibration(2.0, threshold=0.6), card="another card")
    assert made.adaptation(load_bundle(again.path)).logit_bias.shape == (4,)


def test_a_checkpoint_without_neutral_says_so_before_anybody_speaks_in_vain(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mute", neutral=None)
    with pytest.raises(ConfigError, match="does not say how neutral speech sounds"):
        enrol(load(bundle.path, "cpu"), VOICE)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: "{", "cannot be read as a profile"),
        (lambda text: "[1]", "is no streamser profile"),
        (lambda text: '{"a": 1}', "is no streamser profile"),
        (lambda text: text.replace('"me"', '"you"'), "was altered"),
        (lambda text: text.replace('"streamser_profile": 2', '"streamser_profile": 9'), "has the format 9, this is 2"),
    ],
)
def test_a_profile_that_is_not_what_was_saved_is_refused(
    spoil: object, said: str, recognizer: Recognizer, tmp_path: Path
) -> None:
    place = enrol(recognizer, VOICE).save(tmp_path / "me.json")
    place.write_text(spoil(place.read_text(encoding="utf-8")), encoding="utf-8")  # type: ignore[operator]
    with pytest.raises(ConfigError, match=said):
        Profile.load(place)


def test_a_missing_profile_names_those_there_are(home: Path, recognizer: Recognizer) -> None:
    enrol(recognizer, VOICE, "anna").save(profile_path("anna"))
    assert find_profiles() == ["anna"]
    assert load_profile("anna").name == "anna"
    with pytest.raises(ConfigError, match=r"bert\.json: no such profile; there are: anna"):
        load_profile("bert")


def test_a_bare_name_is_in_the_settings_and_anything_else_is_a_path(home: Path) -> None:
    assert profile_path("anna") == home / "anna.json"
    assert profile_path("./anna.json") == Path("anna.json")
    assert profile_path(Path("anna")) == Path("anna")


@pytest.mark.parametrize(
    ("sounds", "said"),
    [
        ([], "only 0.0 s of speech"),
        ([babble(3.0)], "only 3.0 s of speech; a voice needs 15 s"),
        ([np.clip(20 * babble(20.0), -1, 1)], "the recording is clipped"),
        ([1e-4 * babble(20.0)], "too quiet"),
    ],
)
def test_speech_that_no_voice_can_be_learnt_from_is_refused(
    sounds: list[np.ndarray], said: str, recognizer: Recognizer
) -> None:
    with pytest.raises(AudioError, match=said):
        enrol(recognizer, sounds)


# ---- the verb


class Microphone(list[np.ndarray]):
    """A live source of 20 ms blocks that notes how much was taken of it."""

    live, description, state, overflows = True, "a list", "open", 0
    taken = 0

    def __iter__(self) -> Iterator[TimedBlock]:  # type: ignore[override]
        for i in range(0, len(self[0]), 320):
            self.taken = i
            yield TimedBlock(AudioBlock(self[0][i : i + 320], i), 0.0)

    def close(self) -> None:
        pass


def test_the_microphone_is_closed_once_there_is_enough_speech(recognizer: Recognizer) -> None:
    source = Microphone([np.concatenate([part for i in range(30) for part in (babble(2.0, seed=i), silence(0.8))])])
    sounds, arrived_s = collect(source, segmenter_for(recognizer, Config()), 10.0)
    assert 10.0 <= sum(map(len, sounds)) / SAMPLE_RATE < 13.0
    assert arrived_s < 20.0


def test_a_microphone_that_hears_nobody_is_not_listened_to_for_ever(recognizer: Recognizer) -> None:
    room = noise(60.0, level=0.0005)
    sounds, arrived_s = collect(Microphone([room]), segmenter_for(recognizer, Config()), 5.0)
    assert sounds == [] and arrived_s == pytest.approx(15.0, abs=0.1)


def test_a_terminal_shows_the_level_and_the_speech_so_far(recognizer: Recognizer) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    collect(Microphone([babble(6.0)]), segmenter_for(recognizer, Config()), 5.0, terminal)
    assert "level [####" in terminal.getvalue()
    assert "of 5 s" in terminal.getvalue()


def recording(path: Path, speech_s: float = 25.0) -> Path:
    parts = [silence(1.0)]
    for i in range(round(speech_s / 2.5)):
        parts += [babble(2.5, seed=i), silence(0.8)]
    sound = np.concatenate(parts)
    soundfile.write(path, sound + noise(len(sound) / SAMPLE_RATE, 0.0005)[: len(sound)], SAMPLE_RATE)
    return path


def test_calibrate_makes_a_profile_from_a_recording(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    words = ["calibrate", str(recording(tmp_path / "me.wav")), "--model", str(bundle.path), "--compute", "cpu"]
    assert main([*words, "--name", "anna", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert 20 < said["speech_s"] < 35 and said["arrived_s"] == pytest.approx(34.0, abs=0.1)
    assert sum(said["before"].values()) == pytest.approx(1.0, abs=0.01)
    assert said["before"] != said["after"]
    assert Path(said["path"]) == home / "anna.json"
    recognizer = load(bundle.path, "cpu")
    assert adapt(recognizer, "anna").adaptation is not None
    assert main(["calibrate", "--list"]) == 0
    assert "anna  for tiny" in capsys.readouterr().out


def test_calibrate_says_in_words_what_it_learnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    out = tmp_path / "p.json"
    words = ["calibrate", str(recording(tmp_path / "me.wav")), "--model", str(bundle.path), "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "s of speech found in 34.0 s" in said
    assert "Your neutral voice was taken for:" in said
    assert f"--profile {out}" in said


@pytest.mark.parametrize(("speech_s", "said"), [(5.0, "of speech; a voice needs 15 s"), (0.0, "only 0.0 s of speech")])
def test_calibrate_refuses_too_little_speech_and_writes_nothing(
    speech_s: float, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    out = tmp_path / "p.json"
    words = ["calibrate", str(recording(tmp_path / "me.wav", speech_s)), "--model", str(bundle.path), "--out", str(out)]
    assert main(words) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_calibrate_refuses_fewer_seconds_than_a_voice_needs_before_it_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--seconds", "12", "--out", str(tmp_path / "p.json"), "--device", "no such thing"]) == 1
    said = capsys.readouterr()
    assert said.err == "streamser: --seconds: is at least 15, the least speech a voice is learnt from, not 12\n"


def test_the_least_seconds_are_enough_speech_when_the_microphone_is_closed(recognizer: Recognizer) -> None:
    for spoken_s in (14.2, 14.5, 14.8):  # the wanted seconds are reached in the silence that ends the last utterance
        parts = [babble(7.0, seed=1), silence(0.9), babble(spoken_s - 7.0, seed=2), silence(0.9), babble(4.0, seed=3)]
        source = Microphone([np.concatenate(parts)])
        sounds, _ = collect(source, segmenter_for(recognizer, Config()), LEAST_SPEECH_S, io.StringIO())
        assert sum(map(len, sounds)) / SAMPLE_RATE >= LEAST_SPEECH_S


def test_calibrate_keeps_a_profile_that_is_there_unless_told_to_overwrite_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    voice = recording(tmp_path / "me.wav")
    words = ["calibrate", str(voice), "--model", str(bundle.path), "--compute", "cpu", "--json"]
    assert main(words) == 0
    before = (home / "me.json").read_bytes()
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "me.json: exists" in said and "--overwrite" in said and "--name" in said
    recording(voice, 20.0)
    assert main(words) == 1
    assert (home / "me.json").read_bytes() == before
    assert main([*words, "--overwrite"]) == 0
    assert (home / "me.json").read_bytes() != before


def test_a_microphone_without_any_sound_is_named_while_it_lasts_and_at_the_end(recognizer: Recognizer) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with pytest.raises(AudioError, match=r"a list gave no sound at all.*muted.*streamser devices --test"):
        collect(Microphone([silence(60.0)]), segmenter_for(recognizer, Config()), 5.0, terminal)
    assert "NO SOUND" in terminal.getvalue()
    quiet = Terminal()
    collect(Microphone([noise(60.0, level=0.0005)]), segmenter_for(recognizer, Config()), 5.0, quiet)
    assert "NO SOUND" not in quiet.getvalue()
