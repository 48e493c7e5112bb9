"""`streamser wyoming`: a service for voice satellites: audio in, emotion events out."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from streamser.cli.common import add_model_arguments, load_run_config, stopping
from streamser.cli.logs import announce
from streamser.recognizer import open_recognizer

if TYPE_CHECKING:
    from streamser.integrations.wyoming import WyomingServer

DEFAULT_URI = "tcp://127.0.0.1:10400"

_EPILOG = """examples:
  streamser wyoming                             # for programs on this machine
  streamser wyoming --partials                  # also partial results
  streamser wyoming --uri tcp://0.0.0.0:10400 --public

Wyoming has neither passwords nor encryption: anybody can use a public service, and audio is sent unencrypted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--uri", default=DEFAULT_URI, help=f"tcp://HOST:PORT or unix:///PATH (default: {DEFAULT_URI})")
    add("--partials", action="store_true", help="also send partial results")
    add("--public", action="store_true", help="allow connections from other machines")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 0, also after Ctrl-C, which ends the command. Errors are raised."""
    from streamser.integrations.wyoming import WyomingAddress, WyomingServer  # an extra: --help works without it

    config = load_run_config(args)
    address = WyomingAddress.parse(args.uri, public=args.public)
    recognizer = open_recognizer(config.recognizer)
    server = WyomingServer(recognizer, config, address=address, partials=args.partials)
    asyncio.run(_serve(server))
    return 0


async def _serve(server: WyomingServer) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop() -> None:
        loop.call_soon_threadsafe(ended.set)

    with stopping(stop):
        async with server:
            others = "" if server.address.is_local else " (other machines can connect, and there is no password)"
            words = f"serving {server.recognizer.bundle.name} at {server.address}{others}; Ctrl-C ends"
            announce(words)
            await ended.wait()
