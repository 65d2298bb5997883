"""Asks for work of one task type: never for more than can start now or in a moment.

Backlog mode takes batches without waiting; once a poll comes back empty, idle mode asks for one
task at a time and lets the server hold the poll open. While there is more, slots count as free once
only their report is left to do, so that it and the next poll are under way together; and while
every poll brings as much as it asked for, tasks that take a moment are taken ahead. Such a task
waits in the pool; one that waits for too long is given back. A poll that was sent is never
abandoned: its tasks would wait for their response timeout with nobody at work on them.
"""

from __future__ import annotations

from collections.abc import Sequence

from perago_worker.attempt.backoff import Backoff
from perago_worker.attempt.context import Attempt
from perago_worker.errors import QueueError, QueueUnavailable
from perago_worker.events import GivenBack, Listener, PollFinished
from perago_worker.models import Held, Lease
from perago_worker.ports import MAX_POLL_WAIT_S, Clock, TaskQueue
from perago_worker.runtime.service import ThreadService
from perago_worker.runtime.slots import SlotPool

MAX_BATCH = 16
"""Largest batch: more gains nothing. Source: measured throughput over Conductor levels off at 8."""

LONGEST_WAIT_S = 1.0
"""How long the poller waits for a free slot before it looks up, to show that it lives."""

EARLY_SHARE = 0.8
"""An empty answer that came before this part of the asked wait did not wait at all: some servers
ignore the wait, and must not be asked without pause."""

GIVE_BACK_TRIES = 3

ENDING_WAIT_S = 1.0
"""How long a task waits that was delivered while an earlier attempt at it is being ended here."""


class Poller(ThreadService):
    """The service that polls for one task type and hands what comes to its slots."""

    def __init__(
        self,
        task_type: str,
        *,
        queue: TaskQueue,
        pool: SlotPool,
        domain: str | None,
        idle_wait_s: float,
        clock: Clock,
        listener: Listener,
    ) -> None:
        """Prepare.

        Args:
            idle_wait_s: How long the server may hold a poll open while there is no work.
        """
        super().__init__(f"poller {task_type}", clock=clock)
        self.task_type = task_type
        self.pool = pool
        self._queue = queue
        self._idle_wait_s = min(idle_wait_s, MAX_POLL_WAIT_S)
        self.domain = domain
        self._listener = listener
        self._backoff = Backoff(first_s=0.5, cap_s=30.0)
        self.deliveries = 0
        self._empty_since: float | None = None
        self.polled_at: float | None = None
        self.last_error = ""

    def stop(self) -> None:
        """Send no further poll; the one in flight ends by itself."""
        super().stop()
        self.pool.wake()

    def found_nothing_since(self, moment: float) -> bool:
        """Whether the last poll was sent at or after `moment` and came back empty."""
        return self._empty_since is not None and self._empty_since >= moment

    def run(self) -> None:
        """Poll until told to stop."""
        self._run()
        for lease in self.pool.take_waiting():
            self._give_back(lease, "the worker stops")

    def _run(self) -> None:
        backlog, more, deep = True, False, False
        while not self.stopping.is_set():
            self.tick()
            for lease in self.pool.take_overdue():
                self._give_back(lease, "no slot became free for it in time")
            wait_s = min(LONGEST_WAIT_S, max(0.0, self.pool.patience_s))
            if not self.pool.wait_free(wait_s, or_ending=more):
                continue
            if self.stopping.is_set():
                return
            # In this order, so that a slot that becomes free in between is not counted twice.
            free = self.pool.free
            ending = self.pool.claim_ending() if more else 0
            if not free + ending:
                continue
            ahead = self.pool.room if deep else 0
            count = min(free + ending + ahead, MAX_BATCH) if backlog else 1
            leases = self._poll(count, 0.0 if backlog else self._idle_wait_s)
            if leases is None:
                continue
            if leases or not ending:
                more = backlog and bool(leases)
                backlog = bool(leases)
            deep = more and len(leases) >= count
            self._hand_over(leases, may_wait=count - free)

    def _poll(self, count: int, wait_s: float) -> list[Lease] | None:
        """Poll once; return None, after a wait, when nothing was learnt."""
        started_at = self._clock.now()
        try:
            leases = self._queue.poll(
                self.task_type, count=count, wait_s=wait_s, domain=self.domain
            )
        except QueueError as error:
            self._after_error(error, self._clock.now() - started_at)
            return None
        seconds = self._clock.now() - started_at
        self._backoff.reset()
        self.last_error = ""
        self.polled_at = self._clock.now()
        self._tell(leases, seconds)
        self.deliveries += len(leases)
        self._empty_since = None if leases else started_at
        if not leases and wait_s and seconds < wait_s * EARLY_SHARE:
            self._clock.wait(self.stopping, wait_s - seconds)
        return leases

    def _after_error(self, error: QueueError, seconds: float) -> None:
        self._empty_since = None
        self.last_error = str(error)
        wait_s = self._backoff.next_wait()
        self._listener.on_event(
            PollFinished(self.task_type, "error", 0, seconds, str(error), wait_s)
        )
        self._clock.wait(self.stopping, wait_s)

    def _tell(self, leases: Sequence[Lease], seconds: float) -> None:
        self._listener.on_event(
            PollFinished(
                self.task_type, "tasks" if leases else "empty", count=len(leases), seconds=seconds
            )
        )

    def _hand_over(self, leases: Sequence[Lease], *, may_wait: int = 0) -> None:
        """Have attempts begin.

        Args:
            leases: What came.
            may_wait: How many of them may wait until a slot is free.
        """
        for lease in leases:
            if self.stopping.is_set() and self.pool.running(lease.task_id) is None:
                self._give_back(lease, "the worker stops")
                continue
            match self.pool.take(lease, may_wait=may_wait > 0):
                case Attempt(keeper=keeper):
                    if not keeper.adopt(lease):
                        self._give_back(
                            lease, "an earlier attempt still ends", after_s=ENDING_WAIT_S
                        )
                case "waits":
                    may_wait -= 1
                case "full":
                    self._give_back(lease, "more tasks came than slots are free")

    def _give_back(self, lease: Lease, why: str, *, after_s: float = 0.0) -> None:
        error = ""
        backoff = Backoff(first_s=0.25, cap_s=2.0)
        for tries in range(GIVE_BACK_TRIES):
            try:
                if tries == 0 or isinstance(self._queue.observe(lease), Held):
                    # Repeated only while it is ours: it would take it from whoever has it now.
                    self._queue.give_back(lease, after_s=after_s)
            except QueueUnavailable as unavailable:
                error = str(unavailable)
                self._clock.wait(self.stopping, backoff.next_wait())
            except QueueError as refused:
                error = str(refused)
                break
            else:
                error = ""
                break
        self._listener.on_event(GivenBack(lease, why, error))
