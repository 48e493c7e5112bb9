"""m4a, mp4 and webm files are read through ffmpeg, which reads no other file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from makers import babble, noise, silence

from streamser import media
from streamser.audio import SAMPLE_RATE, Samples, read_audio
from streamser.bundle import Bundle
from streamser.cli import main
from streamser.errors import AudioError
from streamser.stream.audiofiles import duration_s, find_audio, read_pieces

FFMPEG = media.find_ffmpeg()
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason=f"ffmpeg is not installed; {media.WAY_OUT}")


def encode(path: Path, audio: Samples, *options: str, rate: int = 44_100, channels: int = 2) -> Path:
    wav = path.with_suffix(".source")
    soundfile.write(wav, audio, SAMPLE_RATE, format="WAV")
    words = [str(FFMPEG), "-v", "error", "-y", "-i", str(wav), "-ar", str(rate), "-ac", str(channels), *options]
    subprocess.run([*words, f"file:{path}"], check=True, timeout=60)
    wav.unlink()
    return path


@pytest.fixture
def spoken() -> Samples:
    return np.concatenate([silence(0.5), babble(1.5, seed=3), silence(0.5)])


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.m4a", ["-c:a", "aac"]),
        ("a.mp4", ["-c:a", "aac"]),
        ("A.MP4", ["-c:a", "aac"]),
        ("a.webm", ["-c:a", "libopus", "-ar", "48000"]),
        ("a.mkv", ["-c:a", "libopus", "-ar", "48000"]),
        ("a.aac", ["-c:a", "aac"]),
    ],
)
def test_a_media_file_is_decoded_to_the_encoded_audio(
    tmp_path: Path, spoken: Samples, name: str, options: list[str]
) -> None:
    path = encode(tmp_path / name, spoken, *options)
    read = read_audio(path)
    assert len(read) == pytest.approx(len(spoken), abs=0.1 * SAMPLE_RATE)
    lags = np.correlate(np.pad(read, 3000), spoken, "valid")
    assert lags.max() / (np.linalg.norm(read) * np.linalg.norm(spoken)) > 0.9
    assert np.array_equal(np.concatenate(list(read_pieces(path))), read)
    if name != "a.aac":  # a raw stream has no header, so ffmpeg only estimates its duration
        assert duration_s(path) == pytest.approx(len(read) / SAMPLE_RATE, abs=0.1)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["-y.m4a", "http:x.m4a", "a b;c'd.m4a"])
def test_the_name_of_a_media_file_is_not_interpreted_as_an_option_or_a_url(
    tmp_path: Path, spoken: Samples, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "plain.m4a", spoken, "-c:a", "aac").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_audio(name)) == pytest.approx(len(spoken), abs=0.1 * SAMPLE_RATE)


@needs_ffmpeg
@pytest.mark.parametrize("suffix", [".m4a", ".mp4", ".webm"])
def test_a_playlist_with_the_suffix_of_a_media_file_is_not_followed(
    tmp_path: Path, spoken: Samples, suffix: str
) -> None:
    soundfile.write(tmp_path / "secret.wav", spoken, SAMPLE_RATE)
    for number, text in enumerate(
        (
            f"ffconcat version 1.0\nfile {tmp_path / 'secret.wav'}\n",
            f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path / 'secret.wav'}\n#EXT-X-ENDLIST\n",
        )
    ):
        path = tmp_path / f"{number}{suffix}"
        path.write_text(text)
        with pytest.raises(AudioError, match="has no audio that ffmpeg can read"):
            read_audio(path)


@needs_ffmpeg
def test_a_media_file_that_cannot_be_decoded_is_an_error_with_the_reason(tmp_path: Path, spoken: Samples) -> None:
    whole = encode(tmp_path / "a.m4a", spoken, "-c:a", "aac").read_bytes()
    broken = tmp_path / "broken.m4a"
    broken.write_bytes(whole[: len(whole) // 2])  # the index is at the end of the file, so it is missing
    with pytest.raises(AudioError, match=r"broken\.m4a: has no audio that ffmpeg can read \(.+\)") as caught:
        read_audio(broken)
    assert "@ 0x" not in str(caught.value) and str(caught.value).count("broken.m4a") == 1
    silent_film = tmp_path / "film.mp4"
    picture = ["-f", "lavfi", "-i", "color=size=64x64:duration=0.2", "-c:v", "mpeg4"]
    subprocess.run([str(FFMPEG), "-v", "error", *picture, str(silent_film)], check=True, timeout=60)
    with pytest.raises(AudioError, match=r"film\.mp4: has no audio"):
        read_audio(silent_film)


@needs_ffmpeg
def test_closing_a_media_file_early_ends_ffmpeg(tmp_path: Path) -> None:
    path = encode(tmp_path / "long.m4a", noise(60.0), "-c:a", "aac")
    file = media.MediaFile(path)
    assert len(file.read(1000)) == 1000
    file.close()
    assert file._process.poll() is not None


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("streamser.media", "streamser.stream.audiofiles"):
        monkeypatch.setattr(f"{module}.find_ffmpeg", lambda: None)


def folder_of(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "talks"
    folder.mkdir()
    for name in names:
        if name.endswith(".wav"):
            soundfile.write(folder / name, np.concatenate([silence(1.2), babble(1.2)]), SAMPLE_RATE)
        else:
            (folder / name).write_bytes(b"something")
    return folder


@pytest.mark.usefixtures("no_ffmpeg")
def test_without_ffmpeg_the_error_names_what_to_install(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.m4a")
    with pytest.raises(AudioError, match=r"a\.m4a: a \.m4a file is read through ffmpeg.*streamser\[media\]"):
        read_audio(folder / "a.m4a")
    assert find_audio(folder) == []


@pytest.mark.usefixtures("no_ffmpeg")
def test_without_ffmpeg_label_counts_and_names_the_files_that_it_skips(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, "a.wav", "b.m4a", "c.webm", "d.mp4", "e.mov", "notes.txt", "more.txt", "face.jpg")
    words = ["label", str(folder), "--model", str(bundle.path), "--out", str(tmp_path / "labels.csv")]
    assert main(words) == 3
    message = capsys.readouterr()
    assert message.err == (
        "streamser: skipped: 4 files need ffmpeg (b.m4a, c.webm, d.mp4 and 1 more); "
        "install ffmpeg, or: pip install 'streamser[media]'\n"
    )
    assert "1 of 5 files labelled" in message.out and "2 .txt, 1 .jpg" in message.out
    assert main(["replay", str(folder), "--model", str(bundle.path), "--plain"]) == 0
    assert "left out: 4 files need ffmpeg" in capsys.readouterr().err


@pytest.mark.usefixtures("no_ffmpeg")
def test_without_ffmpeg_a_folder_of_media_files_only_is_an_error_with_the_reason(
    tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, "b.m4a")
    for command in ("label", "replay"):
        assert main([command, str(folder), "--model", str(bundle.path)]) == 1
        assert "1 file needs ffmpeg (b.m4a)" in capsys.readouterr().err


@needs_ffmpeg
def test_with_ffmpeg_the_media_files_of_a_folder_are_labelled(tmp_path: Path, spoken: Samples, bundle: Bundle) -> None:
    folder = folder_of(tmp_path, "a.wav")
    encode(folder / "b.m4a", spoken, "-c:a", "aac")
    out = tmp_path / "labels.csv"
    assert main(["label", str(folder), "--model", str(bundle.path), "--out", str(out)]) == 0
    assert [line.split(",")[0] for line in out.read_text().splitlines()[1:]] == ["a.wav", "b.m4a"]
