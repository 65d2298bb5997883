"""Asks for work of one task type: never for more than can start now.

Backlog mode takes batches without waiting; once a poll comes back empty, idle mode asks for one
task at a time and lets the server hold the poll open. While there is more, slots count as free once
only their report is left to do, so that it and the next poll are under way together. A poll that
was sent is never abandoned: its tasks would wait for their response timeout with nobody at work on
them.
"""

from __future__ import annotations

from collections.abc import Sequence

from perago_worker.attempt.backoff import Backoff
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

ENDING_PATIENCE_S = 1.0
"""How long a task waits for a slot that was about to report when the task was asked for. Reports
take milliseconds; one that takes longer has met with trouble."""

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
        backlog, more = True, False
        while not self.stopping.is_set():
            self.tick()
            if not self.pool.wait_free(LONGEST_WAIT_S, or_ending=more):
                continue
            if self.stopping.is_set():
                return
            # In this order, so that a slot that becomes free in between is not counted twice.
            free = self.pool.free
            ending = self.pool.claim_ending() if more else 0
            leases = self._poll_for(free + ending, wait=not backlog)
            if leases is None:
                continue
            if leases or not ending:
                more = backlog and bool(leases)
                backlog = bool(leases)
            self._hand_over(leases, patience_s=ENDING_PATIENCE_S if ending else 0.0)

    def _poll_for(self, slots: int, *, wait: bool) -> list[Lease] | None:
        if not slots:
            return None
        return self._poll(1, self._idle_wait_s) if wait else self._poll(min(slots, MAX_BATCH), 0.0)

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

    def _hand_over(self, leases: Sequence[Lease], *, patience_s: float = 0.0) -> None:
        give_up_at = self._clock.now() + patience_s
        for lease in leases:
            running = self.pool.running(lease.task_id)
            if running is not None:
                if not running.keeper.adopt(lease):
                    self._give_back(lease, "an earlier attempt still ends", after_s=ENDING_WAIT_S)
            elif self.stopping.is_set():
                self._give_back(lease, "the worker stops")
            elif not self._take(lease, give_up_at):
                self._give_back(lease, "more tasks came than slots are free")

    def _take(self, lease: Lease, give_up_at: float) -> bool:
        if self.pool.take(lease):
            return True
        left_s = give_up_at - self._clock.now()
        return left_s > 0 and self.pool.wait_free(left_s) and self.pool.take(lease)

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
