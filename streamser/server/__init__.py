"""A WebSocket and HTTP server around one recognizer, with a page for the browser (extra `serve`).

Importing this package imports only `ServerConfig`; `streamser.server.app` imports aiohttp.
"""

from streamser.server.options import ServerConfig

__all__ = ["ServerConfig"]
