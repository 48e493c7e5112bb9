"""`streamser completion SHELL`: a script by which bash, zsh or fish completes verbs, options and checkpoints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from streamser.bundle import find_models
from streamser.cli.parsing import options_of, verb_parsers

_EPILOG = """to use it, now and in every new shell:
  bash:  streamser completion bash > ~/.local/share/bash-completion/completions/streamser
  zsh:   streamser completion zsh > ~/.zfunc/_streamser    # with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  fish:  streamser completion fish > ~/.config/fish/completions/streamser.fish

The script holds today's verbs and checkpoints: print it again after an update.
"""


@dataclass(frozen=True, slots=True)
class _Option:
    """One option of a verb."""

    name: str
    help: str
    values: tuple[str, ...] | None
    """What may follow: nothing when None, one of these, or anything (a file, say) when empty."""


@dataclass(frozen=True, slots=True)
class _Verb:
    name: str
    help: str
    options: tuple[_Option, ...]
    words: tuple[str, ...]
    """What its first argument may be, besides files."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=tuple(_WRITERS), help="the shell that the script is for")


def run(args: argparse.Namespace) -> int:
    """Print the completion script of a shell; the exit status is 0."""
    print(_WRITERS[args.shell](_verbs()), end="")
    return 0


def _verbs() -> list[_Verb]:
    from streamser.cli import VERBS, build_parser

    models = tuple(find_models())
    found = []
    for name, (_, summary) in VERBS.items():
        parser = verb_parsers(build_parser(name))[name]
        options = [_option(option, action, models) for option, action in options_of(parser)]
        places = [action for action in parser._actions if not action.option_strings]
        words = _values(places[0], models) if places else ()
        found.append(_Verb(name, summary, tuple(options), words))
    return found


def _option(name: str, action: argparse.Action, models: tuple[str, ...]) -> _Option:
    words = (action.help or "") % {"default": action.default, "prog": "streamser"}
    return _Option(name, words, None if action.nargs == 0 else _values(action, models))


def _values(action: argparse.Action, models: tuple[str, ...]) -> tuple[str, ...]:
    if action.choices is not None:
        return tuple(map(str, action.choices))
    return models if action.dest == "model" else ()


def _bash(verbs: list[_Verb]) -> str:
    values = "".join(
        f"    {verb.name}/{option.name}) options={_quoted(' '.join(option.values))} word_is=value ;;\n"
        for verb, option in _all_options(verbs)
        if option.values
    )
    cases = "".join(
        f"    {verb.name}) options={_quoted(' '.join(o.name for o in verb.options))}"
        f" words={_quoted(' '.join(verb.words))} ;;\n"
        for verb in verbs
    )
    names = _quoted(" ".join([*(verb.name for verb in verbs), "--version", "--debug", "--help"]))
    return f"""# bash completion for streamser; print it again after an update: streamser completion bash
_streamser() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} options='' words='' word_is=''
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W {names} -- "$word"))
    return
  fi
  case $verb/${{COMP_WORDS[COMP_CWORD - 1]}} in
{values}  esac
  if [ -n "$word_is" ]; then
    COMPREPLY=($(compgen -W "$options" -- "$word"))
    return
  fi
  case $verb in
{cases}  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
  esac
}}
complete -o default -F _streamser streamser
"""


def _zsh(verbs: list[_Verb]) -> str:
    lines = "".join(f"    {_described(verb.name, verb.help)}\n" for verb in verbs)
    values = "".join(
        f"    {verb.name}/{option.name}) compadd -- {' '.join(map(_quoted, option.values))}; return ;;\n"
        for verb, option in _all_options(verbs)
        if option.values
    )
    cases = "".join(
        f"    {verb.name})\n      names=({' '.join(map(_quoted, verb.words))})\n      options=(\n"
        + "".join(f"        {_described(option.name, option.help)}\n" for option in verb.options)
        + "      ) ;;\n"
        for verb in verbs
    )
    return f"""#compdef streamser
# zsh completion for streamser; print it again after an update: streamser completion zsh
_streamser() {{
  local -a verbs options names
  verbs=(
{lines}  )
  if (( CURRENT == 2 )); then
    _describe verb verbs
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
    """An entry of zsh's _describe: the name, a colon, and words."""
    return _quoted(f"{name}:{words}")


def _fish(verbs: list[_Verb]) -> str:
    lines = ["# fish completion for streamser; print it again after an update: streamser completion fish"]
    lines += [
        f"complete -c streamser -f -n __fish_use_subcommand -a {verb.name} -d {_quoted(verb.help)}" for verb in verbs
    ]
    for verb in verbs:
        chosen = f"complete -c streamser -n '__fish_seen_subcommand_from {verb.name}'"
        if verb.words:
            lines.append(f"{chosen} -a {_quoted(' '.join(verb.words))}")
        for option in verb.options:
            kind = "-l" if option.name.startswith("--") else "-s"
            values = f" -x -a {_quoted(' '.join(option.values))}" if option.values else ""
            values = " -r" if option.values == () else values
            lines.append(f"{chosen} {kind} {option.name.lstrip('-')}{values} -d {_quoted(option.help)}")
    return "\n".join(lines) + "\n"


def _all_options(verbs: list[_Verb]) -> Iterator[tuple[_Verb, _Option]]:
    """Every option of every verb."""
    return ((verb, option) for verb in verbs for option in verb.options)


def _quoted(text: str) -> str:
    """In single quotes, as bash, zsh and fish read them alike."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


_WRITERS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
