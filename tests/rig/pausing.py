"""Stops a worker, and the process of its body, at one place, until somebody continues them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perago_worker.events import Event
from tests.rig.history import Journal, Paused
from tests.rig.kill_points import boundary_of
from tests.rig.taps import Call

BODY = "body"
"""The place within a body: the body's process stops first, and its worker at the next heartbeat."""

_ORDER, _STOPPED = "pause-body", "paused-body"


class Pauser:
    """Stops its own process at one place, once: a tap for calls and a listener for steps.

    Args:
        point: The place, named as kill points are, or `BODY`.
        alone: Whether to stop only when no other thread is in the middle of a call: it could be in
            a transaction, and would keep the file of an embedded queue locked.
    """

    def __init__(self, point: str, journal: Journal, *, case: Path, alone: bool) -> None:
        self._point = point
        self._journal = journal
        self._case = case
        self._alone = alone
        self._changed = threading.Condition()
        self._calls = 0
        self._paused = False
        if point == BODY:
            (case / _ORDER).touch()

    def tap(self, call: Call) -> Any:
        """Make a call; stop before or after it if this is the place."""
        place = f"call.{call.name}.{call.nth}"
        self._pause_if(f"{place}.before")
        with self._counted():
            answer = call.perform()
        self._pause_if(f"{place}.after")
        if self._point == BODY and call.name == "queue.extend":
            self._pause_with_body()
        return answer

    def on_event(self, event: Event) -> None:
        """Stop if this is the boundary."""
        self._pause_if(f"step.{boundary_of(event)}")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    def _pause_if(self, place: str) -> None:
        if self._point == place:
            self._pause()

    def _pause_with_body(self) -> None:
        if (self._case / _STOPPED).exists():
            self._pause()

    def _pause(self) -> None:
        with self._changed:  # which nobody enters before the process is continued
            if self._paused:
                return
            self._paused = True
            if self._alone:
                self._changed.wait_for(lambda: not self._calls)
            self._journal.note(Paused(self._point, os.getpid()))
            _stop()


def _stop() -> None:
    # To this thread, which then does not get any further; of a signal to the process any thread may
    # take care, and this one could go on for a moment.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def pause_body(case: Path) -> None:
    """Stop the process of the body if it is to, the first time."""
    try:
        (case / _ORDER).unlink()
    except FileNotFoundError:
        return
    unready = case / f"{_STOPPED}.part"
    unready.write_text(str(os.getpid()))
    unready.rename(case / _STOPPED)
    _stop()


def paused_body(case: Path) -> int | None:
    """Return the process id of the body that stopped, if one did."""
    stopped = case / _STOPPED
    return int(stopped.read_text()) if stopped.exists() else None
