"""The dashboard's files, read once at the start."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

from streamser.server.security import PAGE_HEADERS

_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_PATHS = {"index.html": "/", "api.html": "/docs"}


def routes() -> list[web.RouteDef]:
    """One route for each file; the path of a request is never used as a path on disk."""
    defined = []
    for file in sorted(files("streamser").joinpath("dashboard").iterdir(), key=lambda file: file.name):
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _TYPES:
            path = _PATHS.get(file.name, f"/{file.name}")
            defined.append(web.get(path, _response(file.read_bytes(), _TYPES[suffix])))
    return defined


def _response(body: bytes, content_type: str):  # type: ignore[no-untyped-def]
    async def response(_: web.Request) -> web.Response:
        charset = None if content_type.startswith("image/") else "utf-8"
        return web.Response(body=body, content_type=content_type, charset=charset, headers=PAGE_HEADERS)

    return response
