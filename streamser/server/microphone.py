"""The server's own microphone: one Listener, whose events go to all clients of /ws/events."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from streamser.events import EmotionEvent, StreamEnded
from streamser.server.hub import Hub, going_away
from streamser.server.protocol import CLOSE_TRY_LATER, Refusal, status_message
from streamser.server.sender import Sender
from streamser.stream.pipeline import Listener

_STATUS_S = 0.1


class Microphone:
    """Sends events and levels to clients, never audio."""

    def __init__(self, listener: Listener, hub: Hub) -> None:
        self.listener = listener
        self.end: StreamEnded | None = None
        """The event that ended the microphone's stream; None while the stream runs."""
        self._hub = hub
        self._senders: set[Sender] = set()
        self._events = listener.subscribe(maxsize=4096)

    async def start(self) -> None:
        """Start the microphone."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server was stopped
                loop.call_soon_threadsafe(self._drain)

        self._events.on_put = wake
        self.listener.start()
        self._status_task = asyncio.create_task(self._send_status())

    async def close(self) -> None:
        self._status_task.cancel()
        await asyncio.to_thread(self.listener.close)

    def join(self, sender: Sender) -> None:
        """Send events to this client from now on."""
        if self.end is not None:
            raise self._over(self.end)
        status = self.listener.status()
        sender.put(
            {
                **self._hub.describe(),
                "type": "ready",
                "stream": self.listener.name,
                "recording": status.recording is not None,
                "device": status.device,
                "position_s": status.position_s,
            }
        )
        self._senders.add(sender)

    def leave(self, sender: Sender) -> None:
        self._senders.discard(sender)

    def _drain(self) -> None:
        while (event := self._events.get(0)) is not None:
            self._hub.count(event)
            self._send_all(event.to_dict(), droppable=isinstance(event, EmotionEvent) and not event.final)
            if isinstance(event, StreamEnded):
                self.end = event
                for sender in list(self._senders):
                    sender.refuse(self._over(event))

    def _send_all(self, message: dict[str, Any], *, droppable: bool) -> None:
        for sender in list(self._senders):
            sender.put(message, droppable=droppable)

    async def _send_status(self) -> None:
        """Send level and voice activity ten times a second while a client is connected."""
        while True:
            await asyncio.sleep(_STATUS_S)
            for sender in list(self._senders):
                sender.put(status_message(self.listener.status(), sender.queue.dropped), droppable=True)

    def _over(self, event: StreamEnded) -> Refusal:
        if self._hub.draining:
            return going_away()
        return Refusal("microphone_ended", event.error or "the microphone's stream has ended", CLOSE_TRY_LATER)
