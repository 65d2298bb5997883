"""Asks the queue now and then how many tasks wait, for those who watch or scale workers."""

from __future__ import annotations

from collections.abc import Mapping

from perago_worker.errors import QueueError
from perago_worker.events import Listener, QueueSeen
from perago_worker.ports import Clock, TaskQueue
from perago_worker.runtime.service import ThreadService

INTERVAL_S = 30.0


class QueueSurvey(ThreadService):
    """The service that tells how many tasks wait.

    Args:
        domains: The domain that is polled for each task type; None is the default queue.
    """

    def __init__(
        self,
        queue: TaskQueue,
        *,
        domains: Mapping[str, str | None],
        clock: Clock,
        listener: Listener,
    ) -> None:
        super().__init__("queue survey", clock=clock)
        self._queue = queue
        self._domains = domains
        self._listener = listener

    def run(self) -> None:
        """Ask for each task type, wait, and so on. Whether it can be asked, pollers tell."""
        while not self.stopping.is_set():
            for task_type, domain in self._domains.items():
                self.tick()
                try:
                    waiting = self._queue.depth(task_type, domain=domain)
                except QueueError:
                    continue
                self._listener.on_event(QueueSeen(task_type, waiting))
            self._clock.wait(self.stopping, INTERVAL_S)
