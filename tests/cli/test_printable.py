"""Escape sequences in file names, cards and licences never reach a terminal; they are printed as visible text."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from makers import babble, make_bundle

from streamser.audio import SAMPLE_RATE
from streamser.bundle import Bundle
from streamser.cli import main
from streamser.cli.progress import ProgressLine
from streamser.printable import guarded, printable

OSC52 = "\x1b]52;c;cm0gLXJmIH4=\x07"  # writes "rm -rf ~" to the clipboard
EVIL = f"{OSC52}\x9b2J\u202egnp\x08"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def is_calm(text: str) -> bool:
    return not any(character in text for character in "\x1b\x07\x9b\u202e\x08")


def test_escape_sequences_become_visible_and_other_text_is_unchanged() -> None:
    assert printable("ünï\tcode ✓ 中文\n") == "ünï\tcode ✓ 中文\n"
    assert printable(EVIL) == r"\u001b]52;c;cm0gLXJmIH4=\u0007\u009b2J\u202egnp\u0008"
    assert printable("\udcff") == r"\udcff"


def test_a_progress_line_may_clear_its_line_but_the_name_in_it_may_not() -> None:
    out = Terminal()
    line = ProgressLine(guarded(out))
    line(f"reading {OSC52}", 1, 2)
    line.close()
    assert out.getvalue().startswith("\r\x1b[K") and OSC52 not in out.getvalue()
    assert is_calm(out.getvalue().replace("\r\x1b[K", ""))


def test_escape_sequences_in_a_card_and_a_licence_are_made_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "models" / "odd", card=f"# odd {EVIL}\n", licence=f"CC {EVIL}", variant=f"v{EVIL}")
    monkeypatch.setenv("STREAMSER_MODELS", str(tmp_path / "models"))
    for words in (["models"], ["models", "odd"], ["models", "odd", "--json"]):
        assert main(words) == 0
        printed = capsys.readouterr()
        assert is_calm(printed.out + printed.err) and "gnp" in printed.out + "gnp" * (words == ["models"])
        if "--json" in words:
            assert json.loads(printed.out)["licence"] == f"CC {EVIL}"


@pytest.mark.parametrize(
    "name", [f"a{OSC52}.wav", "b\u202e.wav", os.fsdecode(b"c\xff.wav")], ids=["escape", "bidi", "bytes"]
)
def test_escape_sequences_in_a_file_name_are_made_visible(tmp_path: Path, bundle: Bundle, name: str) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    try:
        (folder / name).write_bytes(b"RIFF no")
        with (folder / f"good-{name}").open("wb") as file:
            soundfile.write(file, babble(0.5), SAMPLE_RATE, format="WAV")
    except OSError:
        pytest.skip("this file system does not take such a name")
    model = ["--model", str(bundle.path)]
    for words in (
        ["label", folder, "--out", tmp_path / "labels.jsonl", *model],
        ["replay", folder / name, *model],
        ["replay", folder / f"good-{name}", "--plain", *model],
        ["replay", folder / f"good-{name}", folder / f"good-{name}", "--out", tmp_path / "x.csv", *model],
        ["models", folder / name],
    ):
        done = subprocess.run([sys.executable, "-m", "streamser", *words], capture_output=True, timeout=60, check=False)
        printed = (done.stdout + done.stderr).decode()  # a strict decoder: the output must be valid UTF-8
        assert is_calm(printed) and "Traceback" not in printed and printed


def test_escape_sequences_in_a_wrong_option_are_made_visible(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["replay", "--speed", OSC52, "a.wav"])
    assert is_calm(capsys.readouterr().err)
