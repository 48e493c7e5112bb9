"""`streamser help COMMAND`: print the same text as `streamser COMMAND --help`."""

from __future__ import annotations

import argparse

_EPILOG = """examples:
  streamser help            # all commands
  streamser help replay     # one command, with its options and examples
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    from streamser.cli import COMMANDS

    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "topic", nargs="?", choices=tuple(COMMANDS), metavar="COMMAND", help="command whose help to show"
    )


def run(args: argparse.Namespace) -> int:
    """Exit code 0."""
    from streamser.cli import build_parser
    from streamser.cli.parsing import command_parsers

    parser = build_parser(args.topic)
    (parser if args.topic is None else command_parsers(parser)[args.topic]).print_help()
    return 0
