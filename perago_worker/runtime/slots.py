"""Capacity for attempts: each slot is a thread that carries out one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from perago_worker.attempt.context import Attempt, Tools
from perago_worker.attempt.pipeline import carry_out
from perago_worker.attempt.stop import StopCause
from perago_worker.models import Lease
from perago_worker.ports import Clock
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.reports import MAX_TOGETHER, LateReports, Unreported
from perago_worker.runtime.service import ThreadService
from perago_worker.runtime.waiting import Waiting, can_wait
from perago_worker.task import TaskDefinition

Taken = Literal["begun", "waits", "full"]
"""What became of a delivery: an attempt has begun, it waits for a slot, or there is no room."""


class Slot(ThreadService):
    """One thread with one warm body, and the attempt it carries out, if any."""

    def __init__(
        self,
        name: str,
        definition: TaskDefinition,
        *,
        tools: Tools,
        heartbeats: Heartbeats,
        pool: SlotPool,
    ) -> None:
        """Prepare; the slot asks its pool what comes next."""
        super().__init__(name, clock=tools.clock)
        self._definition = definition
        self._tools = tools
        self._heartbeats = heartbeats
        self._pool = pool
        self._work = threading.Event()
        self._attempt: Attempt | None = None
        self._serving = False
        self._ending = False
        self.unreported = Unreported(tools.clock)

    @property
    def busy(self) -> bool:
        """Whether an attempt is being carried out, about to be, or still to be reported."""
        return self._attempt is not None or bool(self.unreported)

    @property
    def free(self) -> bool:
        """Whether the slot can take an attempt; one that failed must be started again first."""
        return self._attempt is None and self._serving

    @property
    def attempt(self) -> Attempt | None:
        """The attempt in progress or about to be."""
        return self._attempt

    @property
    def attempts(self) -> list[Attempt]:
        """That attempt and those that are still to be reported."""
        # In this order, so that one that ends in between is not missed.
        running = self._attempt
        return [*([running] if running is not None else []), *self.unreported.attempts]

    def claim_ending(self) -> bool:
        """Return True, once for each time, when only reports are left to do.

        Not of attempts with a workspace: removing that may take long after the report.
        """
        claimed, self._ending = self._ending, False
        return claimed

    @property
    def ending(self) -> bool:
        """Whether `claim_ending` would return True."""
        return self._ending

    def take(self, lease: Lease) -> None:
        """Begin with an attempt; the slot must be free, or have the one before behind it."""
        # Made here and not in the slot's thread, so that the attempt can be found and stopped from
        # the moment its lease is known.
        self._attempt = Attempt.begin(self._definition, lease, self._tools)
        self._work.set()

    def clear(self) -> None:
        """Be without an attempt; it must have ended."""
        self._attempt = None

    def stop(self) -> None:
        """End after the attempt in progress."""
        super().stop()
        self._work.set()

    def run(self) -> None:
        """Carry out one attempt after the other, with the body kept warm in between."""
        body = self._tools.body
        try:
            body.warm_up()
            self._serving = True
            self._pool.tell_poller()
            while not self.stopping.is_set() or self._attempt is not None:
                self._work.wait()
                self._work.clear()
                if self._attempt is not None:
                    self._work_off(self._attempt)
        finally:
            self._serving = False
            body.close()

    def silent_for_s(self) -> float:
        """Return 0: a slot may be silent for as long as its body takes."""
        return 0.0

    def _work_off(self, attempt: Attempt | None) -> None:
        """Carry out an attempt, and those that may begin before it is reported; then report."""
        started_at, count, longest_s = self._tools.clock.now(), 0, 0.0
        try:
            while attempt is not None:
                attempt.leaving.enter_context(self._heartbeats.watching(attempt.keeper))
                ended = carry_out(attempt)
                self.unreported.add(ended)
                count += 1
                longest_s = max(longest_s, ended.seconds)
                # The next is expected to take as long as the longest so far.
                may_follow = count < MAX_TOGETHER and self.unreported.room_for(longest_s)
                attempt = self._pool.follow(self) if may_follow else None
            self._report()
            mean_s = (self._tools.clock.now() - started_at) / count
            self._pool.learn(max(mean_s, longest_s))
            self._pool.release(self)
        except BaseException:
            self._serving = False  # before the slot is free: nobody would be at work in it
            self._ending = False
            self._attempt = None
            raise
        finally:
            if self._attempt is None:
                self._pool.tell_poller()

    def _report(self) -> None:
        if not self._definition.has_workspace:
            self._ending = True
            self._pool.tell_poller()
        self.unreported.report_all()
        self._ending = False


class SlotPool:
    """The slots of one task type."""

    def __init__(
        self,
        definition: TaskDefinition,
        *,
        size: int,
        make_tools: Callable[[], Tools],
        heartbeats: Heartbeats,
        clock: Clock,
        take_ahead_s: float = 0.0,
    ) -> None:
        """Prepare the slots.

        Args:
            make_tools: Called once for each slot: every slot has a body of its own.
            take_ahead_s: How much work may wait for each slot, in seconds. Reports are held back
                while it does; with 0 none are.
        """
        self._freed = threading.Event()
        self._woken = False
        self._clock = clock
        # Between slots, which take what waits, and the poller, which adds to it.
        self._lock = threading.Lock()
        work_s = take_ahead_s if can_wait(definition) else 0.0
        self._waiting = Waiting(work_s=work_s, slots=size, clock=clock)
        self.slots = [
            Slot(
                f"slot {definition.name} {number}",
                definition,
                tools=make_tools(),
                heartbeats=heartbeats,
                pool=self,
            )
            for number in range(size)
        ]
        self._late_reports = LateReports(
            f"late reports {definition.name}", [slot.unreported for slot in self.slots], clock=clock
        )
        self._holds_reports = work_s > 0

    @property
    def helpers(self) -> list[ThreadService]:
        """Services beside the slots; to be stopped after them."""
        return [self._late_reports] if self._holds_reports else []

    @property
    def free(self) -> int:
        """Number of slots that can take an attempt now."""
        return sum(slot.free for slot in self.slots)

    @property
    def busy(self) -> int:
        """Number of slots with attempts."""
        return sum(slot.busy for slot in self.slots)

    @property
    def waiting(self) -> int:
        """Number of tasks that wait for a slot."""
        return len(self._waiting)

    def shortest_lease_s(self) -> float:
        """Return the shortest time that a lease in use may be relied on; infinite when none is."""
        attempts = [attempt for slot in self.slots for attempt in slot.attempts]
        return min((a.keeper.remaining_s for a in attempts), default=float("inf"))

    @property
    def room(self) -> int:
        """How many more tasks may be taken than there are slots for them."""
        with self._lock:
            return self._waiting.room

    @property
    def patience_s(self) -> float:
        """Seconds until a task has waited here for too long; infinite when none waits."""
        with self._lock:
            return self._waiting.patience_s

    def claim_ending(self) -> int:
        """Return how many slots have come to their report since this was asked before.

        None while tasks wait, which these slots will take.
        """
        return 0 if self._waiting else sum(slot.claim_ending() for slot in self.slots)

    def _any_ending(self) -> bool:
        return not self._waiting and any(slot.ending for slot in self.slots)

    def tell_poller(self) -> None:
        """Let the poller know that a slot is free or soon will be."""
        if not self._waiting:
            self._freed.set()

    def wait_free(self, timeout_s: float, *, or_ending: bool = False) -> bool:
        """Wait until a slot is free; return whether one is. Woken by `wake`, too.

        Args:
            or_ending: Whether one that `claim_ending` would count is as good.
        """
        give_up_at = self._clock.now() + timeout_s
        self._woken = False
        while True:
            self._freed.clear()
            if self.free or (or_ending and self._any_ending()):
                return True
            left_s = give_up_at - self._clock.now()
            if left_s <= 0 or self._woken:
                return False
            self._clock.wait(self._freed, left_s)

    def wake(self) -> None:
        """End a `wait_free`."""
        self._woken = True
        self._freed.set()

    def running(self, task_id: str) -> Attempt | None:
        """Return the attempt at this task that is in progress here, or still to be reported."""
        for slot in self.slots:
            for attempt in slot.attempts:
                if attempt.lease.task_id == task_id:
                    return attempt
        return None

    def take(self, lease: Lease, *, may_wait: bool = False) -> Attempt | Taken:
        """Begin with an attempt, or have the task wait for the next slot that is free.

        Returns the attempt at this task that is in progress here, if there is one.
        """
        with self._lock:
            running = self.running(lease.task_id)
            if running is not None:
                return running
            if lease.task_id in self._waiting:
                self._waiting.add(lease)
                return "waits"
            for slot in self.slots:
                if slot.free:
                    slot.take(lease)
                    return "begun"
            if not may_wait:
                return "full"
            self._waiting.add(lease)
            return "waits"

    def take_overdue(self) -> list[Lease]:
        """Take out the tasks that have waited for too long."""
        with self._lock:
            return self._waiting.take_overdue()

    def take_waiting(self) -> list[Lease]:
        """Take out all tasks that wait."""
        with self._lock:
            return self._waiting.take_all()

    def learn(self, seconds: float) -> None:
        """Take into account how long an attempt has taken."""
        with self._lock:
            self._waiting.learn(seconds)

    def follow(self, slot: Slot) -> Attempt | None:
        """Have a slot take what waits before it has reported, if it may; return what it took."""
        if not self._holds_reports:
            return None
        with self._lock:
            if not self._take_next(slot):
                return None
        self._late_reports.expect()
        return slot.attempt

    def release(self, slot: Slot) -> None:
        """Have a slot that has reported take what waits, or be free."""
        with self._lock:
            if not self._take_next(slot):
                slot.clear()

    def _take_next(self, slot: Slot) -> bool:
        lease = None if slot.stopping.is_set() else self._waiting.next()
        if lease is not None:
            slot.take(lease)
        return lease is not None

    def stop_attempts(self, cause: StopCause, detail: str) -> list[Lease]:
        """Tell every attempt in progress to stop; return their leases."""
        told = []
        for slot in self.slots:
            attempt = slot.attempt
            if attempt is not None:
                attempt.stop.trip(cause, detail)
                told.append(attempt.lease)
        return told
