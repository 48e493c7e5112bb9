"""Bounded queues between threads: for incoming audio and for outgoing events."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Literal, TypeVar

from streamser.events import EmotionEvent, Event, StreamEnded

__all__ = ["AudioQueue", "Bus", "Policy", "Subscription"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

Policy = Literal["drop", "block"]
"""Policy of a full subscription: drop the oldest partial result (without one, the oldest event), or block."""

_WAKE_S = 0.25  # longest single wait: on Windows a waiting main thread receives Ctrl-C only between waits


class AudioQueue(Generic[T]):
    """Pieces of audio, bounded by their total length; if full, it drops and counts the oldest, or `put` waits.

    >>> queue = AudioQueue[str](capacity=10, drops=True)
    >>> for piece in ("first", "second", "third"):
    ...     queue.put(piece, length=5)
    >>> queue.take(), queue.take(), queue.take()
    ((5, 'second'), (0, 'third'), None)
    """

    def __init__(self, capacity: int, *, drops: bool) -> None:
        self.capacity = capacity
        self.drops = drops
        self._items: deque[tuple[int, T]] = deque()
        self._length = 0
        self._lost = 0
        self._closed = False
        self._enough = 0  # `take` is woken when this much audio waits
        self._ripe = False  # true once `_enough` waits, until the queue is empty
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        """True after `close`; waiting pieces can still be taken."""
        return self._closed

    @property
    def finished(self) -> bool:
        """True when the queue is closed and empty."""
        return self._closed and not self._items

    def put(self, item: T, length: int) -> None:
        """Add a piece; after close(), do nothing."""
        with self._changed:
            while not self.drops and self._items and self._length + length > self.capacity and not self._closed:
                self._ripen()
                self._changed.wait(_WAKE_S)
            if self._closed:
                return
            self._items.append((length, item))
            self._length += length
            while self._length > self.capacity and len(self._items) > 1:
                dropped, _ = self._items.popleft()
                self._length -= dropped
                self._lost += dropped
            if self._length >= self._enough:
                self._ripen()

    def take(self, timeout_s: float = 0.0, enough: int = 0) -> tuple[int, T] | None:
        """Return the length lost just before the oldest piece, and that piece; None if no piece came in time.

        It waits until pieces of the length `enough` are there, or the time is up. The next calls return the other
        waiting pieces at once, so that a thread need not wake for every piece.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._enough = enough
            while not (self._items and (self._ripe or self._length >= enough)):
                remaining = deadline - time.monotonic()
                if self._closed or remaining <= 0:
                    break
                self._changed.wait(min(remaining, _WAKE_S))
            if not self._items:
                return None
            length, item = self._items.popleft()
            self._length -= length
            lost, self._lost = self._lost, 0
            self._ripe = bool(self._items)
            if not self.drops:
                self._changed.notify_all()  # threads that wait for room
            return lost, item

    def _ripen(self) -> None:
        """Wake the thread that waits in `take`."""
        if not self._ripe:
            self._ripe = True
            self._changed.notify_all()

    def close(self) -> None:
        """Accept no more pieces, and wake all waiting threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Subscription:
    """One reader's own bounded queue of events; iterate it, or `get` them one by one."""

    def __init__(self, maxsize: int, policy: Policy, on_leave: Callable[[Subscription], None] | None = None) -> None:
        if maxsize < 1:
            raise ValueError(f"maxsize: at least 1 event, not {maxsize}")
        self.maxsize = maxsize
        self.dropped = 0
        """Events lost because this reader was too slow."""
        self.on_put: Callable[[], None] | None = None
        """Called by the publishing thread after each new event."""
        self._policy: Policy = policy
        self._on_leave = on_leave
        self._events: deque[Event] = deque()
        self._lost = 0  # dropped events that were not partial results
        self._warned = False
        self._closed = False
        self._changed = threading.Condition()

    @property
    def finished(self) -> bool:
        """True when no event waits and none will be added."""
        return self._closed and not self._events

    def set_policy(self, policy: Policy) -> None:
        """Change the policy; a waiting publisher continues."""
        with self._changed:
            self._policy = policy
            self._changed.notify_all()

    def put(self, event: Event) -> None:
        """Add an event (for the publisher); with policy `block`, wait for room first."""
        with self._changed:
            while self._policy == "block" and len(self._events) >= self.maxsize and not self._closed:
                self._changed.wait(_WAKE_S)
            if self._closed:
                return
            self._events.append(event)
            if len(self._events) > self.maxsize:
                self._drop()
            if isinstance(event, StreamEnded):
                self._closed = True
            self._changed.notify_all()
        if self.on_put is not None:
            self.on_put()

    def get(self, timeout_s: float | None = None) -> Event | None:
        """Take the oldest event; None when none arrived in time, or no more will be added (see `finished`)."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._warn()
        with self._changed:
            while not self._events:
                remaining = _WAKE_S if deadline is None else deadline - time.monotonic()
                if self._closed or remaining <= 0:
                    return None
                self._changed.wait(min(remaining, _WAKE_S))
            event = self._events.popleft()
            self._changed.notify_all()
            return event

    def __iter__(self) -> Iterator[Event]:
        """Events as they arrive, up to and including StreamEnded."""
        while (event := self.get()) is not None:
            yield event

    def close(self) -> None:
        """Unsubscribe: waiting events can still be taken, and no new ones are added."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._on_leave is not None:
            self._on_leave(self)
        if self.on_put is not None:
            self.on_put()

    def _drop(self) -> None:
        """Drop the oldest partial result, or the oldest event when no partial waits."""
        self.dropped += 1
        for index, event in enumerate(self._events):
            if isinstance(event, EmotionEvent) and not event.final:
                del self._events[index]
                return
        self._events.popleft()
        self._lost += 1

    def _warn(self) -> None:
        """Report a loss once, when events are read: a queue that is never read overflows without harm."""
        if self._lost and not self._warned:
            self._warned = True
            logger.warning(
                "%d events that are not partial results were lost, because more than %d waited: read faster, or let "
                "more wait (pipeline.waiting_events, or subscribe(maxsize=...))",
                self._lost,
                self.maxsize,
            )


class Bus:
    """Give every event to every subscriber, in order.

    >>> bus = Bus()
    >>> reader = bus.subscribe()
    >>> bus.publish(StreamEnded(end=16_000))
    >>> [event.to_dict()["end_s"] for event in reader]
    [1.0]
    """

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()

    def subscribe(self, maxsize: int = 1024, policy: Policy = "drop") -> Subscription:
        """Add a reader: a queue that gets every later event."""
        subscription = Subscription(maxsize, policy, self._leave)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def publish(self, event: Event) -> None:
        """Put the event into every queue; waits if a full queue's policy is to block."""
        for subscription in self._subscriptions:
            subscription.put(event)

    def _leave(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(other for other in self._subscriptions if other is not subscription)
