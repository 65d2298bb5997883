"""What a body may ask of, and tell to, the attempt it runs in.

A body is a plain function, so its attempt is not an argument: `current_attempt()` finds it. Called
outside of a worker, as unit tests do, it finds a local stand-in that never ends and whose progress
and log go to `logging`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

_LOCAL = "local"

_logger = logging.getLogger(__name__)


class AttemptReporter(Protocol):
    """Where the runner takes what a body tells. Called from any thread of the body."""

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Pass on how far the body is."""

    def log(self, text: str) -> None:
        """Pass on text for the task's log."""


class LoggingReporter:
    """A reporter that writes to `logging`, for bodies that are called outside of a worker."""

    def progress(self, done: float, total: float | None, note: str) -> None:
        """Log how far the body is."""
        _logger.info("progress %s/%s %s", done, "?" if total is None else total, note)

    def log(self, text: str) -> None:
        """Log the text."""
        _logger.info("%s", text)


@dataclass(frozen=True)
class CurrentAttempt:
    """The attempt that a body runs in. Every method may be called from any thread.

    Attributes:
        workflow_id: `local` outside of a worker, like the next two.
        task_id: Stays the same when the task is delivered again, changes with each retry.
        task_type: Name of the task.
        retry_count: Which retry this is, from 0.
        deadline: Reading of `time.monotonic()` at which the attempt is stopped; None is never.
        cancelled: Set when the result is not wanted any more; a body that sees it had better return
            soon, by whatever way, since it is stopped after a grace period.
    """

    workflow_id: str = _LOCAL
    task_id: str = _LOCAL
    task_type: str = _LOCAL
    retry_count: int = 0
    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    reporter: AttemptReporter = field(default_factory=LoggingReporter, repr=False, compare=False)

    def remaining(self) -> float | None:
        """Return the seconds until the deadline, 0 when it has passed, None when there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell people how far the body is; changes nothing about the attempt.

        Args:
            done: What is done, in the body's own unit.
            total: All there is to do, in the same unit; None when it is not known.
            note: What is being done, in a few words.
        """
        self.reporter.progress(done, total, note)

    def log(self, text: str) -> None:
        """Add text to the task's log, where the person who looks at the workflow finds it."""
        self.reporter.log(text)


_bound: ContextVar[CurrentAttempt | None] = ContextVar("perago_attempt", default=None)


@dataclass
class _Process:
    """The attempt of a process that runs one at a time."""

    attempt: CurrentAttempt | None = None


_process = _Process()


def current_attempt() -> CurrentAttempt:
    """Return the attempt that the caller runs in, or a new local stand-in outside of a worker.

    Threads that the body starts find it as well when bodies run in processes of their own, which is
    the default. Where bodies share a process, pass it on as an argument or start the thread within
    `contextvars.copy_context().run`.
    """
    return _bound.get() or _process.attempt or CurrentAttempt()


@contextmanager
def bind_attempt(attempt: CurrentAttempt, *, process_wide: bool = False) -> Iterator[None]:
    """Let `current_attempt()` find `attempt` until the block ends, then what it found before.

    For the runner; and for tests of a body that asks for its deadline or cancellation.

    Args:
        attempt: What is found, in this context and those copied from it.
        process_wide: Also for threads that did not inherit the caller's context. Only where the
            process runs one attempt at a time.
    """
    outer = _process.attempt
    token = _bound.set(attempt)
    if process_wide:
        _process.attempt = attempt
    try:
        yield
    finally:
        _bound.reset(token)
        if process_wide:
            _process.attempt = outer
