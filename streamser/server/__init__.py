"""A WebSocket and HTTP server around one recognizer, with a page for the browser (extra `serve`).

`ServerConfig` is all that is imported here; aiohttp comes in with `streamser.server.app`.
"""

from streamser.server.options import ServerConfig

__all__ = ["ServerConfig"]
