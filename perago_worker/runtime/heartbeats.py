"""Keeps the leases of all running attempts alive.

One thread knows when the next heartbeat is due; a few more send them, so that one answer that takes
its time does not make the others late. None of them ever runs an author's code.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from perago_worker.attempt.backoff import Backoff
from perago_worker.attempt.lease_keeper import LeaseKeeper
from perago_worker.ports import Clock
from perago_worker.runtime.service import ThreadService

SENDERS = 4
LONGEST_SLEEP_S = 1.0
"""The thread looks up at least this often, to show that it lives."""


@dataclass
class _Watched:
    """One lease, when its next heartbeat is due, and whether one is being sent."""

    keeper: LeaseKeeper
    due: float
    backoff: Backoff
    sending: bool = False


class Heartbeats(ThreadService):
    """The service that sends heartbeats for the leases it is given."""

    def __init__(self, *, clock: Clock) -> None:
        super().__init__("heartbeats", clock=clock)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._watched: dict[LeaseKeeper, _Watched] = {}
        self._wakes_at = 0.0

    @contextmanager
    def watching(self, keeper: LeaseKeeper) -> Iterator[None]:
        """Send heartbeats for this lease within the block, as often as it asks for.

        One that is on its way when the block ends may still arrive; the keeper knows.
        """
        backoff = Backoff(first_s=1.0, cap_s=keeper.times.interval)
        with self._lock:
            due = keeper.next_beat_at
            self._watched[keeper] = _Watched(keeper, due, backoff)
            in_time = due >= self._wakes_at
        if not in_time:  # short attempts would pay for it: waking a thread is a tenth of their cost
            self._changed.set()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(keeper, None)

    def stop(self) -> None:
        """End once the thread has looked up."""
        super().stop()
        self._changed.set()

    def run(self) -> None:
        """Send what is due, and sleep until something is."""
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="heartbeat") as senders:
            while not self.stopping.is_set():
                self.tick()
                self._changed.clear()
                for watched in self._take_due():
                    senders.submit(self._send, watched)
                self._clock.wait(self._changed, self._sleep_s())

    def _take_due(self) -> list[_Watched]:
        now = self._clock.now()
        with self._lock:
            due = [w for w in self._watched.values() if w.due <= now and not w.sending]
            for watched in due:
                watched.sending = True
        return due

    def _sleep_s(self) -> float:
        now = self._clock.now()
        with self._lock:
            waiting = [w.due for w in self._watched.values() if not w.sending]
            self._wakes_at = min([now + LONGEST_SLEEP_S, *waiting])
            return max(0.0, self._wakes_at - now)

    def _send(self, watched: _Watched) -> None:
        keeper = watched.keeper
        try:
            result = keeper.beat(due=watched.due)
        except Exception:
            # Here a thread's work begins, and nobody looks at its future: a heartbeat that fails in
            # a way nobody thought of must not be this lease's last.
            logging.getLogger(__name__).exception("heartbeat failed")
            result = "error"
        now = self._clock.now()
        with self._lock:
            match result:
                case "held":
                    watched.backoff.reset()
                    watched.due = keeper.next_beat_at
                case "error":
                    watched.due = now + watched.backoff.next_wait()
                case "busy":
                    watched.due = now + keeper.times.interval / 2
                case "lost" | "over":
                    self._watched.pop(keeper, None)
            watched.sending = False
        self._changed.set()
