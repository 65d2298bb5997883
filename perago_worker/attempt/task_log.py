"""What a body says while it runs: to the worker's log at once, to the task's log in batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from perago_worker.attempt.body.runner import OutputStream
from perago_worker.errors import QueueError
from perago_worker.events import BodyOutput, Listener
from perago_worker.models import Lease
from perago_worker.ports import Clock, TaskQueue

FLUSH_INTERVAL_S = 15.0
"""How often lines go to the queue while the body runs; the rest goes with the report."""

MAX_LINES = 200
MAX_LINE_CHARS = 2000


class TaskLog:
    """Collects the lines of one attempt. Thread-safe: a body in a thread may have more of them."""

    def __init__(
        self,
        *,
        queue: TaskQueue,
        clock: Clock,
        listener: Listener,
        redact: Callable[[str], str],
        lease: Lease,
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._listener = listener
        self._redact = redact
        self._lease = lease
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._dropped = 0
        self._flushed_at = clock.now()

    def add(self, stream: OutputStream, line: str) -> None:
        """Take one line; send what has collected when it is time."""
        line = self._redact(line)
        self._listener.on_event(BodyOutput(self._lease, stream, line))
        with self._lock:
            self._append([line[:MAX_LINE_CHARS]])
            due = self._clock.now() - self._flushed_at >= FLUSH_INTERVAL_S
            if due:
                self._flushed_at = self._clock.now()
        if due:
            self._flush()

    def _append(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._dropped += len(self._lines) == MAX_LINES
            self._lines.append(line)

    def _flush(self) -> None:
        lines = self.take()
        try:
            self._queue.append_log(self._lease, lines)
        except QueueError:
            # The log is a courtesy: the lines go with the report, or the next batch.
            with self._lock:
                later = tuple(self._lines)
                self._lines.clear()
                self._append((*lines, *later))

    def take(self) -> tuple[str, ...]:
        """Return the lines that were not sent yet, and forget them."""
        with self._lock:
            note = (f"({self._dropped} earlier lines left out)",) if self._dropped else ()
            lines = (*note, *self._lines)
            self._lines.clear()
            self._dropped = 0
        return lines
