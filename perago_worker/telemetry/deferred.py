"""Tells a listener of events a moment later, and of many at once.

Told of each event where it happens, between a body and a request, log and metrics keep both waiting
and drive their code and data out of the processor's caches (docs/decisions/0020).
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress

from perago_worker.events import (
    AttemptStarted,
    BodyOutput,
    Event,
    Listener,
    ServiceFailed,
    Stalled,
    StateChanged,
)

DELAY_S = 0.05
"""How long an event may wait to be told of."""

MAX_WAITING = 1000
"""When more events wait, because whoever reads the log holds it up, no attempt begins and no body's
output is taken until they are told of. Other events do not wait: heartbeats above all go on."""

HELD_UP_S = 1.0
"""How long whoever cannot wait for a log that is held up waits for it: the worker as a whole, and
those who look at it."""


class Deferred:
    """A listener that tells another one, in the order of events. Safe from any thread.

    The other is told by one thread.

    Attributes:
        held_up: Whether, when this was closed, the listener could not be told of everything.

    Args:
        listener: Its errors are dropped; see `Fanout`. It tells of no events itself.
        at_once: Defer nothing: tell where an event happens. For a worker with bodies in threads of
            its own, which could end the process, or fork it.
    """

    def __init__(self, listener: Listener, *, at_once: bool = False) -> None:
        self._listener = listener
        self._at_once = at_once
        # Events, and what is set when everything before it has been told.
        self._waiting: deque[Event | threading.Event] = deque()
        self._something_waits = threading.Event()
        self._hurry = threading.Event()
        self._closed = threading.Event()
        self.held_up = False
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        if not at_once:
            self._thread.start()

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
        if self._at_once:
            self._listener.on_event(event)
            return
        self._waiting.append(event)
        match event:
            case AttemptStarted() | BodyOutput() if len(self._waiting) > MAX_WAITING:
                self.flush()
            case ServiceFailed() | Stalled() | StateChanged():
                self.flush(timeout_s=HELD_UP_S)  # the worker may end right after
            case _ if self._closed.is_set():
                self.flush(timeout_s=HELD_UP_S)
            case _ if not self._something_waits.is_set():
                self._something_waits.set()

    def flush(self, *, timeout_s: float | None = None) -> bool:
        """Wait until the listener has been told of all events so far; return whether it was.

        Args:
            timeout_s: How long to wait for that at most; it is told later then.
        """
        if self._at_once:
            return True
        told = threading.Event()
        self._waiting.append(told)
        self._hurry.set()
        self._something_waits.set()
        return told.wait(timeout_s)

    def close(self) -> None:
        """Tell of everything, within a bounded time; after this every event is told at once."""
        self._closed.set()
        self.held_up = not self.flush(timeout_s=HELD_UP_S)

    def _run(self) -> None:
        while True:
            self._something_waits.wait()
            self._hurry.wait(DELAY_S)
            self._something_waits.clear()
            self._hurry.clear()
            self._tell()

    def _tell(self) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            if isinstance(first, threading.Event):
                first.set()
                continue
            with suppress(Exception):
                self._listener.on_event(first)
