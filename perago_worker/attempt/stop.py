"""Telling one attempt to stop, once, and why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from perago_worker.attempt.codes import Code
from perago_worker.errors import (
    AttemptAbandoned,
    AttemptError,
    AttemptReleased,
    RetryableAttemptError,
)


class StopCause(StrEnum):
    """Why an attempt is told to stop."""

    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    BODY_TIMEOUT = "body_timeout"
    DRAINED = "drained"
    SHUT_DOWN = "shut_down"


@dataclass(frozen=True)
class Stop:
    """The order to stop, with one line for people."""

    cause: StopCause
    detail: str

    def error(self) -> AttemptError:
        """Return the error that ends an attempt which obeys this order."""
        match self.cause:
            case StopCause.SUPERSEDED:
                return AttemptAbandoned(Code.SUPERSEDED, self.detail)
            case StopCause.CANCELLED:
                return AttemptAbandoned(Code.CANCELLED, self.detail)
            case StopCause.BODY_TIMEOUT:
                return RetryableAttemptError(Code.BODY_TIMEOUT, self.detail)
            case StopCause.DRAINED:
                return AttemptReleased(Code.DRAINED, self.detail)
            case StopCause.SHUT_DOWN:
                return AttemptReleased(Code.SHUT_DOWN, self.detail)


class StopToken:
    """An order to stop that is given at most once; the first cause stands."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop: Stop | None = None
        self._callbacks: list[Callable[[], None]] = []
        self.event = threading.Event()

    @property
    def stop(self) -> Stop | None:
        """The order, or None while there is none."""
        return self._stop

    def trip(self, cause: StopCause, detail: str) -> bool:
        """Give the order; return whether this call was the first to give one."""
        with self._lock:
            if self._stop is not None:
                return False
            self._stop = Stop(cause, detail)
            callbacks = tuple(self._callbacks)
        self.event.set()
        for callback in callbacks:
            callback()
        return True

    def check(self) -> None:
        """Raise the order's error if there is an order."""
        if self._stop is not None:
            raise self._stop.error()

    @contextmanager
    def notifying(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` once when the order is given inside the block, or was given before."""
        with self._lock:
            given = self._stop is not None
            if not given:
                self._callbacks.append(callback)
        if given:
            callback()
        try:
            yield
        finally:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)
