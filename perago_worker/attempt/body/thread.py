"""Bodies in a thread of the worker: for light tasks and for debugging.

Nothing is confined and nothing can be ended: a body that ignores `cancelled` holds its slot until
it returns, and what it does to the process it does to the worker.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from perago_worker.attempt.body.call import call_body
from perago_worker.attempt.body.printing import Printing, prints_taken, streams
from perago_worker.attempt.body.protocol import Call
from perago_worker.attempt.body.runner import (
    OnOutput,
    Reply,
    Stopped,
    body_timeout_detail,
    progress_line,
)
from perago_worker.attempt.stop import StopCause, StopToken
from perago_worker.current import CurrentAttempt, bind_attempt
from perago_worker.task import TaskDefinition


class _Reporter:
    def __init__(self, on_output: OnOutput) -> None:
        self._on_output = on_output

    def progress(self, done: float, total: float | None, note: str) -> None:
        self._on_output("progress", progress_line(done, total, note))

    def log(self, text: str) -> None:
        self._on_output("log", text)


class ThreadBody:
    """`BodyRunner` that calls the function in the slot's own thread."""

    def __init__(self, definition: TaskDefinition, *, printing: Printing = streams) -> None:
        self._definition = definition
        self._printing = printing

    def warm_up(self) -> None:
        """Take over what is printed; the module is loaded."""
        self._printing.needed_by(self)

    def run(self, call: Call, *, stop: StopToken, on_output: OnOutput) -> Reply:
        """Call the function; `stop` sets its `cancelled` event and makes its result void."""
        attempt = CurrentAttempt(
            workflow_id=call.workflow_id,
            task_id=call.task_id,
            task_type=self._definition.name,
            retry_count=call.retry_count,
            deadline=None if call.remaining_s is None else time.monotonic() + call.remaining_s,
            cancelled=stop.event,
            reporter=_Reporter(on_output),
        )
        workspace = None if call.workspace is None else Path(call.workspace)
        self._printing.needed_by(self)
        timer = _timer(call.remaining_s, stop)
        try:
            with bind_attempt(attempt), prints_taken(on_output):
                reply = call_body(self._definition, call.params, workspace)
        finally:
            timer.cancel()
        return Stopped() if stop.stop is not None else reply

    def close(self) -> None:
        """Give the standard streams back."""
        self._printing.not_needed_by(self)


def _timer(remaining_s: float | None, stop: StopToken) -> threading.Timer:
    timer = threading.Timer(
        remaining_s if remaining_s is not None else threading.TIMEOUT_MAX,
        stop.trip,
        (StopCause.BODY_TIMEOUT, body_timeout_detail(remaining_s)),
    )
    timer.daemon = True
    if remaining_s is not None:
        timer.start()
    return timer
