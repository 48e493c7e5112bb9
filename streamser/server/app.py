"""The server: routes, access checks, start and stop."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType

from streamser.errors import ConfigError, MissingExtraError

try:
    from aiohttp import web
    from aiohttp.http_exceptions import HttpProcessingError
except ImportError as error:
    raise MissingExtraError("streamser serve", "serve") from error

from streamser.events import EVENT_VERSION
from streamser.handles import ACCEPTED_AT_ONCE, affordable_connections, widen_backlog
from streamser.recognizer import Recognizer
from streamser.server import apidocs, pages, sample
from streamser.server.bodies import Bodies
from streamser.server.checkpoints import catalogue
from streamser.server.connections import ConnectionLimit
from streamser.server.export import Exporter
from streamser.server.hub import Hub
from streamser.server.label import Labeller
from streamser.server.metrics import CONTENT_TYPE
from streamser.server.microphone import Microphone
from streamser.server.options import ServerConfig
from streamser.server.protocol import CLOSE_GOING_AWAY, CLOSE_TRY_LATER, Refusal, without_paths
from streamser.server.refusals import HttpRefusal
from streamser.server.security import (
    COMMON_HEADERS,
    check_bind,
    refuse_host,
    refuse_origin,
    shown_token,
    token_matches,
)
from streamser.server.sockets import Sockets
from streamser.stream.channel import StreamConfig
from streamser.stream.pipeline import Listener
from streamser.stream.vad import one_for_each

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Only these paths need a token here: pages contain no secret, probes have no token, and /ws/* checks the token itself,
# because a client may send it in hello.
_TOKEN_PATHS = ("/v1/", "/metrics")
_SHUTDOWN_S = 0.5
_POLL_S = 0.02


class Server:
    """Serve one recognizer until closed; an async context manager.

    async with Server(streamser.load(), ServerConfig(port=0)) as server:
        print(server.url)
        await asyncio.Event().wait()
    """

    def __init__(
        self,
        recognizer: Recognizer,
        config: ServerConfig | None = None,
        stream: StreamConfig | None = None,
        microphone: Listener | None = None,
    ) -> None:
        self.config = config or ServerConfig()
        check_bind(self.config)
        self._recognizer = recognizer
        self._stream = stream or StreamConfig()
        one_for_each(self._stream.vad)
        self._listener = microphone
        self.port = self.config.port
        """The port that the server listens on; if the configuration has port 0, it is set by `start`."""

    @property
    def url(self) -> str:
        """URL of the page."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}/"

    async def start(self) -> Server:
        """Listen on the address; ConfigError if that is not possible."""
        self._hub = Hub(self._recognizer, self.config, self._stream)
        self._microphone = Microphone(self._listener, self._hub) if self._listener is not None else None
        app = web.Application(middlewares=[self._guard])
        app.add_routes(self._routes())
        app.on_shutdown.append(self._end_connections)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=_SHUTDOWN_S,
            handle_signals=False,
            keepalive_timeout=self.config.header_timeout_s,
            logger=_http_logger(),
        )
        await self._runner.setup()
        self._connections = self._limit_connections()
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._connections, self.config.host, self.config.port, backlog=ACCEPTED_AT_ONCE
            )
            widen_backlog(self._listening)
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            await self._hub.close()
            raise ConfigError(_explain(error, self.config)) from error
        self.port = self._listening.sockets[0].getsockname()[1]
        self._hub.worker.start()
        if self._microphone is not None:
            await self._microphone.start()
        return self

    async def close(self) -> None:
        """Send clients their last results for at most `drain_s`, and close about a second later."""
        self.drain()
        if self._microphone is not None:
            await self._microphone.close()
        self._hub.end_connections(spare_streams=True)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.config.drain_s
        while self._hub.is_busy and loop.time() < deadline_s:
            await asyncio.sleep(_POLL_S)
        self._listening.close()
        await self._runner.cleanup()
        await self._hub.close()

    def drain(self) -> None:
        """Accept no new client and end every stream: an open utterance gets its final. `close` does it too."""
        self._hub.drain()

    @property
    def is_busy(self) -> bool:
        """Whether a client still waits for results."""
        return self._hub.is_busy

    @property
    def is_live(self) -> bool:
        """False once a restart is necessary."""
        return self._hub.worker.is_alive

    async def __aenter__(self) -> Server:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _end_connections(self, _: web.Application) -> None:
        self._hub.end_connections()

    def _limit_connections(self) -> ConnectionLimit:
        wanted = self.config.max_connections
        most = affordable_connections(wanted, handles_each=2 if self._hub.is_recording else 1)
        if most < min(wanted, self.config.max_clients):
            logger.warning("only %d connections are allowed: the process has too few file handles (ulimit -n)", most)
        assert self._runner.server is not None
        return ConnectionLimit(
            self._runner.server, self._hub.metrics, most=most, header_timeout_s=self.config.header_timeout_s
        )

    def _routes(self) -> list[web.RouteDef]:
        bodies = Bodies(self.config)
        sockets = Sockets(self._hub, self._microphone)
        return [
            *pages.routes(),
            *apidocs.routes(self._hub.version),
            web.get("/ws/stream", sockets.stream),
            web.get("/ws/events", sockets.events),
            web.post("/v1/label", Labeller(self._hub, bodies).response),
            web.post("/v1/export", Exporter(bodies).response),
            web.get("/v1/models", self._models),
            web.get("/v1/sample", sample.response),
            web.get("/healthz", self._health),
            web.get("/livez", self._live),
            web.get("/metrics", self._metrics),
        ]

    # --- guards

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check access, and send every refusal in the same form."""
        transport = request.transport
        self._connections.begin(transport)
        try:
            return await self._respond(request, handler)
        finally:
            self._connections.end(transport)

    async def _respond(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._check(request)
            response = self._preflight(request) or await handler(request)
        except HttpRefusal as refusal:
            self._hub.metrics.count("streamser_refusals_total", reason=refusal.code)
            response = refusal.response()
        except Refusal as refused:  # raised by code that sockets and requests share
            self._hub.metrics.count("streamser_refusals_total", reason=refused.code)
            status = 503 if refused.close_code in (CLOSE_GOING_AWAY, CLOSE_TRY_LATER) else 500
            if 4400 <= refused.close_code < 4500:  # these mirror the HTTP status of the same meaning
                status = refused.close_code - 4000
            response = HttpRefusal(status, refused.code, str(refused)).response()
        except web.HTTPException as raised:
            response = HttpRefusal(
                raised.status, raised.reason.lower().replace(" ", "_"), _hint(request, raised)
            ).response()
        except (ConnectionError, web.RequestPayloadError) as error:  # the client has left, or sent a broken body
            logger.debug("%s %s: %s", request.method, request.path, error)
            response = HttpRefusal(400, "bad_body", "the body does not match its header").response()
        except Exception:
            logger.exception("%s %s", request.method, request.path)
            response = HttpRefusal(500, "failed", "an internal error of the server; its log has the reason").response()
        self._finish(request, response)
        return response

    def _check(self, request: web.Request) -> None:
        host, origin = request.headers.get("Host"), request.headers.get("Origin")
        if (why := refuse_host(host, self.config)) is not None:
            raise HttpRefusal(403, "host", why)
        if (why := refuse_origin(origin, host, self.config)) is not None:
            raise HttpRefusal(403, "origin", why)
        guarded = request.path.startswith(_TOKEN_PATHS) and request.method != "OPTIONS"
        if guarded and not token_matches(shown_token(request.headers, request.query), self.config):
            raise HttpRefusal(
                401, "token", "this server needs a token: Authorization: Bearer ...", WWW_Authenticate="Bearer"
            )

    def _preflight(self, request: web.Request) -> web.Response | None:
        """Respond to a browser's preflight request for a page of an allowed site."""
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        allowed = {
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
        }
        return web.Response(status=204, headers=allowed)

    def _finish(self, request: web.Request, response: web.StreamResponse) -> None:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "other"
        self._hub.metrics.count("streamser_requests_total", route=route, status=str(response.status))
        if response.prepared:  # a WebSocket, whose headers were sent before
            return
        response.headers.update(COMMON_HEADERS)
        if (origin := request.headers.get("Origin")) in self.config.allowed_origins and origin is not None:
            response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})

    # --- responses

    async def _models(self, _: web.Request) -> web.Response:
        """The checkpoint in use, and all installed ones."""
        bundle, metrics = self._recognizer.bundle, self._recognizer.metrics()
        current = {
            **self._hub.describe(),
            "name": bundle.name,
            "variant": bundle.variant,
            "licence": bundle.licence,
            "engine": metrics.get("engine"),
            "device": metrics.get("device"),
        }
        return web.json_response({"v": EVENT_VERSION, "current": current, "models": await asyncio.to_thread(catalogue)})

    async def _health(self, _: web.Request) -> web.Response:
        """The server's state, and whether it stores audio; status 503 unless the state is ok."""
        microphone, problems = self._microphone, self._problems()
        status = "failing" if problems else "draining" if self._hub.draining else "ok"
        return web.json_response(
            {
                "status": status,
                "live": self._hub.worker.is_alive,
                "ready": status == "ok",
                "problems": problems,
                "version": self._hub.version,
                "model": self._recognizer.bundle.name,
                "clients": len(self._hub.senders),
                "microphone": microphone is not None and microphone.end is None,
                "recording": self._hub.is_recording,
                "uptime_s": round(self._hub.uptime_s, 1),
            },
            status=200 if status == "ok" else 503,
        )

    def _problems(self) -> list[str]:
        microphone, problems = self._microphone, self._hub.problems()
        if microphone is not None and microphone.end is not None and not self._hub.draining:
            problems.append(f"microphone: {without_paths(microphone.end.error or 'its stream has ended')}")
        return problems

    async def _live(self, _: web.Request) -> web.Response:
        """Whether a restart would help: status 503 once the inference worker has ended."""
        live = self.is_live
        return web.json_response({"live": live}, status=200 if live else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        gauges = {
            **self._hub.gauges(),
            "streamser_connections": len(self._connections),
            "streamser_ready": not self._problems() and not self._hub.draining,
        }
        return web.Response(text=self._hub.metrics.text(gauges), headers={"Content-Type": CONTENT_TYPE})


class _Quiet(logging.Filter):
    """Keeps log records of the server's errors and drops those of clients' errors, which could fill the disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, (HttpProcessingError, ConnectionError, web.RequestPayloadError))


def _http_logger() -> logging.Logger:
    """The logger of aiohttp."""
    http = logging.getLogger(f"{__name__}.http")
    if not http.filters:
        http.addFilter(_Quiet())
    return http


def _hint(request: web.Request, raised: web.HTTPException) -> str:
    if raised.status == 404:
        return f"there is nothing at {request.path}; see /, /v1/models, /v1/label, /ws/stream, /ws/events, /metrics"
    if raised.status == 405:
        return f"{request.path} does not accept {request.method}"
    return raised.text or raised.reason


def _explain(error: OSError | OverflowError, config: ServerConfig) -> str:
    """The reason that an address cannot be used, and what to do."""
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return (
            f"server.port: {config.port} on {config.host} is in use, perhaps by another streamser serve; "
            "choose another with --port N, or any free one with --port 0"
        )
    if code in (errno.EACCES, errno.EPERM):
        return f"server.port: {config.port} needs more rights than this user has; choose one above 1024 with --port"
    return f"server.host: cannot listen on {config.host} ({error}); use 127.0.0.1, or an address of this machine"
