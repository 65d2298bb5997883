"""Tasks that wait in the worker for a slot: how many there may be, and for how long.

A poll costs a queue as much as a report, so a slot that asks for one short task at a time is asking
for half of its time. While there is a backlog of tasks that take a moment, a few more are therefore
taken with each poll: no more than are done within the time that was allowed, and none of a kind
that would suffer from it.
"""

from __future__ import annotations

from collections import OrderedDict

from perago_worker.definition import TaskDefinition
from perago_worker.models import Lease
from perago_worker.ports import Clock

MAX_AHEAD = 8
"""Most tasks that are taken ahead. Source: measured throughput over Conductor levels off at 8."""

PATIENCE_S = 0.5
"""How long a task waits for a slot before it is given back, for another worker to take."""

MEMORY = 0.8
"""Weight of what was known of the pace when a quicker attempt is added to it. A slower one counts
at once."""


def can_wait(definition: TaskDefinition) -> bool:
    """Whether tasks of this type may be taken before a slot is free for them.

    Not where a workspace makes attempts long. Not where no retry follows: a worker that is killed
    lets what waits in it run into its response timeout. Not where the queue counts or limits what
    is in progress.
    """
    limits = definition.controls.limits
    return not (
        definition.has_workspace
        or definition.controls.retry.count == 0
        or limits.concurrent_exec_limit
        or limits.rate_limit_per_frequency
    )


class Waiting:
    """The tasks of one type that wait, oldest first. Not thread-safe: the pool's lock guards it."""

    def __init__(self, *, work_s: float, slots: int, clock: Clock) -> None:
        """Begin with none.

        Args:
            work_s: How much work may wait for each slot, in seconds; 0 is none.
            slots: How many slots share it.
        """
        self._work_s = work_s * slots
        self._clock = clock
        self._pace_s = 0.0
        self._leases: OrderedDict[str, Lease] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def room(self) -> int:
        """How many tasks may be taken ahead, as far as attempts have shown how long they take."""
        return min(MAX_AHEAD, int(self._work_s / self._pace_s)) if self._pace_s else 0

    def learn(self, seconds: float) -> None:
        """Take into account how long an attempt has taken."""
        self._pace_s = max(seconds, self._pace_s * MEMORY + seconds * (1 - MEMORY))

    def add(self, lease: Lease) -> None:
        """Add a task; a newer delivery of one that waits takes its place."""
        self._leases[lease.task_id] = lease

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._leases

    def next(self) -> Lease | None:
        """Take out the oldest; None when there is none, or when it has waited for too long."""
        if not self._leases or self.patience_s <= 0:
            return None
        return self._leases.popitem(last=False)[1]

    @property
    def patience_s(self) -> float:
        """Seconds until the oldest has waited for too long; infinite when there is none."""
        oldest = next(iter(self._leases.values()), None)
        if oldest is None:
            return float("inf")
        return oldest.granted_at + PATIENCE_S - self._clock.now()

    def take_overdue(self) -> list[Lease]:
        """Take out those that have waited for too long."""
        overdue = []
        while self.patience_s <= 0:
            overdue.append(self._leases.popitem(last=False)[1])
        return overdue

    def take_all(self) -> list[Lease]:
        """Take out all."""
        leases = list(self._leases.values())
        self._leases.clear()
        return leases
