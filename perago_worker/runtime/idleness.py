"""Tells when a worker that runs until nothing is left has come to that point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from perago_worker.errors import QueueError
from perago_worker.ports import Clock, TaskQueue
from perago_worker.runtime.poller import Poller


class Idleness:
    """Watches for a quiet time that is long enough to mean that nothing is left.

    An empty queue is not enough: a task that a poll has just taken is neither in the queue nor yet
    known here. So once nothing waits and nothing runs, every poller must send another poll, and it
    must come back empty. Whatever is delivered meanwhile starts it all over, since what ran may
    have brought on the next task of its workflow.
    """

    def __init__(self, queue: TaskQueue, pollers: Sequence[Poller], clock: Clock) -> None:
        self._queue = queue
        self._pollers = pollers
        self._clock = clock
        self._quiet_since: float | None = None
        self._deliveries: list[int] = []

    def reached(self) -> bool:
        """Look, and return whether nothing is left. Called again and again."""
        if self._was_delivered() or not self._nothing_to_do():
            return self._start_over()
        if self._quiet_since is None:
            self._quiet_since = self._clock.now()
        if not all(poller.found_nothing_since(self._quiet_since) for poller in self._pollers):
            return False
        # Asked again, and last: a task that came and was done within this look may have brought on
        # one of another type, whose poller asked before that.
        return self._start_over() if self._was_delivered() else True

    def _start_over(self) -> Literal[False]:
        self._quiet_since = None
        return False

    def _was_delivered(self) -> bool:
        """Whether anything has been delivered since this was asked before."""
        before, self._deliveries = self._deliveries, [p.deliveries for p in self._pollers]
        return before != self._deliveries

    def _nothing_to_do(self) -> bool:
        """Whether nothing runs and nothing waits; not so when the queue cannot be asked."""
        if any(poller.pool.busy or poller.pool.waiting for poller in self._pollers):
            return False
        try:
            return not any(self._queue.depth(p.task_type, domain=p.domain) for p in self._pollers)
        except QueueError:
            return False
