"""Clocks for cases: one on which waiting costs nothing, one that is ahead of the others."""

from __future__ import annotations

import threading
import time as wall

from perago_worker.adapters.system import SystemClock


class LeapingClock:
    """A `Clock` that stands still but for waits, which end at once, and leaps.

    So minutes of backoff and timeouts pass in no time, and a case's clock tells to the millisecond
    how long an attempt would have waited.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 1_000.0
        self._ahead = wall.time() - self._now

    def now(self) -> float:
        """Return the reading that leases and deadlines are measured with."""
        with self._lock:
            return self._now

    def time(self) -> float:
        """Return the wall-clock reading, which keeps pace."""
        with self._lock:
            return self._now + self._ahead

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Leap over the wait, unless it would not have begun."""
        if not event.is_set():
            self.leap(max(0.0, seconds))
        return event.is_set()

    def leap(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._now += seconds


class LaterClock(SystemClock):
    """The machine's clock in a worker that lives later: for it, what others hold has run out."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s

    def now(self) -> float:
        """Return the reading, that much later."""
        return super().now() + self._ahead_s

    def time(self) -> float:
        """Return the wall clock, that much later."""
        return super().time() + self._ahead_s
