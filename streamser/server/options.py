"""All settings of the server; importing this module imports no web framework."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from streamser.settings import require

MIN_TOKEN_CHARACTERS = 16  # shorter ones can be guessed over a network; `--token auto` makes one of 43


def is_token(text: str) -> bool:
    """Whether a token is long enough to be safe and plain enough for a header."""
    return len(text) >= MIN_TOKEN_CHARACTERS and text.isascii() and text.isprintable() and " " not in text


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Address of the server, access to it, and limits for each client."""

    host: str = "127.0.0.1"
    """Address to listen on; any address except loopback needs a token."""
    port: int = 8765
    """Port to listen on; 0 selects a free one."""
    token: str | None = None
    """Token that clients must send; None means no token, which is allowed on loopback only."""
    allowed_origins: tuple[str, ...] = ()
    """Other web sites that may connect, for example [https://name, http://name:8080]."""
    max_clients: int = 64
    """Largest number of open WebSockets; further ones are refused and may try again later."""
    max_connections: int = 512
    """Largest number of connections of any kind, fewer if file handles are few; new ones replace idle ones."""
    header_timeout_s: float = 15.0
    """Time for a complete request header; then the connection is closed."""
    max_body_mb: float = 32.0
    """Largest file that POST /v1/label accepts."""
    max_audio_s: float = 3600.0
    """Longest decoded audio that POST /v1/label accepts."""
    max_message_kb: float = 256.0
    """Largest WebSocket message; 20 ms of 48 kHz mono is 2 KB."""
    max_messages_per_s: float = 1000.0
    """Messages per second from one client, averaged over four seconds; beyond this, the client has to wait."""
    max_stream_s: float | None = None
    """Longest stream of a client; then the client gets its results and is disconnected. None sets no limit."""
    client_queue: int = 256
    """Largest number of messages that wait for one client; more drop partials, or disconnect the client."""
    idle_timeout_s: float = 60.0
    """After this time without a message, a client gets its results and is disconnected."""
    send_timeout_s: float = 10.0
    """A client that reads no message for this time is disconnected."""
    drain_s: float = 5.0
    """Time for clients to get their last results after the server is stopped; it then accepts no new client."""
    microphone: bool = False
    """Also listen to this machine's microphone, for /ws/events."""
    record: str | None = None
    """Folder for the audio of clients, one WAV file per stream; None writes no audio."""

    def __post_init__(self) -> None:
        rules = {
            "host: must be a name or an address": bool(self.host.strip()),
            f"port: must be 0 to 65535, not {self.port}": 0 <= self.port <= 65535,
            f"token: must be at least {MIN_TOKEN_CHARACTERS} printable ASCII characters without spaces, or null": (
                self.token is None or is_token(self.token)
            ),
            f"allowed_origins: each must be http://name[:port] or https://name[:port], not {self.allowed_origins}": all(
                origin.startswith(("http://", "https://")) and origin.count("/") == 2 for origin in self.allowed_origins
            ),
            f"max_clients: must be at least 1, not {self.max_clients}": self.max_clients >= 1,
            f"max_connections: must be at least 2, not {self.max_connections}": self.max_connections >= 2,
            f"header_timeout_s: must be above 0, not {self.header_timeout_s}": self.header_timeout_s > 0,
            f"max_body_mb: must be above 0, not {self.max_body_mb}": self.max_body_mb > 0,
            f"max_audio_s: must be above 0, not {self.max_audio_s}": self.max_audio_s > 0,
            f"max_message_kb: must be at least 1, not {self.max_message_kb}": self.max_message_kb >= 1,
            f"max_messages_per_s: must be at least 10, not {self.max_messages_per_s}": self.max_messages_per_s >= 10,
            f"max_stream_s: must be above 0, or null, not {self.max_stream_s}": (
                self.max_stream_s is None or self.max_stream_s > 0
            ),
            f"client_queue: must be at least 8, not {self.client_queue}": self.client_queue >= 8,
            f"idle_timeout_s: must be above 0, not {self.idle_timeout_s}": self.idle_timeout_s > 0,
            f"send_timeout_s: must be above 0, not {self.send_timeout_s}": self.send_timeout_s > 0,
            f"drain_s: must be 0 or more, not {self.drain_s}": self.drain_s >= 0,
        }
        require(rules)

    @property
    def is_loopback(self) -> bool:
        """True when no other machine can connect."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False  # a name may resolve to any address

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 1_000_000)

    @property
    def max_message_bytes(self) -> int:
        return int(self.max_message_kb * 1000)
