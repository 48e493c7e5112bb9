"""Access to the server: the bind address, the Host, the Origin and the token."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from streamser.errors import ConfigError
from streamser.server.options import MIN_TOKEN_CHARACTERS, ServerConfig

# The page needs only its own files, its own server, and the audio of a dropped file (a blob).
PAGE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
COMMON_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_bind(config: ServerConfig) -> None:
    """Refuse to open the server to a network without a token."""
    if not config.is_loopback and config.token is None:
        raise ConfigError(
            f"server.host: {config.host} lets other machines connect, which needs a token of at least "
            f"{MIN_TOKEN_CHARACTERS} characters; add --token auto, or keep --host 127.0.0.1"
        )


def _is_loopback(name: str) -> bool:
    if name.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name_of(host: str | None) -> str:
    """The name in a Host header, without its port; empty if there is none."""
    try:
        return urlsplit(f"//{host or ''}").hostname or ""
    except ValueError:  # an unmatched bracket
        return ""


def refuse_host(host: str | None, config: ServerConfig) -> str | None:
    """The reason to refuse this Host header, or None.

    Another site can point its own name at 127.0.0.1, so that a browser takes this server for that site; the Host header
    then has the other site's name. With a token, any name is allowed.

    >>> refuse_host("localhost:8765", ServerConfig())
    >>> refuse_host("evil.example:8765", ServerConfig())
    "Host 'evil.example' is not this machine; use http://127.0.0.1:PORT or http://localhost:PORT"
    """
    if config.token is not None:
        return None
    name = _name_of(host)
    allowed = {urlsplit(origin).hostname for origin in config.allowed_origins} | {config.host.lower()}
    if _is_loopback(name) or name in allowed:
        return None
    return f"Host {name!r} is not this machine; use http://127.0.0.1:PORT or http://localhost:PORT"


def refuse_origin(origin: str | None, host: str | None, config: ServerConfig) -> str | None:
    """The reason to refuse a page of this Origin, or None; programs send no Origin and are accepted.

    >>> refuse_origin("http://127.0.0.1:8765", "127.0.0.1:8765", ServerConfig())
    >>> refuse_origin("https://evil.example", "127.0.0.1:8765", ServerConfig())
    "Origin 'https://evil.example' is another site; to allow it, list it in server.allowed_origins"
    """
    if origin is None or origin.lower() in {allowed.lower() for allowed in config.allowed_origins}:
        return None
    try:
        parts, own = urlsplit(origin), urlsplit(f"//{host or ''}")
        default = _DEFAULT_PORTS.get(parts.scheme)
        same = parts.hostname == own.hostname and (parts.port or default) == (own.port or default)
    except ValueError:  # a port that is not a number, or an unmatched bracket
        default, same = None, False
    if same and default is not None and parts.hostname:
        return None
    return f"Origin {origin!r} is another site; to allow it, list it in server.allowed_origins"


def token_matches(shown: str | None, config: ServerConfig) -> bool:
    """Compare in constant time, so that the response's delay reveals nothing."""
    if config.token is None:
        return True
    # A client's token may contain bytes that are not text, which arrive as surrogates.
    return shown is not None and hmac.compare_digest(shown.encode(errors="replace"), config.token.encode())


def shown_token(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The token of a request: `Authorization: Bearer ...`, or `?token=...` if a header cannot be set."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return query.get("token")
