"""`streamser completion SHELL`: print a script for bash, zsh or fish that completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from streamser.bundle import find_models
from streamser.cli.parsing import command_parsers, options_of

_EPILOG = """to install it for every new shell:
  bash:  streamser completion bash > ~/.local/share/bash-completion/completions/streamser
  zsh:   streamser completion zsh > ~/.zfunc/_streamser    # with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  fish:  streamser completion fish > ~/.config/fish/completions/streamser.fish

The script contains the current commands and checkpoints: print it again after an update.
"""


@dataclass(frozen=True, slots=True)
class _Option:
    """One option of a command."""

    name: str
    help: str
    values: tuple[str, ...] | None
    """The values of the option: None for a flag, a list of choices, or empty for any value (such as a file)."""


@dataclass(frozen=True, slots=True)
class _Command:
    name: str
    help: str
    options: tuple[_Option, ...]
    words: tuple[str, ...]
    """Choices for the command's first argument, besides files."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=tuple(_WRITERS), help="shell for which to print the script")


def run(args: argparse.Namespace) -> int:
    """Print the completion script of a shell; exit code 0."""
    print(_WRITERS[args.shell](_commands()), end="")
    return 0


def _commands() -> list[_Command]:
    from streamser.cli import COMMANDS, build_parser

    models = tuple(find_models())
    found = []
    for name, (_, summary) in COMMANDS.items():
        parser = command_parsers(build_parser(name))[name]
        options = [_option(option, action, models) for option, action in options_of(parser)]
        places = [action for action in parser._actions if not action.option_strings]
        words = _values(places[0], models) if places else ()
        found.append(_Command(name, summary, tuple(options), words))
    return found


def _option(name: str, action: argparse.Action, models: tuple[str, ...]) -> _Option:
    words = (action.help or "") % {"default": action.default, "prog": "streamser"}
    return _Option(name, words, None if action.nargs == 0 else _values(action, models))


def _values(action: argparse.Action, models: tuple[str, ...]) -> tuple[str, ...]:
    if action.choices is not None:
        return tuple(map(str, action.choices))
    return models if action.dest == "model" else ()


def _bash(commands: list[_Command]) -> str:
    values = "".join(
        f"    {command.name}/{option.name}) options={_quoted(' '.join(option.values))} word_is=value ;;\n"
        for command, option in _all_options(commands)
        if option.values
    )
    cases = "".join(
        f"    {command.name}) options={_quoted(' '.join(o.name for o in command.options))}"
        f" words={_quoted(' '.join(command.words))} ;;\n"
        for command in commands
    )
    names = _quoted(" ".join([*(command.name for command in commands), "--version", "--debug", "--help"]))
    return f"""# bash completion for streamser; print it again after an update: streamser completion bash
_streamser() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} options='' words='' word_is=''
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {names} -- "$word"))
    return
  fi
  case $command/${{COMP_WORDS[COMP_CWORD - 1]}} in
{values}  esac
  if [ -n "$word_is" ]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
    return
  fi
  case $command in
{cases}  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
  esac
}}
complete -o default -F _streamser streamser
"""


def _zsh(commands: list[_Command]) -> str:
    lines = "".join(f"    {_described(command.name, command.help)}\n" for command in commands)
    values = "".join(
        f"    {command.name}/{option.name}) compadd -- {' '.join(map(_quoted, option.values))}; return ;;\n"
        for command, option in _all_options(commands)
        if option.values
    )
    cases = "".join(
        f"    {command.name})\n      names=({' '.join(map(_quoted, command.words))})\n      options=(\n"
        + "".join(f"        {_described(option.name, option.help)}\n" for option in command.options)
        + "      ) ;;\n"
        for command in commands
    )
    return f"""#compdef streamser
# zsh completion for streamser; print it again after an update: streamser completion zsh
_streamser() {{
  local -a commands options names
  commands=(
{lines}  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case $words[2]/$words[CURRENT-1] in
{values}  esac
  case $words[2] in
{cases}  esac
  if [[ $PREFIX == -* ]]; then
    _describe -o option options
  else
    compadd -a names
    _files
  fi
}}
compdef _streamser streamser
"""


def _described(name: str, words: str) -> str:
    """An entry for zsh's _describe: the name, a colon, and the help text."""
    return _quoted(f"{name}:{words}")


def _fish(commands: list[_Command]) -> str:
    lines = ["# fish completion for streamser; print it again after an update: streamser completion fish"]
    lines += [
        f"complete -c streamser -f -n __fish_use_subcommand -a {command.name} -d {_quoted(command.help)}"
        for command in commands
    ]
    for command in commands:
        chosen = f"complete -c streamser -n '__fish_seen_subcommand_from {command.name}'"
        if command.words:
            lines.append(f"{chosen} -a {_quoted(' '.join(command.words))}")
        for option in command.options:
            kind = "-l" if option.name.startswith("--") else "-s"
            values = f" -x -a {_quoted(' '.join(option.values))}" if option.values else ""
            values = " -r" if option.values == () else values
            lines.append(f"{chosen} {kind} {option.name.lstrip('-')}{values} -d {_quoted(option.help)}")
    return "\n".join(lines) + "\n"


def _all_options(commands: list[_Command]) -> Iterator[tuple[_Command, _Option]]:
    """Every option of every command."""
    return ((command, option) for command in commands for option in command.options)


def _quoted(text: str) -> str:
    """The text in single quotes, which bash, zsh and fish read in the same way."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


_WRITERS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
