"""How far a transfer has come, told now and then: an event for every object would be too many."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, Protocol

from perago_worker.events import Listener, TransferProgress
from perago_worker.models import Lease

INTERVAL_S = 0.2
"""Time between two events of a transfer, and before the first: short ones make none."""


class Meter(Protocol):
    """Told how far a transfer is. Safe from any thread."""

    def expect(self, objects: int, size: int) -> None:
        """Note how much there is to move in all, once that is known."""

    def moved(self, size: int) -> None:
        """Count bytes; those that have to be moved again count again."""

    def done(self) -> None:
        """Count an object that is complete."""


class Unmetered:
    """A meter that nobody reads."""

    def expect(self, objects: int, size: int) -> None:
        """Do nothing."""

    def moved(self, size: int) -> None:
        """Do nothing."""

    def done(self) -> None:
        """Do nothing."""


UNMETERED = Unmetered()


class TransferMeter:
    """Tells a listener now and then how far a transfer has come. Safe from any thread.

    Args:
        now: The monotonic clock, in seconds.
    """

    def __init__(
        self,
        lease: Lease,
        direction: Literal["download", "upload"],
        *,
        listener: Listener,
        now: Callable[[], float],
    ) -> None:
        self._lease = lease
        self._direction = direction
        self._listener = listener
        self._now = now
        self._of: tuple[int, int] | tuple[None, None] = (None, None)
        self._objects = self._bytes = 0
        self._started_at = now()
        self._due_at = self._started_at + INTERVAL_S
        self._lock = threading.Lock()

    def expect(self, objects: int, size: int) -> None:
        """Note how much there is to move in all, once that is known."""
        self._of = (objects, size)

    def moved(self, size: int) -> None:
        """Count bytes; those that have to be moved again count again."""
        self._add(0, size)

    def done(self) -> None:
        """Count an object that is complete."""
        self._add(1, 0)

    def _add(self, objects: int, size: int) -> None:
        now = self._now()
        with self._lock:
            self._objects += objects
            self._bytes += size
            if now < self._due_at:
                return
            self._due_at = now + INTERVAL_S
            event = TransferProgress(
                self._lease,
                self._direction,
                objects=self._objects,
                bytes=self._bytes,
                seconds=now - self._started_at,
                of_objects=self._of[0],
                of_bytes=self._of[1],
            )
        self._listener.on_event(event)  # outside of the lock: it may take its time
