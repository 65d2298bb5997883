"""Reports that a slot holds back while it is at the tasks that wait for it.

What an attempt costs that does little is mostly time in which the processor waits for memory: its
steps, its child's and its report's code take turns in caches that hold one of them. Bodies one
after the other, and then their reports one after the other, cost less (docs/decisions/0019).

A slot holds back what it can send a moment later. When its next body takes longer than those before
it, another thread sends what is held.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from perago_worker.attempt.context import Attempt
from perago_worker.attempt.pipeline import Ended, conclude
from perago_worker.ports import Clock
from perago_worker.runtime.service import ThreadService
from perago_worker.runtime.waiting import MAX_AHEAD

MAX_TOGETHER = 1 + MAX_AHEAD
"""Most attempts that are reported together: of the tasks that one poll brings for a slot."""

HOLD_S = 0.025
"""How long a slot means to hold a report back."""

LATE_S = 0.05
"""When another thread sends it in place of the slot, whose body is then not done in time; and how
often that thread looks."""

BLOCKED_S = 0.5
"""When that thread sends it although the slot is at its reports: the one that the slot is sending
has taken so long. Two threads that report cost more than one."""


class Unreported:
    """The attempts of one slot that have ended and are not reported yet. Safe from any thread.

    They can be found here until they are reported, and their heartbeats go on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._held: deque[tuple[float, Ended]] = deque()
        self._reporting: list[Ended] = []
        self._slot_report_since: float | None = None

    def add(self, ended: Ended) -> None:
        """Hold the report of an attempt back."""
        with self._changed:
            self._held.append((self._clock.now(), ended))

    @property
    def attempts(self) -> list[Attempt]:
        """The attempts, those included whose reports are on their way."""
        with self._changed:
            return [ended.attempt for ended in (*self._reporting, *(e for _, e in self._held))]

    def room_for(self, seconds: float) -> bool:
        """Return whether an attempt that may take so long may begin before these are reported."""
        with self._changed:
            return seconds <= HOLD_S and not self._held_for(HOLD_S - seconds)

    def report_late(self) -> None:
        """Send the reports that the slot is late with, oldest first."""
        while not self._slot_reports_on and self._report_one(LATE_S):
            pass

    @property
    def _slot_reports_on(self) -> bool:
        """Whether the slot is at its reports, and not held up by one."""
        since = self._slot_report_since
        return since is not None and self._clock.now() - since < BLOCKED_S

    def report_all(self) -> None:
        """Send all reports; returns when those that another thread sends are done, too."""
        try:
            while True:
                self._slot_report_since = self._clock.now()
                if not self._report_one():
                    break
        finally:
            self._slot_report_since = None
        with self._changed:
            self._changed.wait_for(lambda: not self._reporting)

    def _report_one(self, held_for_s: float = 0.0) -> bool:
        """Send the oldest report if it has been held back for so long; tell whether it was."""
        ended = self._take(held_for_s)
        if ended is None:
            return False
        try:
            conclude(ended)
        finally:
            with self._changed:
                self._reporting.remove(ended)
                self._changed.notify_all()
        return True

    def _take(self, held_for_s: float) -> Ended | None:
        with self._changed:
            if not self._held_for(held_for_s):
                return None
            ended = self._held.popleft()[1]
            self._reporting.append(ended)
            return ended

    def _held_for(self, seconds: float) -> bool:
        return bool(self._held) and self._clock.now() - self._held[0][0] >= seconds

    def __bool__(self) -> bool:
        with self._changed:
            return bool(self._held or self._reporting)


class LateReports(ThreadService):
    """The service that sends the reports that slots have held back for too long."""

    def __init__(self, name: str, unreported: Sequence[Unreported], *, clock: Clock) -> None:
        super().__init__(name, clock=clock)
        self._unreported = unreported
        self._expected = threading.Event()

    def expect(self) -> None:
        """Look after a slot that holds a report back; costs next to nothing when it is known."""
        if not self._expected.is_set():
            self._expected.set()

    def stop(self) -> None:
        """End; the slots must have ended before."""
        super().stop()
        self._expected.set()

    def silent_for_s(self) -> float:
        """Return 0: a queue that does not answer may keep a report for minutes."""
        return 0.0

    def run(self) -> None:
        """Sleep until reports are held back; then look at them until there are none."""
        self._expected.set()  # after a failure something may be left
        while not self.stopping.is_set():
            self._expected.wait()
            self._clock.wait(self.stopping, LATE_S)
            self._expected.clear()
            for unreported in self._unreported:
                unreported.report_late()
            if any(self._unreported):
                self._expected.set()
