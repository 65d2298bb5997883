"""Tells a listener of events a moment later, and of many at once.

Told of each event where it happens, between a body and a request, log and metrics keep both waiting
and drive their code and data out of the processor's caches (docs/decisions/0020).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection

from perago_worker.events import (
    Event,
    Listener,
    ServiceFailed,
    Stalled,
    StateChanged,
    StepStarted,
)

DELAY_S = 0.05
"""How long an event may wait to be told of."""

MAX_WAITING = 1000
"""More events do not wait: whoever brings the next one tells the listener of all of them first, at
the listener's pace."""


class Deferred:
    """A listener that tells another one, in the order of events. Safe from any thread.

    The other is told by one thread at a time.

    Args:
        listener: Must not raise; see `Fanout`.
        in_process: Task types whose bodies run in this process and could end it. What came before
            such a body begins is told of at once: the log then knows which one it was.
    """

    def __init__(self, listener: Listener, *, in_process: Collection[str] = ()) -> None:
        self._listener = listener
        self._in_process = frozenset(in_process)
        self._waiting: deque[Event] = deque()
        self._telling = threading.Lock()
        self._something_waits = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def on_event(self, event: Event) -> None:
        """Take note of one event."""
        self._waiting.append(event)
        if self._cannot_wait(event):
            self.flush()
        elif not self._something_waits.is_set():
            self._something_waits.set()

    def _cannot_wait(self, event: Event) -> bool:
        match event:
            case StepStarted(lease, "body") if lease.task_type in self._in_process:
                return True
            case ServiceFailed() | Stalled() | StateChanged():
                return True  # the worker may end right after
        return len(self._waiting) > MAX_WAITING or self._closed.is_set()

    def flush(self, *, timeout_s: float | None = None) -> None:
        """Tell the listener of all events so far.

        Args:
            timeout_s: How long to wait while the listener is being told of others, which its log
                may hold up; what waits is then told of later. Without it, as long as that takes.
        """
        if not self._telling.acquire(timeout=-1 if timeout_s is None else timeout_s):
            return
        try:
            for _ in range(len(self._waiting)):
                self._listener.on_event(self._waiting.popleft())
        finally:
            self._telling.release()

    def close(self) -> None:
        """Tell of everything; from now on, of each event at once. Idempotent."""
        self._closed.set()
        self._something_waits.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._something_waits.wait()
            self._closed.wait(DELAY_S)
            self._something_waits.clear()
            self.flush()
