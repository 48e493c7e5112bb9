"""`streamser mqtt`: publish emotion events to an MQTT broker; Home Assistant shows them as sensors."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from streamser.cli.common import add_model_arguments, hushed, load_run_config, stopping
from streamser.cli.logs import announce
from streamser.config import Config
from streamser.errors import ConfigError
from streamser.integrations.mqtt import MqttConfig, MqttPublisher
from streamser.recognizer import open_recognizer
from streamser.stream.pipeline import Listener
from streamser.stream.sources import MicSource, Source, WavSource

PASSWORD_VARIABLE = "STREAMSER_MQTT_PASSWORD"

_TLS_PORT = 8883  # the usual port of brokers for TLS

_EPILOG = f"""examples:
  streamser mqtt --host homeassistant.local --username streamser --topic home/desk --name "Desk voice"
  streamser mqtt talk.wav --speed 1             # a file instead of the microphone, in real time
  mosquitto_sub -t 'streamser/#' -v             # watch the messages

Give the password in the variable {PASSWORD_VARIABLE}, which a list of processes does not show.
Everybody who reads the topics sees people's emotions: set up users and access rules in the broker.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    default = MqttConfig()
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", help="audio files to process instead of the microphone")
    add("--device", metavar="MIC", help="microphone: number or part of its name (see streamser devices)")
    add(
        "--speed",
        type=float,
        default=1.0,
        metavar="S",
        help="speed for files: 2 is twice as fast (default: 1, real time)",
    )
    add("--host", default=default.host, metavar="NAME", help=f"address of the broker (default: {default.host})")
    add("--port", type=int, metavar="N", help=f"port of the broker (default: {default.port}, with --tls {_TLS_PORT})")
    add("--username", default="", metavar="NAME", help="user name for the broker")
    add("--password", metavar="WORD", help=f"password for the broker; better in {PASSWORD_VARIABLE}")
    add(
        "--tls",
        action="store_true",
        help="encrypt, and check the broker's certificate against this system's authorities",
    )
    add("--topic", default=default.topic, metavar="T", help=f"root of all topics (default: {default.topic})")
    add("--name", default=default.name, metavar="NAME", help="name of the device in Home Assistant")
    add(
        "--discovery-prefix",
        default=default.discovery_prefix,
        metavar="T",
        help=f"Home Assistant's discovery topic (default: {default.discovery_prefix}); "
        "an empty value turns the announcement off",
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 0, also after Ctrl-C, which ends the command. Errors are raised."""
    broker = _broker(args)
    config = load_run_config(args)
    if args.device is not None and args.files:
        raise ConfigError("--device: cannot be used together with files; leave one of them out")
    if args.device is not None:
        config = replace(config, source=replace(config.source, device=args.device))
    with hushed(args.debug):
        recognizer = open_recognizer(config.recognizer)
        publisher = MqttPublisher(broker, recognizer.labels, recognizer.bundle.name)  # reports a missing extra first
        source = _source(args.files, args.speed, config)
        with publisher:
            listener = Listener(source, recognizer, config, on_event=publisher.publish)
            words = f"{source.description} with {recognizer.bundle.name} to {broker.host}:{broker.port}/{broker.topic}"
            with listener, stopping(listener.stop):
                announce(f"{words}; Ctrl-C ends")
                listener.wait()
    return 0


def _source(files: list[str], speed: float, config: Config) -> Source:
    if not files:
        return MicSource(config.source)
    try:
        return WavSource(files, speed=speed, config=config.source)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error


def _broker(args: argparse.Namespace) -> MqttConfig:
    port = args.port if args.port is not None else _TLS_PORT if args.tls else MqttConfig().port
    password = args.password if args.password is not None else os.environ.get(PASSWORD_VARIABLE, "")
    try:
        return MqttConfig(
            host=args.host,
            port=port,
            username=args.username,
            password=password,
            tls=args.tls,
            topic=args.topic,
            name=args.name,
            discovery_prefix=args.discovery_prefix,
        )
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
