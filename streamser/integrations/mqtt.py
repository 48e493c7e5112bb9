"""Publish emotion events to MQTT, and tell Home Assistant which sensors they are.

    <topic>/event           every event as JSON, as it comes
    <topic>/state           the last final, retained: what the sensors show
    <topic>/speaking        ON while somebody speaks, else OFF, retained
    <topic>/availability    online or offline, retained; the broker says offline if we die
    <prefix>/…/config       Home Assistant's discovery, retained
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Any

from streamser.errors import DeviceError, MissingExtraError
from streamser.events import UNCERTAIN, EmotionEvent, Event, SpeechEnded, SpeechStarted, StreamEnded

CONNECT_S = 10.0
"""A broker that has not answered by then is not there."""

# Small enough to forget: while the broker is away, so many messages wait for it, then the oldest are dropped.
WAITING_MESSAGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttConfig:
    """Which broker, as whom, and under which names."""

    host: str = "localhost"
    port: int = 1883
    username: str = ""
    password: str = ""
    tls: bool = False
    topic: str = "streamser"
    """Root of all topics of this listener; give each room its own."""
    name: str = "streamser"
    """What Home Assistant calls the device."""
    discovery_prefix: str = "homeassistant"
    """Empty publishes no discovery."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: within 1..65535, not {self.port}")
        if not self.topic or re.search(r"[#+\0]", self.topic) or self.topic != self.topic.strip("/"):
            raise ValueError(f"topic: a name like home/desk without wildcards or outer slashes, not {self.topic!r}")

    @property
    def node(self) -> str:
        """The topic as an identifier."""
        return re.sub(r"[^a-zA-Z0-9_-]", "_", self.topic)


def discovery(config: MqttConfig, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Home Assistant's discovery messages, topic -> payload; empty where no prefix is set."""
    if not config.discovery_prefix:
        return {}
    state = f"{config.topic}/state"
    shown = f"{{{{ '{UNCERTAIN}' if value_json.uncertain else value_json.label }}}}"
    sensors: dict[tuple[str, str], dict[str, Any]] = {
        ("sensor", "emotion"): {
            "name": "Emotion",
            "device_class": "enum",
            "options": [*labels, UNCERTAIN],
            "state_topic": state,
            "value_template": shown,
            "json_attributes_topic": state,
            "icon": "mdi:emoticon-outline",
        },
        ("sensor", "confidence"): {
            "name": "Confidence",
            "unit_of_measurement": "%",
            "suggested_display_precision": 0,
            "state_topic": state,
            "value_template": "{{ (value_json.confidence * 100) | round(1) }}",
            "icon": "mdi:gauge",
        },
        ("binary_sensor", "uncertain"): {
            "name": "Uncertain",
            "state_topic": state,
            "value_template": "{{ 'ON' if value_json.uncertain else 'OFF' }}",
            "icon": "mdi:help-circle-outline",
        },
        ("binary_sensor", "speaking"): {
            "name": "Speaking",
            "state_topic": f"{config.topic}/speaking",
            "icon": "mdi:account-voice",
        },
    }
    shared = {
        "availability_topic": f"{config.topic}/availability",
        "device": {"identifiers": [f"streamser_{config.node}"], "name": config.name, "manufacturer": "streamser"},
        "origin": {"name": "streamser", "sw_version": version("streamser")},
    }
    return {
        f"{config.discovery_prefix}/{kind}/streamser_{config.node}/{key}/config": {
            **payload,
            "unique_id": f"streamser_{config.node}_{key}",
            **shared,
        }
        for (kind, key), payload in sensors.items()
    }


class MqttPublisher:
    """A connection to the broker that takes events; it reconnects by itself and announces everything again."""

    def __init__(self, config: MqttConfig, labels: Sequence[str]) -> None:
        try:
            from paho.mqtt import client as mqtt
        except ImportError as error:
            raise MissingExtraError("streamser mqtt", "mqtt") from error
        self.config = config
        self._labels = tuple(labels)
        self._answered = threading.Event()
        self._refusal = ""
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"streamser-{config.node}")
        self._client.max_queued_messages_set(WAITING_MESSAGES)
        self._client.will_set(f"{config.topic}/availability", "offline", qos=1, retain=True)
        self._client.on_connect = self._on_connect
        if config.username:
            self._client.username_pw_set(config.username, config.password)
        if config.tls:
            self._client.tls_set()

    def connect(self) -> MqttPublisher:
        """Connect and announce; DeviceError, in one line, when the broker is not there or refuses."""
        where = f"{self.config.host}:{self.config.port}"
        try:
            self._client.connect(self.config.host, self.config.port, keepalive=30)
        except OSError as error:
            raise DeviceError(f"no MQTT broker at {where} ({error}); see --host and --port") from error
        self._client.loop_start()
        if not self._answered.wait(CONNECT_S) or self._refusal:
            self._client.loop_stop()
            why = self._refusal or f"no answer within {CONNECT_S:.0f} s"
            raise DeviceError(f"the MQTT broker at {where} does not let us in: {why}; see --username and --tls")
        return self

    def publish(self, event: Event) -> None:
        """Send one event; it waits, bounded, while the broker is away."""
        words = event.to_dict()
        self._send("event", words)
        if isinstance(event, EmotionEvent) and event.final:
            self._send("state", words, retain=True)
        elif isinstance(event, SpeechStarted | SpeechEnded | StreamEnded):
            self._send("speaking", "ON" if isinstance(event, SpeechStarted) else "OFF", retain=True)

    def close(self) -> None:
        """Say goodbye: the sensors become unavailable."""
        if self._client.is_connected():
            self._send("availability", "offline", retain=True).wait_for_publish(2.0)
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> MqttPublisher:
        return self.connect()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _send(self, topic: str, payload: dict[str, Any] | str, *, retain: bool = False) -> Any:
        text = payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)
        return self._client.publish(f"{self.config.topic}/{topic}", text, qos=1, retain=retain)

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        else:
            self._refusal = ""
            for topic, payload in discovery(self.config, self._labels).items():
                client.publish(topic, json.dumps(payload), qos=1, retain=True)
            self._send("availability", "online", retain=True)
            self._send("speaking", "OFF", retain=True)
        self._answered.set()
