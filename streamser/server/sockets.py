"""The two WebSockets: /ws/stream takes a client's audio, /ws/events sends the events of the server's microphone."""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web

from streamser.server.client import StreamClient
from streamser.server.hub import Hub, going_away
from streamser.server.microphone import Microphone
from streamser.server.protocol import (
    CLOSE_NOT_FOUND,
    CLOSE_TIMEOUT,
    CLOSE_TOKEN,
    CLOSE_TRY_LATER,
    Hello,
    Refusal,
    hello_of_query,
    parse_hello,
)
from streamser.server.security import shown_token, token_matches
from streamser.server.sender import Sender, open_socket

_HELLO_S = 10.0  # a client must send its first message within this time


class Sockets:
    """The handlers: count each client, exchange hello and ready, serve it, and close its connection."""

    def __init__(self, hub: Hub, microphone: Microphone | None) -> None:
        self._hub = hub
        self._microphone = microphone

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """Serve a client that sends audio and gets the events of this audio."""
        ws, sender = await self._let_in(request)
        sending = asyncio.create_task(sender.run())
        try:
            self._check_room()
            hello = await self._greet(ws, request)
            if hello is not None:
                await self._serve(ws, sender, hello)
        except Refusal as refusal:
            sender.refuse(refusal)
        finally:
            await self._show_out(sender, sending)
        return ws

    async def events(self, request: web.Request) -> web.WebSocketResponse:
        """Serve a client that gets the events of the server's microphone."""
        ws, sender = await self._let_in(request)
        sending = asyncio.create_task(sender.run())
        try:
            self._check_room()
            if not token_matches(shown_token(request.headers, request.query), self._hub.config):
                await self._greet(ws, request, audio=False)
            if self._microphone is None:
                raise Refusal(
                    "no_microphone", "this server does not use its microphone; start it with --mic", CLOSE_NOT_FOUND
                )
            await self._subscribe(ws, sender, self._microphone)
        except Refusal as refusal:
            sender.refuse(refusal)
        finally:
            await self._show_out(sender, sending)
        return ws

    async def _let_in(self, request: web.Request) -> tuple[web.WebSocketResponse, Sender]:
        ws = open_socket(self._hub.config)
        if not ws.can_prepare(request):
            raise web.HTTPUpgradeRequired(text="this address is a WebSocket")
        await ws.prepare(request)
        sender = Sender(ws, request.transport, self._hub.config, self._hub.metrics)
        self._hub.senders.add(sender)
        return ws, sender

    async def _show_out(self, sender: Sender, sending: asyncio.Task[None]) -> None:
        sender.finish()
        try:
            await sending
        finally:
            self._hub.senders.discard(sender)

    def _check_room(self) -> None:
        if self._hub.draining:
            raise going_away()
        most = self._hub.config.max_clients
        if len(self._hub.senders) > most:
            raise Refusal("too_many_clients", f"{most} clients are already connected; try again later", CLOSE_TRY_LATER)

    async def _greet(self, ws: web.WebSocketResponse, request: web.Request, *, audio: bool = True) -> Hello | None:
        """The client's checked hello, from a message or from the address; None when it left without one."""
        text = hello_of_query(request.query) if audio else None
        if text is None:
            text = await self._first_message(ws)
        if text is None:
            return None
        hello = parse_hello(text, audio=audio)
        shown = shown_token(request.headers, request.query) or hello.token
        if not token_matches(shown, self._hub.config):
            raise Refusal("token", "this server needs a token, in hello or as a Bearer header", CLOSE_TOKEN)
        return hello

    async def _first_message(self, ws: web.WebSocketResponse) -> str | None:
        timeout_s = min(_HELLO_S, self._hub.config.idle_timeout_s)
        try:
            message = await ws.receive(timeout_s)
        except asyncio.TimeoutError:
            raise Refusal("no_hello", f"no hello arrived within {timeout_s:g} s", CLOSE_TIMEOUT) from None
        if message.type is WSMsgType.BINARY:
            raise Refusal("no_hello", "the first message must be a hello in JSON; audio comes after it")
        return message.data if message.type is WSMsgType.TEXT else None

    async def _serve(self, ws: web.WebSocketResponse, sender: Sender, hello: Hello) -> None:
        worker = await self._hub.checkpoints.worker(hello.model)
        client = StreamClient(ws, sender, hello, self._hub, worker)
        sender.put(
            {
                **self._hub.describe(worker),
                "type": "ready",
                "stream": client.name,
                "sample_rate": hello.sample_rate,
                "channels": hello.channels,
                "max_message_bytes": self._hub.config.max_message_bytes,
                "idle_timeout_s": self._hub.config.idle_timeout_s,
            }
        )
        await client.run()

    async def _subscribe(self, ws: web.WebSocketResponse, sender: Sender, microphone: Microphone) -> None:
        reader = asyncio.create_task(_read_nothing(ws))
        sender.on_refuse = reader.cancel
        microphone.join(sender)
        try:
            await asyncio.wait({reader})
            if not reader.cancelled():
                reader.result()
        finally:
            reader.cancel()
            microphone.leave(sender)


async def _read_nothing(ws: web.WebSocketResponse) -> None:
    """Detect when the client leaves; a hello is accepted, any other message is refused."""
    while not ws.closed:
        message = await ws.receive()
        if message.type is WSMsgType.BINARY:
            raise Refusal("bad_type", "this socket only sends events; send audio to /ws/stream")
        if message.type is WSMsgType.TEXT:
            parse_hello(message.data, audio=False)
