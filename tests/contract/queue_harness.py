"""What the contract suite of `TaskQueue` needs of a queue beyond the port, and the local answer.

The suite plays the workflow engine, the operator and time itself through a `QueueHarness`, and the
workers through the port alone. A harness per adapter keeps the suite the same for all of them.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.queue_records import TaskRecord
from perago_worker.ports import Clock, TaskQueue
from tests.clocks import ManualClock

T = TypeVar("T")

TASKDEF: Mapping[str, Any] = {
    "ownerEmail": "contract@example.com",
    "retryCount": 3,
    "retryLogic": "FIXED",
    "retryDelaySeconds": 0,
    "responseTimeoutSeconds": 60,
    "timeoutSeconds": 0,
    "timeoutPolicy": "RETRY",
    "pollTimeoutSeconds": 0,
}
"""What `QueueHarness.define` registers, apart from the name and what the test overrides."""


@dataclass(frozen=True)
class Submitted:
    """A one-task workflow that was started."""

    workflow_id: str
    task_id: str


@dataclass(frozen=True)
class TaskView:
    """The queue's record of one task, as an operator can see it.

    Attributes:
        status: Conductor's word: SCHEDULED, IN_PROGRESS, COMPLETED, FAILED,
            FAILED_WITH_TERMINAL_ERROR, CANCELED, TIMED_OUT.
        reason: reasonForIncompletion; empty when there is none.
        log: Log lines in order; one entry may hold several, joined by newlines.
        retried_task_id: The task this one is a retry of; None for a first try.
        worker_id: Who polled it last; None when nobody has.
    """

    task_id: str
    status: str
    retry_count: int
    poll_count: int
    reason: str = ""
    output: Mapping[str, Any] = field(default_factory=dict)
    log: tuple[str, ...] = ()
    retried_task_id: str | None = None
    worker_id: str | None = None


class QueueHarness(Protocol):
    """A queue of one adapter, with the means to act on it from outside of the port.

    Methods that act (`submit`, `terminate`, ...) return once the queue has taken the action; its
    effects may take longer, which is what `eventually` is for.
    """

    clock: Clock
    """The clock the adapters were given."""

    def queue(self, worker_id: str | None = None) -> TaskQueue:
        """Return a new adapter that acts as another worker; None makes up a unique id.

        All of them see the same queue. The harness closes them.
        """

    def define(self, **fields: Any) -> str:
        """Register a task definition under a new, unique name: `TASKDEF` with `fields` on top."""

    def submit(
        self,
        task_type: str,
        task_input: Mapping[str, Any] | None = None,
        *,
        domain: str | None = None,
    ) -> Submitted:
        """Start a workflow whose only task is of `task_type`, and return once it is queued."""

    def task(self, task_id: str) -> TaskView | None:
        """Return the record of a task with its log, or None when the queue knows no such task."""

    def attempts(self, workflow_id: str) -> list[TaskView]:
        """Return the records of a workflow's tasks: the first try and its retries, in order."""

    def workflow_status(self, workflow_id: str) -> str:
        """Return Conductor's word: RUNNING, COMPLETED, FAILED, TIMED_OUT, TERMINATED."""

    def terminate(self, workflow_id: str, reason: str) -> None:
        """End a workflow: its unfinished tasks become CANCELED."""

    def cancel_task(self, submitted: Submitted) -> None:
        """Make one task CANCELED, as somebody who reports that status for it does."""

    def rerun(self, submitted: Submitted) -> None:
        """Run an ended workflow again from its task: same task id, same retry count."""

    def remove(self, workflow_id: str) -> None:
        """Delete a workflow and its tasks, so that the queue knows nothing of them."""

    def redeliver(self, task_type: str) -> None:
        """Put the leased tasks of a type in the queue once more although they are in progress."""

    def until_waiting(self) -> None:
        """Return once a long poll that another thread has just begun is held open."""

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass for the queue and its workers."""

    def eventually(self, probe: Callable[[], T | None], what: str) -> T:
        """Ask `probe` again and again, as time passes, and return its first answer but None.

        Raises:
            AssertionError: There was none for 120 seconds of the queue's time; it says `what`.
        """

    def close(self) -> None:
        """Close the adapters and release everything else."""


class LocalHarness:
    """The embedded queue under a manual clock."""

    clock: Clock

    def __init__(self, path: Path) -> None:
        self.clock = self._clock = ManualClock()
        self._path = path
        self._queues: list[LocalQueue] = []
        self._operator = self.queue("operator")

    def queue(self, worker_id: str | None = None) -> LocalQueue:
        queue = LocalQueue(
            self._path, clock=self._clock, worker_id=worker_id or f"worker-{uuid.uuid4()}"
        )
        self._queues.append(queue)
        return queue

    def define(self, **fields: Any) -> str:
        name = f"contract.{uuid.uuid4().hex}"
        self._operator.register_taskdef({**TASKDEF, **fields, "name": name})
        return name

    def submit(
        self,
        task_type: str,
        task_input: Mapping[str, Any] | None = None,
        *,
        domain: str | None = None,
    ) -> Submitted:
        submitted = self._operator.submit(task_type, task_input or {}, domain=domain)
        return Submitted(submitted.workflow_id, submitted.task_id)

    def task(self, task_id: str) -> TaskView | None:
        found = [record for record in self._operator.tasks() if record.task_id == task_id]
        return _view(found[0]) if found else None

    def attempts(self, workflow_id: str) -> list[TaskView]:
        records = self._operator.tasks(workflow_id=workflow_id)
        return [_view(record) for record in reversed(records)]

    def workflow_status(self, workflow_id: str) -> str:
        return self._operator.tasks(workflow_id=workflow_id)[0].workflow_status

    def terminate(self, workflow_id: str, reason: str) -> None:
        self._operator.terminate_workflow(workflow_id, reason)

    def cancel_task(self, submitted: Submitted) -> None:
        # Cancelling the only task of a workflow and ending the workflow are one here.
        self._operator.terminate_workflow(submitted.workflow_id, "task cancelled")

    def rerun(self, submitted: Submitted) -> None:
        now_ms = int(self._clock.time() * 1000)
        self._write(
            "UPDATE workflow SET status = 'RUNNING', reason = '' WHERE id = :id",
            id=submitted.workflow_id,
        )
        self._write(
            "UPDATE task SET status = 'SCHEDULED', poll_count = 0, worker_id = NULL, start_ms = 0,"
            " end_ms = 0, scheduled_ms = :now, deliver_ms = :now, queued = 1, output = '{}',"
            " reason = '' WHERE id = :id",
            id=submitted.task_id,
            now=now_ms,
        )

    def remove(self, workflow_id: str) -> None:
        self._write("DELETE FROM workflow WHERE id = :id", id=workflow_id)

    def redeliver(self, task_type: str) -> None:
        self._write(
            "UPDATE task SET queued = 1 WHERE task_type = :type AND status = 'IN_PROGRESS'",
            type=task_type,
        )

    def until_waiting(self) -> None:
        self._clock.until_waiting()

    def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)

    def eventually(self, probe: Callable[[], T | None], what: str) -> T:
        for _ in range(1200):
            answer = probe()
            if answer is not None:
                return answer
            self._clock.advance(0.1)
        raise AssertionError(f"not within 120 seconds of the clock: {what}")

    def close(self) -> None:
        for queue in self._queues:
            queue.close()

    def _write(self, statement: str, **values: Any) -> None:
        # Behind the adapter's back: what only happens to a queue is no method of it.
        with closing(sqlite3.connect(self._path, timeout=10)) as db, db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute(statement, values)


def _view(record: TaskRecord) -> TaskView:
    return TaskView(
        task_id=record.task_id,
        status=record.status,
        retry_count=record.retry_count,
        poll_count=record.poll_count,
        reason=record.reason,
        output=record.output,
        log=record.log,
        retried_task_id=record.retried_task_id,
        worker_id=record.worker_id,
    )
