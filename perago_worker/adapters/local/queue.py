"""`TaskQueue` embedded: a SQLite file, several processes at once, no server.

It keeps the promises of Conductor and its habits too: reports and extensions are taken from anyone
who knows the task id, late ones are ignored in silence, and only `observe` tells who holds a lease.
A worker that is safe on one is safe on the other. Nothing lags, though: timeouts are evaluated in
every call that could notice them. Time is the machine's wall clock, the only one that processes
share across reboots, as it is on the server.

For those without a workflow engine it also starts and ends workflows of one task, and shows them.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from perago_worker.adapters.local import queue_operator, queue_tasks
from perago_worker.adapters.local.queue_database import Database, writing
from perago_worker.adapters.local.queue_records import (
    UNFINISHED,
    Rules,
    SubmittedTask,
    TaskRecord,
    TaskRow,
    TaskStatus,
    clean,
    to_json,
)
from perago_worker.adapters.local.queue_timeouts import given_back
from perago_worker.adapters.local.queue_watch import Watch
from perago_worker.errors import QueueRefused
from perago_worker.models import Held, Lease, Lost, Observation, Outcome
from perago_worker.models.outcome import MAX_REASON_CHARS
from perago_worker.ports import MAX_POLL_WAIT_S, Clock, TaskEnd

_Act = Callable[[sqlite3.Connection, TaskRow, Rules, int], None]
"""A change of an unfinished task, within a transaction, at a time in wall-clock milliseconds."""

_STATUS: Final[Mapping[str, TaskStatus]] = {
    "completed": "COMPLETED",
    "failed": "FAILED",
    "terminal": "FAILED_WITH_TERMINAL_ERROR",
}


class LocalQueue:
    """`TaskQueue` over a SQLite file; what its methods promise is in the port.

    Raises:
        QueueRefused: The file cannot be opened, or is not a queue of this release.
    """

    def __init__(self, path: Path, *, clock: Clock, worker_id: str) -> None:
        self._clock = clock
        self._worker_id = worker_id
        self._closed = threading.Event()
        self._watch = Watch(clock=clock, closed=self._closed)
        self._db = Database(path)

    def ping(self) -> None:
        """Read from the file."""
        with self._db.connection() as db:
            db.execute("SELECT count(*) FROM taskdef").fetchone()

    def poll(
        self, task_type: str, *, count: int, wait_s: float, domain: str | None = None
    ) -> list[Lease]:
        """Take up to `count` tasks, never the same twice; `close` ends the wait."""
        if count < 1 or not 0 <= wait_s <= MAX_POLL_WAIT_S:
            raise QueueRefused(
                f"a poll for {count} tasks that waits {wait_s} s is refused: at least 1 task, "
                f"and from 0 to {MAX_POLL_WAIT_S} s"
            )
        deadline = self._clock.now() + wait_s
        with self._db.connection() as db:
            while True:
                before = self._watch.glimpse(db)
                leases = self._take(db, task_type, domain or "", count)
                if leases or self._closed.is_set() or self._clock.now() >= deadline:
                    return leases
                event_ms = queue_tasks.next_event_ms(db, task_type, domain or "", self._now_ms())
                self._watch.wait(db, before, event_ms=event_ms, deadline=deadline)

    def observe(self, lease: Lease) -> Observation:
        """Compare the task's row with the lease."""
        with self._db.connection() as db:
            self._expire(db)
            found = queue_tasks.find(db, lease.task_id)
            if found is None:
                return Lost(why="gone", detail=f"the queue knows no task {lease.task_id}")
            task, _ = found
            return _judge(task, lease, retried=queue_tasks.retried(db, task))

    def extend(self, lease: Lease) -> None:
        """Restart the response timeout of a task that has not ended."""

        def act(db: sqlite3.Connection, task: TaskRow, rules: Rules, now_ms: int) -> None:
            queue_tasks.store(db, replace(task, update_ms=now_ms), rules)

        self._if_unfinished(lease, act)

    def complete(self, lease: Lease, outcome: Outcome, *, timeout_s: float | None = None) -> None:
        """End a task that has not ended, and schedule its retry or end its workflow."""
        status = _STATUS.get(outcome.kind)
        if status is None:
            raise ValueError(f"an outcome of kind {outcome.kind} is not reported")
        output = to_json(outcome.output or {}, "task output")

        def act(db: sqlite3.Connection, task: TaskRow, rules: Rules, now_ms: int) -> None:
            queue_tasks.log(db, task.id, map(clean, outcome.log))
            queue_tasks.finish(
                db,
                replace(task, worker_id=lease.worker_id),
                rules,
                status,
                reason=clean(outcome.full_reason),
                output=output,
                at_ms=now_ms,
            )

        self._if_unfinished(lease, act, timeout_s=timeout_s)

    def give_back(self, lease: Lease, *, after_s: float = 0.0) -> None:
        """Queue a task again that has not ended."""
        if not 0 <= after_s < float("inf"):
            raise QueueRefused(f"a task cannot be given back after {after_s} s")

        def act(db: sqlite3.Connection, task: TaskRow, rules: Rules, now_ms: int) -> None:
            after_ms = round(after_s * 1000)
            queue_tasks.store(db, given_back(task, after_ms=after_ms, now_ms=now_ms), rules)

        self._if_unfinished(lease, act)

    def append_log(self, lease: Lease, lines: Sequence[str]) -> None:
        """Add lines to the log of a task that exists, ended or not."""
        with self._db.transaction() as db:
            if queue_tasks.find(db, lease.task_id) is not None:
                queue_tasks.log(db, lease.task_id, map(clean, lines))

    def ended(self, task_id: str) -> TaskEnd:
        """Read how a task has ended from its row."""
        with self._db.connection() as db:
            self._expire(db)
            found = queue_tasks.find(db, task_id)
        if found is None:
            return "gone"
        task, _ = found
        if task.unfinished:
            return "running"
        return "completed" if task.status == "COMPLETED" else "failed"

    def depth(self, task_type: str, *, domain: str | None = None) -> int:
        """Count the tasks that wait."""
        with self._db.connection() as db:
            self._expire(db)
            return queue_tasks.count_of(
                db, [task_type], statuses=("SCHEDULED",), domain=domain or ""
            )

    def taskdef(self, name: str) -> dict[str, Any] | None:
        """Return a definition as it was registered, without defaults."""
        with self._db.connection() as db:
            return queue_operator.definition(db, name)

    def register_taskdef(self, taskdef: Mapping[str, Any]) -> None:
        """Register a definition over what is registered under its name."""
        with self._db.transaction() as db:
            queue_operator.register(db, taskdef)

    def close(self) -> None:
        """Let waiting polls return empty, and close the file."""
        self._closed.set()
        self._db.close()

    # --- beyond the port ---

    def submit(
        self,
        task_type: str,
        task_input: Mapping[str, Any],
        *,
        domain: str | None = None,
        reference_name: str | None = None,
    ) -> SubmittedTask:
        """Start a workflow whose only task waits in the queue from now on.

        Within the workflow the task is called `reference_name`, or as its type.

        Raises:
            QueueRefused: The task type is not registered, or the input is not a JSON object.
                Conductor would run an unregistered type with defaults; here it is taken for a typo.
        """
        with self._db.transaction() as db:
            return queue_operator.submit(
                db,
                task_type,
                task_input,
                domain=domain or "",
                reference_name=reference_name or task_type,
                now_ms=self._now_ms(),
            )

    def terminate_workflow(self, workflow_id: str, reason: str) -> None:
        """End a workflow; its unfinished tasks become CANCELED. One that has ended stays so.

        Raises:
            QueueRefused: There is no such workflow.
        """
        with self._db.transaction() as db:
            now_ms = self._now_ms()
            queue_tasks.expire(db, now_ms)
            queue_operator.terminate(
                db, workflow_id, reason=clean(reason)[:MAX_REASON_CHARS], now_ms=now_ms
            )

    def tasks(self, *, limit: int = 100, workflow_id: str | None = None) -> list[TaskRecord]:
        """Return the latest tasks, of all workflows or of one, the latest scheduled first."""
        with self._db.connection() as db:
            self._expire(db)
            return queue_operator.records(db, limit=limit, workflow_id=workflow_id)

    def idle(self, task_types: Collection[str], *, domain: str | None = None) -> bool:
        """Tell whether no task of these types waits, is leased or will be retried.

        Unlike in other methods, `domain` None stands for all domains.
        """
        with self._db.connection() as db:
            self._expire(db)
            return not queue_tasks.count_of(db, [*task_types], statuses=UNFINISHED, domain=domain)

    # --- inner workings ---

    def _now_ms(self) -> int:
        return int(self._clock.time() * 1000)

    def _expire(self, db: sqlite3.Connection) -> None:
        # Looking is cheap and blocks nobody; only what is due makes the caller a writer.
        if queue_tasks.overdue(db, self._now_ms()):
            with writing(db):
                queue_tasks.expire(db, self._now_ms())

    def _take(self, db: sqlite3.Connection, task_type: str, domain: str, count: int) -> list[Lease]:
        if not queue_tasks.due(db, task_type, domain, self._now_ms()):
            return []
        with writing(db):
            # Stored times are cut to milliseconds, so the lease may count from up to one earlier.
            granted_at = self._clock.now() - 0.001
            now_ms = self._now_ms()
            queue_tasks.expire(db, now_ms)
            delivered = queue_tasks.deliver(
                db, task_type, domain, count=count, worker_id=self._worker_id, now_ms=now_ms
            )
        return [_lease(task, rules, granted_at) for task, rules in delivered]

    def _if_unfinished(self, lease: Lease, act: _Act, *, timeout_s: float | None = None) -> None:
        with self._db.transaction(timeout_s=timeout_s) as db:
            now_ms = self._now_ms()
            queue_tasks.expire(db, now_ms)
            found = queue_tasks.find(db, lease.task_id)
            if found is not None and found[0].unfinished:
                act(db, *found, now_ms)


def _lease(task: TaskRow, rules: Rules, granted_at: float) -> Lease:
    return Lease(
        task_type=task.task_type,
        domain=task.domain or None,
        workflow_id=task.workflow_id,
        workflow_type=task.task_type,
        task_id=task.id,
        reference_name=task.reference_name,
        retry_count=task.retry_count,
        poll_count=task.poll_count,
        worker_id=task.worker_id or "",
        start_time_ms=task.start_ms,
        scheduled_time_ms=task.scheduled_ms,
        response_timeout_s=rules.response_timeout_seconds,
        timeout_s=rules.timeout_seconds,
        poll_timeout_s=rules.poll_timeout_seconds,
        input=json.loads(task.input),
        granted_at=granted_at,
    )


def _judge(task: TaskRow, lease: Lease, *, retried: bool) -> Observation:
    if task.status in ("COMPLETED", "FAILED", "FAILED_WITH_TERMINAL_ERROR"):
        return Lost(why="reported", detail=f"the task is {task.status}")
    if not task.unfinished:
        # A timeout takes the task from its worker either for another try or with the workflow.
        why: Literal["superseded", "cancelled"] = "superseded" if retried else "cancelled"
        return Lost(why=why, detail=f"the task is {task.status}: {task.reason}")
    if task.status == "SCHEDULED":
        return Lost(why="superseded", detail="the task waits in the queue again")
    held_by = (task.retry_count, task.poll_count, task.worker_id, task.start_ms)
    if held_by != (lease.retry_count, lease.poll_count, lease.worker_id, lease.start_time_ms):
        detail = f"delivery {task.poll_count} of the task is with worker {task.worker_id}"
        return Lost(why="superseded", detail=detail)
    return Held()
