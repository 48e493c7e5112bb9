"""A usage error is one line with the nearest known word; shells complete the commands and options of the parser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from streamser.cli import COMMANDS, build_parser, main
from streamser.cli.parsing import command_parsers, options_of


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["lve"], "unknown command 'lve'; did you mean 'live'? See: streamser --help"),
        (["xyzzy"], "unknown command 'xyzzy'. See: streamser --help"),
        (
            ["replay", "a.wav", "--sped", "2"],
            "unknown option '--sped'; did you mean '--speed'? See: streamser replay --help",
        ),
        (
            ["replay", "a.wav", "--sped=2"],
            "unknown option '--sped'; did you mean '--speed'? See: streamser replay --help",
        ),
        (["live", "--jsonlines"], "unknown option '--jsonlines'; did you mean '--jsonl'? See: streamser live --help"),
        (["live", "talk.wav"], "unexpected argument 'talk.wav'. See: streamser live --help"),
        (["replay"], "the following arguments are required: FILE. See: streamser replay --help"),
        (["help", "replya"], "did you mean 'replay'? See: streamser help --help"),
    ],
)
def test_a_usage_error_is_one_line_with_the_nearest_known_word(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.startswith("streamser: ") and printed.endswith(error + "\n") and printed.count("\n") == 1


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "help"])
def test_help_with_a_command_prints_the_same_as_the_commands_help_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["help", command]) == 0
    by_help = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert by_help == capsys.readouterr().out


def test_help_alone_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {command}" in printed or f"\n    {command}" in printed for command in COMMANDS)


# Code for each shell: read the completion script, and print the proposals for the given words, one per line.
_BASH = """. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _streamser; printf '%s\\n' "${COMPREPLY[@]}" """
_ZSH = """
compdef() { : }; _files() { print FILES }
compadd() { for word in ${argv:#-*}; do [[ -n ${(P)word} ]] && print -l -- ${(P)word} || print -- $word; done }
_describe() { [[ $1 == -o ]] && shift; print -l -- ${${(P)2}%%:*} }
script=$1; shift; words=("$@"); CURRENT=$#; PREFIX=${@[-1]}
source $script; _streamser
"""
_FISH = "source $argv[1]; complete -C (string join -- ' ' $argv[2..]) | string split -f1 \\t; true"


def proposals(shell: str, folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    script = folder / f"streamser.{shell}"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    code = {"bash": ["-c", _BASH, "bash"], "zsh": ["-fc", _ZSH, "zsh"], "fish": ["-N", "-c", _FISH]}[shell]
    done = subprocess.run([shell, *code, str(script), *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_options_and_values(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def offered(*words: str) -> set[str]:
        return proposals(shell, tmp_path, ["streamser", *words], capsys)

    assert {command for command in COMMANDS if command.startswith("l")} <= offered("l")
    options = {
        name for name, _ in options_of(command_parsers(build_parser("replay"))["replay"]) if name.startswith("--s")
    }
    assert "--speed" in options and options <= offered("replay", "--s")
    assert "--device" not in offered("replay", "--")
    assert "whisper" in offered("replay", "--model", "whis")
    assert {"onnx", "torch"} <= offered("bench", "--engine", "")
    assert "replay" in offered("help", "re")
    assert "whisper" in offered("models", "whis")
