"""A profile is a baseline of neutral speech for one checkpoint; `streamser calibrate` makes it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import LABELS, babble, make_adaptive, make_features, make_onnx, make_weights, noise, silence

from streamser import profile
from streamser.audio import SAMPLE_RATE, AudioBlock
from streamser.bundle import Bundle, load_bundle
from streamser.calibration import Calibration
from streamser.cli import calibrate, main
from streamser.cli.calibrate import collect, segmenter_for
from streamser.config import Config
from streamser.enrolment import LEAST_SPEECH_S, enrol
from streamser.errors import AudioError, ConfigError
from streamser.profile import Profile, find_profiles, load_profile, profile_folder, profile_path
from streamser.recognizer import Recognizer, load

VOICE = [babble(2.0, seed=seed, level=0.1) for seed in range(10)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary settings folder; returns the folder of profiles in it."""
    for name in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return profile_folder()


def test_a_saved_profile_is_loaded_with_the_same_values(adaptive: Recognizer, tmp_path: Path) -> None:
    made = enrol(adaptive, VOICE, "anna")
    place = made.save(tmp_path / "deep" / "anna.json")
    assert Profile.load(place) == made
    assert (made.speech_s, made.utterances, made.weight) == (20.0, 10, 10.0)
    assert np.array(made.total) / 10 == pytest.approx(adaptive.embed(VOICE).mean(axis=0), abs=1e-4)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_only_the_owner_can_read_a_profile(adaptive: Recognizer, tmp_path: Path) -> None:
    place = tmp_path / "me.json"
    place.write_text("older")
    place.chmod(0o644)
    before = os.umask(0)
    try:
        enrol(adaptive, VOICE).save(place)
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [place]


def test_a_profile_that_cannot_be_written_is_an_error_that_names_its_path(adaptive: Recognizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"me\.json: cannot be written .* --out"):
        enrol(adaptive, VOICE).save(tmp_path / "file" / "me.json")


def test_a_profile_file_is_small(adaptive: Recognizer, tmp_path: Path) -> None:
    place = enrol(adaptive, VOICE).save(tmp_path / "me.json")
    assert place.stat().st_size < 5_000


def test_with_a_profile_the_relative_head_compares_audio_with_the_enrolled_voice(adaptive: Recognizer) -> None:
    """The scores are computed again here: 10 utterances of weight 1, shrinkage 2 and `half` 0.5."""
    known = adaptive.with_baseline(enrol(adaptive, VOICE).baseline(adaptive.bundle))
    audio = babble(2.0, seed=77)
    weights = make_weights(adaptive.features, 4)
    relative = (adaptive.embed(audio)[0] - adaptive.embed(VOICE).sum(axis=0) / 12) @ weights["weight"]
    absolute, share = list(adaptive.predict(audio).scores.values()), 10 / 10.5
    odds = np.exp(relative - relative.max())
    expected = (1 - share) * np.array(absolute) + share * odds / odds.sum()
    assert list(known.predict(audio).scores.values()) == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected - absolute).max() > 0.01


def test_enrolling_with_an_adapted_recognizer_gives_the_same_profile(adaptive: Recognizer) -> None:
    made = enrol(adaptive, VOICE)
    assert enrol(adaptive.with_baseline(made.baseline(adaptive.bundle)), VOICE) == made


def graphs_of_today() -> dict[str, bytes]:
    """Valid graphs with other bytes than those of `make_adaptive`, as after another export."""
    return {
        name: make_onnx(make_weights(make_features(), len(LABELS), seed)) for seed, name in ((1, "onnx"), (2, "int8"))
    }


def test_a_profile_stays_valid_when_graphs_are_added_or_exported_again(adaptive: Recognizer, tmp_path: Path) -> None:
    made = enrol(adaptive, VOICE)
    exported = make_adaptive(tmp_path / "tiny", **graphs_of_today())
    assert made.baseline(exported).total == pytest.approx(np.array(made.total))


def fingerprint_of_all_graphs(bundle: Bundle) -> str:
    """The fingerprint as it was before it covered the weights and the front end only."""
    files = sorted((name, digest) for name, digest in bundle.files.items() if name != "README.md")
    return hashlib.sha256(json.dumps([files, bundle.features.to_dict()], sort_keys=True).encode()).hexdigest()


def test_a_profile_with_a_fingerprint_of_all_graphs_is_valid_until_they_change(
    adaptive: Recognizer, tmp_path: Path
) -> None:
    graphs = graphs_of_today()
    old = replace(enrol(adaptive, VOICE), fingerprint=fingerprint_of_all_graphs(adaptive.bundle))
    assert old.baseline(adaptive.bundle).utterances == len(VOICE)
    with_int8 = make_adaptive(tmp_path / "with-int8", int8=graphs["int8"])
    assert old.baseline(with_int8).utterances == len(VOICE)
    newer = replace(old, fingerprint=fingerprint_of_all_graphs(with_int8))
    assert newer.baseline(with_int8).utterances == len(VOICE)
    with pytest.raises(ConfigError, match="not for exported-again"):
        old.baseline(make_adaptive(tmp_path / "exported-again", onnx=graphs["onnx"]))


def test_a_profile_of_another_checkpoint_is_refused_with_a_solution(adaptive: Recognizer, tmp_path: Path) -> None:
    other = make_adaptive(tmp_path / "other", seed=7)
    with pytest.raises(ConfigError, match=r"made for adaptive .* not for other .*streamser calibrate.*--model other"):
        enrol(adaptive, VOICE).baseline(other)
    again = make_adaptive(tmp_path / adaptive.bundle.name, seed=7)  # trained again under the same name
    solution = r"another version of adaptive \(\w{8}, now \w{8}\).*streamser calibrate --model adaptive --overwrite`"
    with pytest.raises(ConfigError, match=solution):
        enrol(adaptive, VOICE).baseline(again)


def test_a_profile_stays_valid_if_the_checkpoint_gets_a_new_calibration_or_card(tmp_path: Path) -> None:
    bundle = make_adaptive(tmp_path / "tiny")
    made = enrol(load(bundle.path, "cpu"), VOICE)
    again = make_adaptive(tmp_path / "tiny", calibration=Calibration(2.0, threshold=0.6), card="another card")
    assert made.baseline(load_bundle(again.path)).utterances == 10


def test_enrolment_needs_a_checkpoint_with_a_relative_head(recognizer: Recognizer) -> None:
    with pytest.raises(ConfigError, match=r"'tiny' has no relative head .* use another checkpoint"):
        enrol(recognizer, VOICE)


def test_a_profile_in_the_configuration_is_applied(adaptive: Recognizer, tmp_path: Path) -> None:
    place = str(enrol(adaptive, VOICE).save(tmp_path / "me.json"))
    known = load(adaptive.bundle.path, "cpu", profile=place)
    assert known.baseline is not None and known.baseline.kind == "profile"
    assert known.predict(VOICE) != adaptive.predict(VOICE)
    with pytest.raises(ConfigError, match="no such profile"):
        load(adaptive.bundle.path, "cpu", profile=str(tmp_path / "you.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total": [float("nan")] * 64}, "total must be 1 to"),
        ({"total": [1e300] * 64}, "total must be 1 to"),
        ({"total": []}, "total must be 1 to"),
        ({"total": "long"}, "total must be 1 to"),
        ({"weight": 0}, "weight must be above 0"),
        ({"weight": 1e9}, "weight must be above 0 and at most the number of utterances"),
        ({"weight": True}, "weight must be above 0"),
        ({"utterances": 0}, "utterances must be a whole number above 0"),
        ({"utterances": 2.5}, "utterances must be a whole number above 0"),
        ({"speech_s": -1}, "speech_s must be a number above 0"),
        ({"name": ""}, "name must be 1 to 200 printable characters"),
        ({"name": "a\x1b[2J"}, "name must be 1 to 200 printable characters"),
        ({"model": 7}, "model must be 1 to 200 printable characters"),
        ({"fingerprint": None}, "fingerprint must be 1 to 200 printable characters"),
        ({"more": 1}, "has invalid values .more."),
    ],
)
def test_invalid_fields_of_a_profile_are_refused_even_with_a_valid_seal(
    change: dict[str, Any], message: str, adaptive: Recognizer, tmp_path: Path
) -> None:
    place = enrol(adaptive, VOICE).save(tmp_path / "me.json")
    values = json.loads(place.read_text("utf-8"))
    del values["seal"]
    values |= change
    place.write_text(json.dumps({**values, "seal": profile._seal(values)}), "utf-8")
    with pytest.raises(ConfigError, match=rf"me\.json: {message}.*streamser calibrate --overwrite"):
        Profile.load(place)


def test_a_profile_whose_sum_has_another_length_is_refused(adaptive: Recognizer) -> None:
    short = replace(enrol(adaptive, VOICE), total=(1.0,) * 63)
    with pytest.raises(ValueError, match=r"baseline\.total must have 64 values"):
        adaptive.with_baseline(short.baseline(adaptive.bundle))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: "{", "cannot be read as a profile"),
        (lambda text: "[1]", "not a streamser profile"),
        (lambda text: '{"a": 1}', "not a streamser profile"),
        (lambda text: text.replace('"me"', '"you"'), "was altered"),
        (lambda text: text.replace('"streamser_profile": 3', '"streamser_profile": 2'), "has the format 2, older than"),
        (lambda text: text.replace('"streamser_profile": 3', '"streamser_profile": "x"'), "not a streamser profile"),
        (
            lambda text: text.replace('"streamser_profile": 3', '"streamser_profile": 4'),
            "has the format 4, newer than the format 3 of this streamser; pip install -U streamser, or run `streamser",
        ),
        (lambda text: "[" * 100_000, "cannot be read as a profile"),
        (lambda text: text + " " * (1 << 20), "is larger than any streamser profile"),
    ],
)
def test_a_damaged_profile_is_refused(spoil: object, message: str, adaptive: Recognizer, tmp_path: Path) -> None:
    place = enrol(adaptive, VOICE).save(tmp_path / "me.json")
    place.write_text(spoil(place.read_text(encoding="utf-8")), encoding="utf-8")  # type: ignore[operator]
    with pytest.raises(ConfigError, match=message):
        Profile.load(place)


def test_the_error_of_an_unusable_profile_names_the_command_that_replaces_it(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    elsewhere = tmp_path / "my voice.json"
    for place, name, option in (
        (home / "anna.json", "anna", "--name anna"),
        (elsewhere, elsewhere, f"--out '{elsewhere}'"),
    ):
        place.write_text('{"streamser_profile": 2}', encoding="utf-8")
        with pytest.raises(ConfigError, match=re.escape(f"run `streamser calibrate --overwrite {option}`")):
            load_profile(name)


def test_a_missing_profile_is_an_error_that_lists_the_known_ones(home: Path, adaptive: Recognizer) -> None:
    enrol(adaptive, VOICE, "anna").save(profile_path("anna"))
    assert find_profiles() == ["anna"]
    assert load_profile("anna").name == "anna"
    with pytest.raises(ConfigError, match=r"bert\.json: no such profile; known: anna"):
        load_profile("bert")


def test_a_plain_name_means_a_profile_in_the_settings_folder_and_anything_else_is_a_path(home: Path) -> None:
    assert profile_path("anna") == home / "anna.json"
    assert profile_path("./anna.json") == Path("anna.json")
    assert profile_path(Path("anna")) == Path("anna")


@pytest.mark.parametrize(
    ("recordings", "message"),
    [
        ([], "only 0.0 s of speech"),
        ([babble(3.0)], "only 3.0 s of speech; a profile needs at least 15 s"),
        ([np.clip(20 * babble(20.0), -1, 1)], "the recording is clipped"),
        ([1e-4 * babble(20.0)], "too quiet"),
    ],
)
def test_too_little_clipped_or_quiet_speech_is_refused(
    recordings: list[np.ndarray], message: str, recognizer: Recognizer
) -> None:
    with pytest.raises(AudioError, match=message):
        enrol(recognizer, recordings)


# ---- the command


class Microphone(list[np.ndarray]):
    """A live source of 20 ms blocks that stores how many samples were taken."""

    live, description, state, overflows = True, "a list", "open", 0
    taken = 0

    def __iter__(self) -> Iterator[AudioBlock]:  # type: ignore[override]
        for i in range(0, len(self[0]), 320):
            self.taken = i
            yield AudioBlock(self[0][i : i + 320], i, 0.0)

    def close(self) -> None:
        pass


def test_the_microphone_is_closed_as_soon_as_there_is_enough_speech(recognizer: Recognizer) -> None:
    source = Microphone([np.concatenate([part for i in range(30) for part in (babble(2.0, seed=i), silence(0.8))])])
    recordings, arrived_s = collect(source, segmenter_for(recognizer, Config()), 10.0)
    assert 10.0 <= sum(map(len, recordings)) / SAMPLE_RATE < 13.0
    assert arrived_s < 20.0


def test_collecting_from_a_microphone_without_speech_ends(recognizer: Recognizer) -> None:
    room = noise(60.0, level=0.0005)
    recordings, arrived_s = collect(Microphone([room]), segmenter_for(recognizer, Config()), 5.0)
    assert recordings == [] and arrived_s == pytest.approx(15.0, abs=0.1)


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
    audio = np.concatenate(parts)
    soundfile.write(path, audio + noise(len(audio) / SAMPLE_RATE, 0.0005)[: len(audio)], SAMPLE_RATE)
    return path


def test_calibrate_makes_a_profile_from_a_recording(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_adaptive(tmp_path / "tiny")
    words = ["calibrate", str(recording(tmp_path / "me.wav")), "--model", str(bundle.path), "--compute", "cpu"]
    assert main([*words, "--name", "anna", "--json"]) == 0
    message = json.loads(capsys.readouterr().out)
    assert 20 < message["speech_s"] < 35 and message["arrived_s"] == pytest.approx(34.0, abs=0.1)
    assert sum(message["before"].values()) == pytest.approx(1.0, abs=0.01)
    assert message["before"] != message["after"]
    assert Path(message["path"]) == home / "anna.json"
    recognizer = load(bundle.path, "cpu")
    assert recognizer.with_profile("anna").baseline is not None
    assert main(["calibrate", "--list"]) == 0
    assert "anna  for tiny" in capsys.readouterr().out


def test_calibrate_prints_a_summary_and_how_to_use_the_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_adaptive(tmp_path / "tiny")
    out = tmp_path / "p.json"
    words = ["calibrate", str(recording(tmp_path / "me.wav")), "--model", str(bundle.path), "--out", str(out)]
    assert main(words) == 0
    message = capsys.readouterr().out
    assert "s of speech found in 34.0 s" in message
    assert "Your voice without the profile:" in message
    assert f"--profile {out}" in message


@pytest.mark.parametrize(
    ("before", "after", "doubt"),
    [
        (0.6, 0.7, None),
        (0.1, 0.6, "Without the profile, the checkpoint does not classify this as neutral."),
        (0.6, 0.5, "The profile does not help here."),
        (0.1, 0.2, "The profile does not help here."),
    ],
)
def test_calibrate_states_whether_the_voice_is_neutral_without_and_with_the_profile(
    before: float,
    after: float,
    doubt: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares = iter([{"neutral": before, "sad": 1 - before}, {"neutral": after, "sad": 1 - after}])
    monkeypatch.setattr(calibrate, "_shares", lambda recognizer, recordings: next(shares))
    words = ["calibrate", str(recording(tmp_path / "me.wav")), "--model", str(make_adaptive(tmp_path / "tiny").path)]
    assert main([*words, "--out", str(tmp_path / "p.json")]) == 0
    message = capsys.readouterr().out
    assert ("record again" in message) == (doubt is not None)
    assert doubt is None or doubt in message


@pytest.mark.parametrize(
    ("speech_s", "message"), [(5.0, "of speech; a profile needs at least 15 s"), (0.0, "only 0.0 s of speech")]
)
def test_calibrate_refuses_too_little_speech_and_writes_nothing(
    speech_s: float, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_adaptive(tmp_path / "tiny")
    out = tmp_path / "p.json"
    words = ["calibrate", str(recording(tmp_path / "me.wav", speech_s)), "--model", str(bundle.path), "--out", str(out)]
    assert main(words) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_calibrate_refuses_too_few_seconds_before_it_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--seconds", "12", "--out", str(tmp_path / "p.json"), "--device", "no such thing"]) == 1
    message = capsys.readouterr()
    assert message.err == "streamser: --seconds: must be at least 15, the minimum for a profile, not 12\n"


def test_the_collected_speech_is_never_shorter_than_the_minimum(recognizer: Recognizer) -> None:
    for spoken_s in (14.2, 14.5, 14.8):  # 15 s are reached in the silence after the utterance
        parts = [babble(7.0, seed=1), silence(0.9), babble(spoken_s - 7.0, seed=2), silence(0.9), babble(4.0, seed=3)]
        source = Microphone([np.concatenate(parts)])
        recordings, _ = collect(source, segmenter_for(recognizer, Config()), LEAST_SPEECH_S, io.StringIO())
        assert sum(map(len, recordings)) / SAMPLE_RATE >= LEAST_SPEECH_S


def test_calibrate_does_not_overwrite_a_profile_without_overwrite(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_adaptive(tmp_path / "tiny")
    voice = recording(tmp_path / "me.wav")
    words = ["calibrate", str(voice), "--model", str(bundle.path), "--compute", "cpu", "--json"]
    assert main(words) == 0
    before = (home / "me.json").read_bytes()
    capsys.readouterr()
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "me.json: already exists" in message and "--overwrite" in message and "--name" in message
    recording(voice, 20.0)
    assert main(words) == 1
    assert (home / "me.json").read_bytes() == before
    assert main([*words, "--overwrite"]) == 0
    assert (home / "me.json").read_bytes() != before


def test_a_microphone_without_a_signal_is_reported_during_the_recording_and_at_the_end(recognizer: Recognizer) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with pytest.raises(AudioError, match=r"a list gave no signal.*muted.*streamser devices --test"):
        collect(Microphone([silence(60.0)]), segmenter_for(recognizer, Config()), 5.0, terminal)
    assert "NO SIGNAL" in terminal.getvalue()
    quiet = Terminal()
    collect(Microphone([noise(60.0, level=0.0005)]), segmenter_for(recognizer, Config()), 5.0, quiet)
    assert "NO SIGNAL" not in quiet.getvalue()


def test_calibrate_refuses_a_checkpoint_without_a_relative_head_before_it_records(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", "--model", str(bundle.path), "--out", str(tmp_path / "p.json"), "--device", "no such thing"]
    assert main(words) == 1
    assert "the checkpoint 'tiny' has no relative head" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "long" * 100])
def test_calibrate_refuses_an_invalid_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--name", name, "--device", "no such thing"]) == 1
    assert "--name must be 1 to 200 printable characters, not" in capsys.readouterr().err
