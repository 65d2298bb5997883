"""Notices a part of the worker that makes no progress, and writes down what all threads do.

The evidence is taken at once, because what notices the failing probe will end the process.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Iterable

from perago_worker.events import Listener, Stalled
from perago_worker.ports import Clock
from perago_worker.runtime.service import Service, ThreadService

STALL_S = 120.0
"""A part that has not ticked for this long is stuck: every wait in the worker is shorter, the
longest being a poll with its request timeout and the wait after a failed one."""

LOOK_INTERVAL_S = 1.0


class Watchdog(ThreadService):
    """The service that watches the others."""

    def __init__(
        self,
        services: Callable[[], Iterable[Service]],
        *,
        clock: Clock,
        listener: Listener,
        stall_s: float = STALL_S,
    ) -> None:
        super().__init__("watchdog", clock=clock)
        self._services = services
        self._listener = listener
        self._stall_s = stall_s
        self._stuck: set[str] = set()

    def run(self) -> None:
        """Look, again and again."""
        while not self.stopping.is_set():
            self.tick()
            self.look()
            self._clock.wait(self.stopping, LOOK_INTERVAL_S)

    def look(self) -> None:
        """Tell once of every part that is newly stuck."""
        silent = {s.name: s.silent_for_s() for s in self._services()}
        stuck = {name for name, seconds in silent.items() if seconds > self._stall_s}
        for name in sorted(stuck - self._stuck):
            self._listener.on_event(Stalled(name, silent[name], stacks()))
        self._stuck = stuck


def stacks() -> str:
    """Return what every thread of this process is doing, for people."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f'Thread "{names.get(ident, ident)}":\n{"".join(traceback.format_stack(frame))}'
        for ident, frame in sorted(sys._current_frames().items())
    )
