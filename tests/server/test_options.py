from __future__ import annotations

import subprocess
import sys

import pytest

from streamser.server import ServerConfig

GOOD_TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", " "),
        ("port", -1),
        ("port", 65536),
        ("token", "short"),
        ("token", "has a space in it, though long"),
        ("token", "nötig-sind-nur-ascii-zeichen"),
        ("allowed_origins", ("example.org",)),
        ("allowed_origins", ("https://example.org/path",)),
        ("max_clients", 0),
        ("max_body_mb", 0),
        ("max_audio_s", 0),
        ("max_message_kb", 0.5),
        ("client_queue", 1),
        ("idle_timeout_s", 0),
        ("send_timeout_s", -1),
    ],
)
def test_an_invalid_server_setting_is_refused_and_the_error_begins_with_its_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        ServerConfig(**{field: value})  # type: ignore[arg-type]


def test_a_token_is_never_part_of_an_error() -> None:
    with pytest.raises(ValueError) as caught:
        ServerConfig(token="s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("myhost", False),
    ],
)
def test_is_loopback_holds_only_for_addresses_that_no_other_machine_can_reach(host: str, is_loopback: bool) -> None:
    assert ServerConfig(host=host).is_loopback is is_loopback


def test_importing_the_server_package_does_not_import_aiohttp() -> None:
    code = "import sys, streamser.server; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
