"""Publish emotion events to MQTT, with discovery messages that define the sensors for Home Assistant.

    <topic>/event           every event as JSON, as it comes
    <topic>/state           the last final, retained; the sensors show it
    <topic>/speaking        ON while somebody speaks, else OFF, retained
    <topic>/availability    online or offline, retained; the broker sends offline if this program dies
    <prefix>/.../config     Home Assistant's discovery, retained

Events that come while the broker is unreachable are not sent later. Retained topics are published again, with their
current values, at every reconnection.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from types import TracebackType
from typing import Any

from streamser.errors import DeviceError, MissingExtraError
from streamser.events import UNCERTAIN, EmotionEvent, Event, SourceChanged, SpeechEnded, SpeechStarted, StreamEnded

__all__ = ["MqttConfig", "MqttPublisher", "discovery"]

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
"""A broker that has not responded in this time counts as unreachable."""

_KEEPALIVE_S = 30  # after 1.5 of these intervals the broker disconnects a silent client
_RETRY_S = (1, 30)  # first and longest wait before a lost connection is tried again
_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttConfig:
    """Address and login of the broker, and the names of topics and device."""

    host: str = "localhost"
    port: int = 1883
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    topic: str = "streamser"
    """Root of all topics of this listener; give each room its own."""
    name: str = "streamser"
    """Name of the device in Home Assistant."""
    discovery_prefix: str = "homeassistant"
    """First level of the topics of discovery messages; empty publishes none."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("host: must be the broker's name or address, not empty")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: must be 1 to 65535, not {self.port}")
        if self.password and not self.username:
            raise ValueError("username: must be given with a password")
        if not _is_topic(self.topic):
            raise ValueError(f"topic: must be like home/desk, without wildcards or outer slashes, not {self.topic!r}")
        if self.discovery_prefix and not _is_topic(self.discovery_prefix):
            raise ValueError(f"discovery-prefix: must be like homeassistant, or empty, not {self.discovery_prefix!r}")

    @property
    def node(self) -> str:
        """The topic as an identifier for Home Assistant."""
        return re.sub(r"[^a-zA-Z0-9_-]", "_", self.topic)


def _is_topic(text: str) -> bool:
    return bool(text) and text == text.strip("/ ") and text.isprintable() and not re.search(r"[#+]|^\$", text)


def discovery(config: MqttConfig, labels: Sequence[str], model: str = "") -> dict[str, dict[str, Any]]:
    """Home Assistant's discovery messages, topic -> payload; empty if the configuration has no prefix."""
    if not config.discovery_prefix:
        return {}
    state = f"{config.topic}/state"
    sensors: dict[tuple[str, str], dict[str, Any]] = {
        ("sensor", "emotion"): {
            "name": "Emotion",
            "device_class": "enum",
            "options": [*labels, UNCERTAIN],
            "state_topic": state,
            "value_template": f"{{{{ '{UNCERTAIN}' if value_json.uncertain else value_json.label }}}}",
            "json_attributes_topic": state,
            "icon": "mdi:emoticon-outline",
        },
        ("sensor", "confidence"): {
            "name": "Confidence",
            "unit_of_measurement": "%",
            "state_class": "measurement",
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
        ("sensor", "baseline"): {
            "name": "Voice baseline",
            "unit_of_measurement": "utterances",
            "state_topic": state,
            "value_template": "{{ value_json.baseline_utterances }}",
            "entity_category": "diagnostic",
            "icon": "mdi:account-check",
        },
        ("binary_sensor", "speaking"): {
            "name": "Speaking",
            "state_topic": f"{config.topic}/speaking",
            "icon": "mdi:account-voice",
        },
    }
    device = {"identifiers": [f"streamser_{config.node}"], "name": config.name, "manufacturer": "streamser"}
    shared = {
        "availability_topic": f"{config.topic}/availability",
        "device": {**device, "model": model} if model else device,
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
    """Publishes events to the broker; after a lost connection, it reconnects and publishes retained topics again."""

    def __init__(self, config: MqttConfig, labels: Sequence[str], model: str = "") -> None:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise MissingExtraError("streamser mqtt", "mqtt") from error
        self.config = config
        self._lock = threading.Lock()
        """Held while a value is stored and sent, so that an older value never follows a newer one."""
        self._kept = {
            **{topic: json.dumps(payload) for topic, payload in discovery(config, labels, model).items()},
            self._topic("speaking"): "OFF",
            self._topic("availability"): "online",
        }
        """Current values of the retained topics, published at each connection."""
        self._answered = threading.Event()
        self._refusal: str | None = None  # the broker's response: None before it arrives, "" for success
        # A broker disconnects the older of two clients of one name, which would then replace each other forever.
        name = f"streamser-{config.node}-{secrets.token_hex(4)}"
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=name)
        self._client.reconnect_delay_set(*_RETRY_S)
        self._client.will_set(self._topic("availability"), "offline", qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        if config.username:
            self._client.username_pw_set(config.username, config.password)
        if config.tls:
            self._client.tls_set()

    def connect(self) -> MqttPublisher:
        """Connect and publish the retained topics; DeviceError when the broker is unreachable or refuses."""
        where = f"{self.config.host}:{self.config.port}"
        try:
            self._client.connect(self.config.host, self.config.port, keepalive=_KEEPALIVE_S)
        except (OSError, UnicodeError) as error:
            raise DeviceError(f"no MQTT broker at {where} ({error}); see --host, --port and --tls") from error
        self._client.loop_start()
        self._answered.wait(CONNECT_S)
        if self._refusal != "":
            self.close()
            why = self._refusal or "it does not speak MQTT, or not without TLS"
            raise DeviceError(f"the MQTT broker at {where} refuses the connection: {why}; see --username and --tls")
        return self

    def publish(self, event: Event) -> None:
        """Send one event, at once and without waiting; any thread may call it."""
        words = json.dumps(event.to_dict(), ensure_ascii=False)
        with self._lock:
            self._send("event", words)
            if isinstance(event, EmotionEvent) and event.final:
                self._keep("state", words)
            elif isinstance(event, SpeechStarted | SpeechEnded | StreamEnded):
                self._keep("speaking", "ON" if isinstance(event, SpeechStarted) else "OFF")
            elif isinstance(event, SourceChanged):  # without a microphone the sensors have no values
                self._keep("availability", "offline" if event.state == "lost" else "online")

    def close(self) -> None:
        """Publish `offline`, so that the sensors become unavailable, and disconnect."""
        if self._client.is_connected():
            for topic, text in (("speaking", "OFF"), ("availability", "offline")):
                last = self._client.publish(self._topic(topic), text, qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):  # the broker disconnected meanwhile
                last.wait_for_publish(_GOODBYE_S)
        self._client.on_disconnect = None
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self) -> MqttPublisher:
        return self.connect()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _topic(self, name: str) -> str:
        return f"{self.config.topic}/{name}"

    def _keep(self, name: str, text: str) -> None:
        self._kept[self._topic(name)] = text
        self._send(name, text, retain=True)

    def _send(self, name: str, text: str, *, retain: bool = False) -> None:
        """Send with QoS 0: TCP keeps the order, and a message lost with its connection would arrive outdated."""
        if self._client.is_connected():
            self._client.publish(self._topic(name), text, retain=retain)

    # --- on paho's thread

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
            self._answered.set()
            return
        if self._refusal == "":
            logger.warning("the MQTT broker at %s is back", self.config.host)
        self._refusal = ""
        with self._lock:
            for topic, text in self._kept.items():
                client.publish(topic, text, qos=1, retain=True)
        self._answered.set()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._refusal == "":
            logger.warning("lost the MQTT broker at %s (%s); trying again", self.config.host, reason)
        self._answered.set()  # closing the connection without an error counts as a refusal too
