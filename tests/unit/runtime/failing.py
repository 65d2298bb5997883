"""A part of the worker that fails."""

from __future__ import annotations

from perago_worker.ports import Clock
from perago_worker.runtime.service import ThreadService


class Failing(ThreadService):
    """Fails as often as it is told to, then works until it is stopped."""

    def __init__(self, failures: int, *, clock: Clock) -> None:
        super().__init__("failing", clock=clock)
        self.runs = 0
        self._failures = failures

    def run(self) -> None:
        self.runs += 1
        if self.runs <= self._failures:
            raise ValueError(f"failure {self.runs}")
        self.stopping.wait()
