"""Clocks for tests."""

from __future__ import annotations

import threading
import time

_EVENT_CHECK_S = 0.005
_GIVE_UP_S = 30.0


class ManualClock:
    """A `Clock` that stands still until a test moves it.

    Both readings move together. `wait` blocks its thread until the event is set or the clock was
    moved far enough, whichever comes first, so that a test decides what a waiting thread sees.
    """

    def __init__(self, *, now: float = 1_000.0, time: float = 1_700_000_000.0) -> None:
        self._now = now
        self._offset = time - now
        self._waiting = 0
        self._changed = threading.Condition()

    def now(self) -> float:
        """Return the reading that leases and deadlines are measured with."""
        with self._changed:
            return self._now

    def time(self) -> float:
        """Return the wall-clock reading."""
        with self._changed:
            return self._now + self._offset

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block until `event` is set or the clock was moved by `seconds`; return whether it is."""
        with self._changed:
            deadline = self._now + seconds
            self._waiting += 1
            self._changed.notify_all()
            # An event cannot notify the condition, so it is looked at every few milliseconds.
            while not event.is_set() and self._now < deadline:
                self._changed.wait(_EVENT_CHECK_S)
            self._waiting -= 1
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Move both readings forward and let the threads go on whose wait is over."""
        with self._changed:
            self._now += seconds
            self._changed.notify_all()

    def shift_time(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; `now` stays."""
        with self._changed:
            self._offset += seconds
            self._changed.notify_all()

    def until_waiting(self, threads: int = 1) -> None:
        """Return once at least so many threads are in `wait`.

        Raises:
            TimeoutError: They were not within 30 seconds of real time.
        """
        give_up = time.monotonic() + _GIVE_UP_S
        with self._changed:
            while self._waiting < threads:
                left = give_up - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self._waiting} of {threads} threads wait for the clock")
                self._changed.wait(left)
