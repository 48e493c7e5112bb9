"""The program's argument parser: a usage error is one line that suggests the nearest valid word."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from typing import NoReturn

__all__ = ["Parser", "command_parsers", "options_of"]


class Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, with a suggestion and the command that shows the help."""

    def error(self, message: str) -> NoReturn:
        prog = self.prog
        if message.startswith("unrecognized"):  # the main parser reports these, even those of a command
            prog = next((sub.prog for sub in command_parsers(self).values() if len(sub._actions) > 1), prog)
        sys.stderr.write(f"streamser: {self._advised(message)} See: {prog} --help\n")
        raise SystemExit(2)

    def _advised(self, message: str) -> str:
        unknown = re.fullmatch(r"unrecognized arguments: (.*)", message)
        if unknown:
            return self._unknown_words(unknown[1].split())
        wrong = re.fullmatch(r"argument (.+?): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong is None:
            return message + "."
        choices = [choice.strip("' ") for choice in wrong[3].split(",")]
        if wrong[1] == "COMMAND":
            return f"unknown command '{wrong[2]}'" + _suggestion(wrong[2], choices)
        return message + _suggestion(wrong[2], choices)

    def _unknown_words(self, words: list[str]) -> str:
        word = next((word for word in words if word.startswith("-")), words[0])
        if not word.startswith("-"):
            return f"unexpected argument '{word}'."
        name = word.partition("=")[0]
        known = [option for parser in [self, *command_parsers(self).values()] for option, _ in options_of(parser)]
        return f"unknown option '{name}'{_suggestion(name, known)}"


def _suggestion(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else "."


def command_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a parser's commands."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: sub for action in actions for name, sub in action.choices.items()}


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    """The options that a parser's help shows, each with its action."""
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            for option in action.option_strings:
                yield option, action
