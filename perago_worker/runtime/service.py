"""One small contract that every long-lived part of the worker obeys."""

from __future__ import annotations

import threading
import traceback
from typing import Protocol

from perago_worker.ports import Clock


class Service(Protocol):
    """A long-lived part of the worker, known by its name.

    `stop` may be called twice, and before `start`. `failure` is the text of the exception that
    ended the service by itself, and None while it runs or after it was stopped.
    """

    @property
    def name(self) -> str:
        """Stable name, for logs and thread lists."""

    @property
    def failure(self) -> str | None:
        """Why the service ended by itself."""

    def start(self) -> None:
        """Begin; a service that failed may be started again."""

    def stop(self) -> None:
        """Ask to end, and return at once."""

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it has come."""

    def silent_for_s(self) -> float:
        """Return how long ago the service last showed that it makes progress."""


class ThreadService:
    """A service whose work is one function in one named thread."""

    def __init__(self, name: str, *, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._ticked_at = clock.now()
        self.failure: str | None = None
        self.stopping = threading.Event()

    @property
    def name(self) -> str:
        """Name of the service and its thread."""
        return self._name

    def start(self) -> None:
        """Start the thread."""
        self.failure = None
        self.tick()
        self._thread = threading.Thread(target=self._guarded_run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Set `stopping`; `run` returns soon after."""
        self.stopping.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def tick(self) -> None:
        """Show that the service makes progress."""
        self._ticked_at = self._clock.now()

    def silent_for_s(self) -> float:
        """Return the seconds since the last tick; 0 when the service does not run."""
        if self._thread is None or not self._thread.is_alive():
            return 0.0
        return self._clock.now() - self._ticked_at

    def run(self) -> None:
        """Work until `stopping` is set; overridden by each service."""
        self.stopping.wait()

    def _guarded_run(self) -> None:
        try:
            self.run()
        except Exception:  # noqa: BLE001 -- the supervisor decides what a dead service means
            self.failure = traceback.format_exc()
