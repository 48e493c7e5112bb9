"""`streamser help VERB`: what `streamser VERB --help` shows."""

from __future__ import annotations

import argparse

_EPILOG = """examples:
  streamser help            # all verbs
  streamser help replay     # one of them, with its options and examples
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments."""
    from streamser.cli import VERBS

    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("topic", nargs="?", choices=tuple(VERBS), metavar="VERB", help="the verb to explain")


def run(args: argparse.Namespace) -> int:
    """0."""
    from streamser.cli import build_parser
    from streamser.cli.parsing import verb_parsers

    parser = build_parser(args.topic)
    (parser if args.topic is None else verb_parsers(parser)[args.topic]).print_help()
    return 0
