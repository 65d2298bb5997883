"""Waiting until somebody has changed the file, for little.

SQLite tells nobody of a commit; one has to look. A look costs a few microseconds and the wait
between two looks ten times as much, so of all polls that wait in a process one looks for all.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass

from perago_worker.ports import Clock

LOOK_INTERVAL_S = 0.02
"""How often the file is looked at: half of it is the mean time until a waiting poll sees a task."""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a poll saw of the file before it looked for tasks, so that it misses nothing later."""

    version: int
    change: threading.Event


class Watch:
    """Wakes the polls of one process when another connection has committed. Thread-safe."""

    def __init__(self, *, clock: Clock, closed: threading.Event) -> None:
        self._clock = clock
        self._closed = closed
        self._looking = threading.Lock()
        self._lock = threading.Lock()
        self._change = threading.Event()

    def glimpse(self, db: sqlite3.Connection) -> Glimpse:
        """Take note of the state of the file, before looking for tasks."""
        return Glimpse(change=self._change, version=_data_version(db))

    def wait(
        self, db: sqlite3.Connection, before: Glimpse, *, event_ms: float, deadline: float
    ) -> None:
        """Block until something may have changed since `before`, on the same connection.

        Ends as well at `event_ms` on the wall clock, at `deadline` on the other one, and when the
        queue is closed; now and then for no reason.
        """
        if not self._looking.acquire(blocking=False):
            self._clock.wait(before.change, self._left_s(event_ms, deadline))
            return
        try:
            # A commit before this version was read is told to the others here, a later one below.
            version = _data_version(db)
            self.wake()
            if version != before.version:
                return
            while (left_s := self._left_s(event_ms, deadline)) > 0:
                if self._clock.wait(self._closed, min(left_s, LOOK_INTERVAL_S)):
                    return
                if _data_version(db) != version:
                    return
        finally:
            # Whoever wakes first looks from now on.
            self._looking.release()
            self.wake()

    def wake(self) -> None:
        """Let every poll look for tasks again."""
        with self._lock:
            change, self._change = self._change, threading.Event()
        change.set()

    def _left_s(self, event_ms: float, deadline: float) -> float:
        until_event_s = event_ms / 1000 - self._clock.time()
        return max(0.0, min(deadline - self._clock.now(), until_event_s))


def _data_version(db: sqlite3.Connection) -> int:
    # Differs once another connection, of any process, has committed. Numbers of two connections
    # have nothing to do with each other.
    return int(db.execute("PRAGMA data_version").fetchone()[0])
