"""Capacity for attempts: each slot is a thread that carries out one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

from perago_worker.attempt.context import Attempt, Tools
from perago_worker.attempt.lease_keeper import LeaseKeeper
from perago_worker.attempt.pipeline import run_attempt
from perago_worker.attempt.stop import StopCause, StopToken
from perago_worker.attempt.task_log import TaskLog
from perago_worker.models import Lease
from perago_worker.ports import Clock
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.service import ThreadService
from perago_worker.task import TaskDefinition


class Slot(ThreadService):
    """One thread with one warm body, and the attempt it carries out, if any."""

    def __init__(
        self,
        name: str,
        definition: TaskDefinition,
        *,
        tools: Tools,
        heartbeats: Heartbeats,
        on_free: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            on_free: Called when the slot is free or soon will be.
        """
        super().__init__(name, clock=tools.clock)
        self._definition = definition
        self._tools = tools
        self._heartbeats = heartbeats
        self._on_free = on_free
        self._work = threading.Event()
        self._attempt: Attempt | None = None
        self._serving = False
        self._ending = False

    @property
    def busy(self) -> bool:
        """Whether an attempt is being carried out or about to be."""
        return self._attempt is not None

    @property
    def free(self) -> bool:
        """Whether the slot can take an attempt; one that failed must be started again first."""
        return self._attempt is None and self._serving

    @property
    def attempt(self) -> Attempt | None:
        """The attempt in progress or about to be."""
        return self._attempt

    def claim_ending(self) -> bool:
        """Return True, once for each attempt, when only its report is left to do.

        Not of attempts with a workspace: removing that may take long after the report.
        """
        claimed, self._ending = self._ending, False
        return claimed

    @property
    def ending(self) -> bool:
        """Whether `claim_ending` would return True."""
        return self._ending

    def take(self, lease: Lease) -> None:
        """Begin with an attempt; the slot must be free."""
        # Made here and not in the slot's thread, so that the attempt can be found and stopped from
        # the moment its lease is known.
        self._attempt = self._begin(lease)
        self._work.set()

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
            self._on_free()
            while not self.stopping.is_set() or self._attempt is not None:
                self._work.wait()
                self._work.clear()
                if self._attempt is not None:
                    self._carry_out(self._attempt)
        finally:
            self._serving = False
            body.close()

    def silent_for_s(self) -> float:
        """Return 0: a slot may be silent for as long as its body takes."""
        return 0.0

    def _carry_out(self, attempt: Attempt) -> None:
        try:
            with self._heartbeats.watching(attempt.keeper):
                run_attempt(attempt)
        except BaseException:
            self._serving = False  # before the slot is free: nobody would be at work in it
            raise
        finally:
            self._ending = False
            self._attempt = None
            self._on_free()

    def _ends(self) -> None:
        if not self._definition.has_workspace:
            self._ending = True
            self._on_free()

    def _begin(self, lease: Lease) -> Attempt:
        tools = self._tools
        stop = StopToken()
        keeper = LeaseKeeper(
            lease,
            queue=tools.queue,
            clock=tools.clock,
            heartbeat_interval_s=tools.settings.budget.heartbeat_s,
            stop=stop,
            shut_down=tools.shut_down,
            listener=tools.listener,
        )
        log = TaskLog(
            queue=tools.queue,
            clock=tools.clock,
            listener=tools.listener,
            redact=tools.redact,
            lease=lease,
        )
        return Attempt(
            self._definition,
            keeper=keeper,
            stop=stop,
            tools=tools,
            log=log,
            on_ending=self._ends,
        )


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
    ) -> None:
        """Prepare the slots.

        Args:
            make_tools: Called once for each slot: every slot has a body of its own.
        """
        self._freed = threading.Event()
        self._woken = False
        self._clock = clock
        self.slots = [
            Slot(
                f"slot {definition.name} {number}",
                definition,
                tools=make_tools(),
                heartbeats=heartbeats,
                on_free=self._freed.set,
            )
            for number in range(size)
        ]

    @property
    def free(self) -> int:
        """Number of slots that can take an attempt now."""
        return sum(slot.free for slot in self.slots)

    @property
    def busy(self) -> int:
        """Number of slots with an attempt."""
        return sum(slot.busy for slot in self.slots)

    def shortest_lease_s(self) -> float:
        """Return the shortest time that a lease in use may be relied on; infinite when none is."""
        attempts = [slot.attempt for slot in self.slots]
        return min((a.keeper.remaining_s for a in attempts if a is not None), default=float("inf"))

    def claim_ending(self) -> int:
        """Return how many slots have come to their report since this was asked before."""
        return sum(slot.claim_ending() for slot in self.slots)

    def wait_free(self, timeout_s: float, *, or_ending: bool = False) -> bool:
        """Wait until a slot is free; return whether one is. Woken by `wake`, too.

        Args:
            or_ending: Whether one that `claim_ending` would count is as good.
        """
        give_up_at = self._clock.now() + timeout_s
        self._woken = False
        while True:
            self._freed.clear()
            if self.free or (or_ending and any(slot.ending for slot in self.slots)):
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
        """Return the attempt at this task that is in progress here."""
        for slot in self.slots:
            attempt = slot.attempt
            if attempt is not None and attempt.lease.task_id == task_id:
                return attempt
        return None

    def take(self, lease: Lease) -> bool:
        """Begin with an attempt; return False when no slot is free."""
        for slot in self.slots:
            if slot.free:
                slot.take(lease)
                return True
        return False

    def stop_attempts(self, cause: StopCause, detail: str) -> list[Lease]:
        """Tell every attempt in progress to stop; return their leases."""
        told = []
        for slot in self.slots:
            attempt = slot.attempt
            if attempt is not None:
                attempt.stop.trip(cause, detail)
                told.append(attempt.lease)
        return told
