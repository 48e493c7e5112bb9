"""`streamser serve`: a page for the browser and a WebSocket for programs, by default on loopback."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamser.cli.common import add_model_arguments, hushed, load_run_config, stopping
from streamser.cli.logs import announce
from streamser.cli.rayoption import add_ray_option, address_of
from streamser.cli.readiness import READY, STOPPING, notify
from streamser.config import Config
from streamser.errors import ConfigError
from streamser.recognizer import open_recognizer
from streamser.server.options import ServerConfig
from streamser.server.security import check_bind
from streamser.stream.pipeline import Listener
from streamser.stream.recorder import RecordingSource
from streamser.stream.sources import MicSource, Source

if TYPE_CHECKING:
    from streamser.cluster.gate import Gate
    from streamser.cluster.serve import Replicas
    from streamser.server.app import Server

TOKEN_VARIABLE = "STREAMSER_TOKEN"
AUTO = "auto"

_EPILOG = f"""examples:
  streamser serve                                  # the page at http://127.0.0.1:8765/
  streamser serve --mic                            # also events of this machine's microphone at /ws/events
  streamser serve --host 0.0.0.0 --token auto      # for other machines, with a token that it prints
  streamser serve --ray --replicas 1-4             # up to four processes of a new Ray cluster
  streamser serve --ray head:6379 --token auto     # on a running cluster, see docs/scale.md

A token can also come from the variable {TOKEN_VARIABLE}, which a list of processes does not show.
The protocol is described in docs/protocol.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = ServerConfig()
    add = parser.add_argument
    add(
        "--host",
        metavar="ADDRESS",
        help=f"address to listen on (default: {default.host}); any address except loopback needs a token",
    )
    add("--port", type=int, metavar="N", help=f"port to listen on; 0 selects a free one (default: {default.port})")
    add("--token", metavar="TOKEN", help="token that clients must send; auto makes one and prints it")
    add("--mic", action=argparse.BooleanOptionalAction, default=None, help="also listen to this machine's microphone")
    add("--device", metavar="MIC", help="microphone for --mic: number or part of its name (see streamser devices)")
    add("--allow-origin", action="append", metavar="URL", help="another web site that may connect; may be repeated")
    add(
        "--record",
        type=Path,
        metavar="DIR",
        help="write all audio from clients and the microphone to WAV files in this folder",
    )
    add_ray_option(add)
    add(
        "--replicas",
        metavar="N",
        help="with --ray: number of server processes, for example 4 or 1-8 (default: from 1 to the number of CPUs)",
    )
    add("--streams-each", type=int, metavar="N", help="with --ray: connections for each process (default: 16)")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 0, also after Ctrl-C, which ends the server. Errors are raised."""
    if args.ray is not None:
        from streamser.cluster.start import require_ray

        require_ray("streamser serve --ray")
    from streamser.server.app import Server  # aiohttp is an extra: --help works without it

    config = load_run_config(args, unused=())
    if args.device is not None:
        config = replace(config, source=replace(config.source, device=args.device))
    config = replace(config, server=_server_config(config.server, args))
    if args.device is not None and not config.server.microphone:
        raise ConfigError("--device: needs --mic; add --mic, or leave --device out")
    if args.ray is not None:
        return _run_on_ray(args, config)
    if args.replicas is not None or args.streams_each is not None:
        raise ConfigError("--replicas, --streams-each: need --ray; add it, or leave them out")
    with ExitStack() as stack:
        listener = None
        stack.enter_context(hushed(args.debug))
        source = _open_microphone(config) if config.server.microphone else None
        recognizer = open_recognizer(config.recognizer)
        if source is not None:
            listener = Listener(source, recognizer, config, name="microphone")
        server = Server(recognizer, config.server, config, listener)
        made_token = _given_token(args) == AUTO
        asyncio.run(
            _serve(server, lambda: _greet(server, config, recognizer.bundle.name, source, made_token=made_token))
        )
    return 0


def _run_on_ray(args: argparse.Namespace, config: Config) -> int:
    from streamser.cluster.gate import Gate
    from streamser.cluster.serve import deployed

    for option, given in (("--mic", config.server.microphone), ("--record", config.server.record is not None)):
        if given:
            raise ConfigError(f"{option}: cannot be used with --ray; run serve without --ray on that machine")
    check_bind(config.server)
    replicas = _replicas(args)
    with hushed(args.debug):
        name = open_recognizer(config.recognizer).bundle.name  # a wrong model is reported before a cluster is started
        announce("starting Ray")
        with deployed(address_of(args.ray), config, replicas) as deployment:
            gate = Gate(
                config.server, deployment.pick, deployment.drain, deployment.most * config.server.max_connections
            )

            def greet() -> None:
                _greet(gate, config, name, None, made_token=_given_token(args) == AUTO)
                announce(f"up to {deployment.most} server processes on {deployment.machines} machine(s)")

            asyncio.run(_serve(gate, greet))
    return 0


def _replicas(args: argparse.Namespace) -> Replicas:
    """Read the options --replicas and --streams-each."""
    from streamser.cluster.serve import Replicas

    given = {} if args.streams_each is None else {"streams": args.streams_each}
    option = "--replicas"
    try:
        if args.replicas is not None:
            fewest, _, most = args.replicas.partition("-")
            given |= {"fewest": int(fewest), "most": int(most or fewest)}
            Replicas(given["fewest"], given["most"])
        option = "--streams-each"
        return Replicas(**given)
    except ValueError as error:
        why = error if "not" in str(error) else f"must be N, or FEWEST-MOST, not {args.replicas!r}"
        raise ConfigError(f"{option}: {why}") from error


def _server_config(config: ServerConfig, args: argparse.Namespace) -> ServerConfig:
    """The section `server`, changed by the options of the command line."""
    token = _given_token(args)
    given = {
        "host": args.host,
        "port": args.port,
        "token": secrets.token_urlsafe() if token == AUTO else token,
        "microphone": args.mic,
        "allowed_origins": tuple(args.allow_origin) if args.allow_origin else None,
        "record": str(args.record) if args.record else None,
    }
    try:
        return replace(config, **{field: value for field, value in given.items() if value is not None})
    except ValueError as error:
        raise ConfigError(f"server.{error}") from error


def _given_token(args: argparse.Namespace) -> str | None:
    token: str | None = args.token or os.environ.get(TOKEN_VARIABLE)
    return token


def _open_microphone(config: Config) -> Source:
    source = MicSource(config.source)
    return RecordingSource(source, Path(config.server.record)) if config.server.record else source


async def _serve(server: Server | Gate, greet: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop() -> None:
        loop.call_soon_threadsafe(ended.set)

    with stopping(stop):
        async with server:
            greet()
            notify(READY)
            await ended.wait()
            notify(STOPPING)


def _greet(server: Server | Gate, config: Config, model: str, source: Source | None, *, made_token: bool) -> None:
    """Print lines for the operator: address, access, microphone and recordings."""
    options = config.server
    secret = f"#token={options.token}" if made_token else ""
    lines = [f"serving {model} at {server.url}{secret}; Ctrl-C ends"]
    if options.token and not made_token:
        lines.append("clients need the token that you gave; for the page, put #token=TOKEN at the end of the address")
    if not options.is_loopback:
        lines.append("other machines can connect; audio and results are not encrypted, so put the server behind https")
    if source is not None:
        lines.append(f"listening to {source.description}")
    if options.record:
        lines.append(f"RECORDING all audio to {options.record}")
    for line in lines:
        announce(line)
