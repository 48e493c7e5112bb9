"""MQTT with a real mosquitto broker on a free loopback port."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import LABELS, babble, silence

from streamser.bundle import Bundle
from streamser.cli import main
from streamser.cli.mqtt import PASSWORD_VARIABLE
from streamser.errors import DeviceError
from streamser.events import EmotionEvent, SourceChanged, SpeechEnded, SpeechStarted
from streamser.integrations.mqtt import MqttConfig, MqttPublisher, discovery
from streamser.recognizer import Recognizer
from streamser.stream.pipeline import replay

paho = pytest.importorskip("paho.mqtt.client")
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")

DEADLINE_S = 20.0


def until(true: Callable[[], Any], what: str) -> Any:
    """Wait until `true()` returns a true value, and return this value; fail after `DEADLINE_S`."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_S:.0f} s: {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A mosquitto broker that can be stopped and started again on the same port."""

    def __init__(self, folder: Path, rules: str = "allow_anonymous true\n") -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        user = "user root\n" if sys.platform != "win32" and os.geteuid() == 0 else ""
        self._config.write_text(f"listener {self.port} 127.0.0.1\n{user}{rules}")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        until(self._answers, "the broker listens")

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "mosquitto has ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Watcher:
    """Another client of the broker, like Home Assistant: keeps the last message of each topic, and all events."""

    def __init__(self, port: int, **login: str) -> None:
        self.last: dict[str, str] = {}
        self.retained: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if login:
            self._client.username_pw_set(**login)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        text = message.payload.decode()
        if message.retain:
            self.retained.add(message.topic)
        if message.topic.endswith("/event"):
            self.events.append(json.loads(text))
        self.last[message.topic] = text

    def sees(self, topic: str, text: str) -> None:
        until(lambda: self.last.get(topic) == text, f"{topic} is {text}, not {self.last.get(topic)}")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def watch(broker: Broker) -> Iterator[Callable[[], Watcher]]:
    watchers: list[Watcher] = []

    def start() -> Watcher:
        watchers.append(Watcher(broker.port))
        return watchers[-1]

    yield start
    for watcher in watchers:
        watcher.close()


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two utterances."""
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    parts = [silence(0.5), babble(1.5), silence(0.8), babble(1.0, seed=3), silence(0.8)]
    soundfile.write(path, np.concatenate(parts), 16_000)
    return path


def final(label: str = "angry", confidence: float = 0.8, uncertain: bool = False) -> EmotionEvent:
    scores = {name: confidence if name == label else (1 - confidence) / 3 for name in LABELS}
    return EmotionEvent(
        utterance=0,
        seq=0,
        start=0,
        end=16_000,
        final=True,
        label=label,
        scores=scores,
        confidence=confidence,
        uncertain=uncertain,
    )


def command(bundle: Bundle, port: int, *words: str) -> list[str]:
    base = [sys.executable, "-m", "streamser", "mqtt", "--model", str(bundle.path), "--compute", "cpu"]
    return [*base, "--host", "127.0.0.1", "--port", str(port), *words]


# --- against the broker


@needs_mosquitto
def test_the_sensors_of_home_assistant_are_announced_once_and_retained(
    broker: Broker, watch: Callable[[], Watcher]
) -> None:
    with MqttPublisher(MqttConfig(host="127.0.0.1", port=broker.port, topic="home/desk"), LABELS, "tiny") as publisher:
        publisher.publish(final("angry", 0.8))
        watch().sees("home/desk/state", json.dumps(final("angry", 0.8).to_dict()))
        late = watch()  # like a Home Assistant that starts later
        late.sees("home/desk/availability", "online")
        topics = {topic for topic in late.last if topic.startswith("homeassistant/")}
        assert topics == set(discovery(publisher.config, LABELS))
        assert topics <= late.retained
        sensors = {topic.split("/")[3]: json.loads(late.last[topic]) for topic in topics}

    assert set(sensors) == {"emotion", "confidence", "uncertain", "baseline", "speaking"}
    assert len({sensor["unique_id"] for sensor in sensors.values()}) == 5
    for sensor in sensors.values():
        assert sensor["availability_topic"] == "home/desk/availability"
        assert sensor["device"]["identifiers"] == ["streamser_home_desk"]
        assert sensor["origin"]["name"] == "streamser"
        assert sensor["state_topic"] in late.last, "every sensor must have a retained state"


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (final("angry", 0.8123), {"emotion": "angry", "confidence": "81.2", "uncertain": "OFF"}),
        (final("sad", 0.3, uncertain=True), {"emotion": "uncertain", "confidence": "30.0", "uncertain": "ON"}),
        (replace(final(), baseline="own", baseline_utterances=7), {"emotion": "angry", "baseline": "7"}),
    ],
)
def test_the_templates_show_the_state_as_home_assistant_would(event: EmotionEvent, shown: dict[str, str]) -> None:
    jinja2 = pytest.importorskip("jinja2")  # the template language of Home Assistant
    sensors = {
        topic.split("/")[3]: payload for topic, payload in discovery(MqttConfig(), LABELS).items() if "sensor" in topic
    }
    state = json.loads(json.dumps(event.to_dict()))
    for name, text in shown.items():
        assert jinja2.Template(sensors[name]["value_template"]).render(value_json=state) == text
    assert shown["emotion"] in sensors["emotion"]["options"]


@needs_mosquitto
def test_each_event_of_a_replay_is_published_unchanged_and_in_order(
    broker: Broker, watch: Callable[[], Watcher], talk: Path, recognizer: Recognizer
) -> None:
    watcher = watch()
    watcher_ready(watcher, broker)
    expected_events: list[dict[str, Any]] = []
    with MqttPublisher(MqttConfig(host="127.0.0.1", port=broker.port), LABELS) as publisher:

        def publish(event: Any) -> None:
            expected_events.append(event.to_dict())
            publisher.publish(event)

        with replay(talk, model=recognizer, on_event=publish) as listener:
            assert listener.wait(DEADLINE_S)
        until(lambda: len(watcher.events) == len(expected_events), "all events have arrived")
        watcher.sees("streamser/speaking", "OFF")
    assert watcher.events == expected_events
    finals = [event for event in expected_events if event["type"] == "emotion" and event["final"]]
    assert len(finals) == 2
    assert json.loads(watcher.last["streamser/state"]) == finals[-1]
    watcher.sees("streamser/availability", "offline")  # set when the publisher disconnects


def watcher_ready(watcher: Watcher, broker: Broker) -> None:
    """Wait until the watcher's subscription works: it receives a message that this function publishes."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    client.publish("ready", "yes", qos=1, retain=True).wait_for_publish(DEADLINE_S)
    watcher.sees("ready", "yes")
    client.disconnect()
    client.loop_stop()


@needs_mosquitto
def test_speaking_is_on_during_speech_and_the_sensors_are_unavailable_without_the_microphone(
    broker: Broker, watch: Callable[[], Watcher]
) -> None:
    watcher = watch()
    with MqttPublisher(MqttConfig(host="127.0.0.1", port=broker.port), LABELS) as publisher:
        publisher.publish(SpeechStarted(utterance=0, start=0))
        watcher.sees("streamser/speaking", "ON")
        publisher.publish(SpeechEnded(utterance=0, start=0, end=16_000))
        watcher.sees("streamser/speaking", "OFF")
        publisher.publish(SourceChanged(state="lost", at=16_000))
        watcher.sees("streamser/availability", "offline")
        publisher.publish(SourceChanged(state="back", at=32_000))
        watcher.sees("streamser/availability", "online")


@needs_mosquitto
def test_after_a_restart_of_the_broker_the_sensors_and_current_states_are_published_again(
    broker: Broker, watch: Callable[[], Watcher], caplog: pytest.LogCaptureFixture
) -> None:
    with MqttPublisher(MqttConfig(host="127.0.0.1", port=broker.port), LABELS) as publisher:
        publisher.publish(SpeechStarted(utterance=0, start=0))
        watch().sees("streamser/speaking", "ON")
        broker.stop()
        until(lambda: "lost the MQTT broker" in caplog.text, "the loss is noticed")
        publisher.publish(final("sad"))  # while no subscriber is connected
        publisher.publish(SpeechEnded(utterance=0, start=0, end=16_000))
        broker.start()  # the broker stores nothing on disk, so it has lost the retained messages
        until(lambda: "is back" in caplog.text, "the connection comes back")
        watcher = watch()
        watcher.sees("streamser/state", json.dumps(final("sad").to_dict()))
        watcher.sees("streamser/speaking", "OFF")
        watcher.sees("streamser/availability", "online")
        until(lambda: set(discovery(publisher.config, LABELS)) <= watcher.retained, "discovery is retained again")
        assert watcher.events == [], "events from before the restart are not published late"


@needs_mosquitto
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_if_the_process_is_killed_the_broker_publishes_offline(
    broker: Broker, watch: Callable[[], Watcher], talk: Path, bundle: Bundle
) -> None:
    process = subprocess.Popen(command(bundle, broker.port, str(talk), "--speed", "0.01"), stderr=subprocess.PIPE)
    try:
        watcher = watch()
        watcher.sees("streamser/availability", "online")
        process.kill()
        watcher.sees("streamser/availability", "offline")
    finally:
        process.kill()
        process.communicate()


@needs_mosquitto
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a child")
def test_mqtt_publishes_a_file_prints_one_line_and_ends_without_an_error_on_ctrl_c(
    broker: Broker, watch: Callable[[], Watcher], talk: Path, bundle: Bundle
) -> None:
    process = subprocess.Popen(
        command(bundle, broker.port, str(talk), "--speed", "0.01", "--topic", "home/desk", "--name", "Desk"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        watcher = watch()
        watcher.sees("home/desk/availability", "online")
        assert process.stderr is not None
        greeting = process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        assert time.monotonic() - began < 5, "a stop must not wait for the end of the file"
        assert (out, err) == ("", "")
        assert greeting == f"streamser: talk.wav with tiny to 127.0.0.1:{broker.port}/home/desk; Ctrl-C ends\n"
        watcher.sees("home/desk/availability", "offline")
    finally:
        process.kill()
        process.communicate()


@needs_mosquitto
def test_a_wrong_mqtt_password_is_reported_in_one_line_and_the_right_one_works(
    tmp_path: Path, talk: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passwd = shutil.which("mosquitto_passwd")
    if passwd is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run([passwd, "-c", "-b", str(tmp_path / "users"), "anna", "right"], check=True)
    broker = Broker(tmp_path, f"allow_anonymous false\npassword_file {tmp_path / 'users'}\n")
    broker.start()
    words = ["--username", "anna", "--speed", "50"]
    try:
        monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
        assert main([*command(bundle, broker.port, str(talk))[3:], *words]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "refuses the connection: Not authorized; see --username" in error
        monkeypatch.setenv(PASSWORD_VARIABLE, "right")
        assert main([*command(bundle, broker.port, str(talk))[3:], *words]) == 0
        watcher = Watcher(broker.port, username="anna", password="right")
        until(lambda: "streamser/state" in watcher.retained, "the state was kept")
        watcher.close()
    finally:
        broker.stop()


@needs_mosquitto
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves a refused socket open
def test_with_tls_a_broker_is_used_only_if_its_certificate_is_trusted(
    tmp_path: Path, talk: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    what = [
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=broker",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, "req", "-x509", *what, *files], check=True, stderr=subprocess.DEVNULL)
    broker = Broker(tmp_path, f"certfile {certificate}\nkeyfile {key}\nallow_anonymous true\n")
    broker.start()
    words = [*command(bundle, broker.port, str(talk), "--speed", "50")[3:]]
    try:
        assert main([*words, "--tls"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "certificate verify failed" in error.lower().replace("_", " ")
        assert main(words) == 1, "without --tls the connection must fail too"
        assert "see --username and --tls" in capsys.readouterr().err
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # makes the certificate a trusted authority
        assert main([*words, "--tls"]) == 0
    finally:
        broker.stop()


# --- without a broker


def test_a_missing_broker_is_reported_in_one_line(
    talk: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    assert main(command(bundle, port, str(talk))[3:]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"no MQTT broker at 127.0.0.1:{port}" in error
    assert "see --host" in error


def test_a_server_that_closes_the_connection_without_a_response_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        publisher = MqttPublisher(MqttConfig(host="127.0.0.1", port=port), LABELS)
        server.settimeout(DEADLINE_S)
        publisher._client.on_socket_open = lambda *_: server.accept()[0].close()
        with pytest.raises(DeviceError, match="does not speak MQTT"):
            publisher.connect()


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--port", "0"], "--port: must be 1 to 65535, not 0"),
        (["--topic", "home/#"], "--topic: must be like home/desk"),
        (["--topic", "/home"], "--topic: must be like home/desk"),
        (["--host", ""], "--host: must be the broker's name"),
        (["--password", "secret"], "--username: must be given with a password"),
        (["--discovery-prefix", "a/+"], "--discovery-prefix: must be like homeassistant"),
        (["--speed", "0"], "--speed: a number above 0"),
    ],
)
def test_a_wrong_option_is_reported_before_anything_is_opened(
    words: list[str], rule: str, talk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mqtt", str(talk), *words]) == 1
    assert rule in capsys.readouterr().err


def test_the_repr_of_the_configuration_does_not_contain_the_password() -> None:
    assert "secret" not in repr(MqttConfig(username="anna", password="secret"))


def test_without_a_discovery_prefix_no_sensor_is_announced() -> None:
    assert discovery(MqttConfig(discovery_prefix=""), LABELS) == {}
