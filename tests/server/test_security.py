from __future__ import annotations

import pytest

from streamser.errors import ConfigError
from streamser.server import ServerConfig
from streamser.server.security import check_bind, refuse_host, refuse_origin, shown_token, token_matches

TOKEN = "0123456789abcdef"
OPEN = ServerConfig()
GUARDED = ServerConfig(token=TOKEN)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-machine"])
def test_an_address_that_others_can_reach_needs_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match=r"--token auto"):
        check_bind(ServerConfig(host=host))
    check_bind(ServerConfig(host=host, token=TOKEN))


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765", "127.0.0.1", "LOCALHOST:1"])
def test_every_loopback_name_of_this_machine_is_accepted_as_host(host: str) -> None:
    assert refuse_host(host, OPEN) is None


@pytest.mark.parametrize("host", ["evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "", None])
def test_a_foreign_host_name_is_refused(host: str | None) -> None:
    refusal = refuse_host(host, OPEN)
    assert refusal is not None
    assert "127.0.0.1" in refusal


def test_with_a_token_any_host_name_is_accepted() -> None:
    assert refuse_host("kitchen.lan:8765", GUARDED) is None


def test_an_allowed_site_is_accepted_as_host_and_origin() -> None:
    config = ServerConfig(allowed_origins=("https://home.example",))
    assert refuse_host("home.example", config) is None
    assert refuse_origin("https://home.example", "127.0.0.1:8765", config) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "127.0.0.1:8765"),
        ("http://127.0.0.1:8765", "127.0.0.1:8765"),
        ("http://localhost:8765", "localhost:8765"),
        ("https://home.example", "home.example:443"),
        ("https://home.example", "home.example"),
    ],
)
def test_requests_of_the_servers_own_page_and_of_programs_are_accepted(origin: str | None, host: str) -> None:
    assert refuse_origin(origin, host, OPEN) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://127.0.0.1:9999",
        "http://localhost:8765",
        "null",
        "",
        "file://",
        "chrome-extension://abc",
        "http://127.0.0.1:8765.evil.example",
        "http://127.0.0.1:port",
    ],
)
def test_requests_of_every_other_site_are_refused(origin: str) -> None:
    assert refuse_origin(origin, "127.0.0.1:8765", OPEN) is not None


def test_only_the_exact_token_is_accepted() -> None:
    assert token_matches(None, OPEN)
    assert token_matches(TOKEN, GUARDED)
    for wrong in (None, "", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "0123456789äöüdef"):
        assert not token_matches(wrong, GUARDED)


def test_the_token_is_read_from_the_header_or_else_from_the_query() -> None:
    assert shown_token({"Authorization": f"Bearer {TOKEN}"}, {}) == TOKEN
    assert shown_token({"Authorization": f"bearer {TOKEN}"}, {"token": "other"}) == TOKEN
    assert shown_token({}, {"token": TOKEN}) == TOKEN
    assert shown_token({"Authorization": "Basic eHg="}, {}) is None
