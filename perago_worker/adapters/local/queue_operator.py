"""What a workflow engine's users do: register, start, end and look at tasks."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from perago_worker.adapters.local import queue_tasks as tasks
from perago_worker.adapters.local.queue_records import (
    COLUMNS,
    Rules,
    SubmittedTask,
    TaskRecord,
    TaskRow,
    stored_rules,
    to_json,
)
from perago_worker.errors import QueueRefused


def definition(db: sqlite3.Connection, name: str) -> dict[str, Any] | None:
    """Return a registered task definition, or None when there is none."""
    row = db.execute("SELECT definition FROM taskdef WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    found: dict[str, Any] = json.loads(row[0])
    return found


def register(db: sqlite3.Connection, taskdef: Mapping[str, Any]) -> None:
    """Register a definition over what is registered under its name.

    Raises:
        QueueRefused: The queue cannot act on the result.
    """
    merged = {**(definition(db, str(taskdef.get("name"))) or {}), **taskdef}
    rules = Rules.check(merged)
    text = to_json(merged, f"task definition {rules.name!r}")
    db.execute(
        "INSERT OR REPLACE INTO taskdef (name, definition) VALUES (?, ?)", (rules.name, text)
    )


def submit(
    db: sqlite3.Connection,
    task_type: str,
    task_input: Mapping[str, Any],
    *,
    domain: str,
    reference_name: str,
    now_ms: int,
) -> SubmittedTask:
    """Start a workflow of one task.

    Raises:
        QueueRefused: The task type is not registered, or the input is not a JSON object.
    """
    text = to_json(task_input, "task input")
    row = db.execute("SELECT definition FROM taskdef WHERE name = ?", (task_type,)).fetchone()
    if row is None:
        raise QueueRefused(_unregistered(db, task_type))
    submitted = SubmittedTask(workflow_id=str(uuid.uuid4()), task_id=str(uuid.uuid4()))
    db.execute(
        "INSERT INTO workflow (id, task_type, definition, status) VALUES (?, ?, ?, 'RUNNING')",
        (submitted.workflow_id, task_type, row[0]),
    )
    task = TaskRow(
        id=submitted.task_id,
        workflow_id=submitted.workflow_id,
        task_type=task_type,
        domain=domain,
        reference_name=reference_name,
        retry_count=0,
        retried_task_id=None,
        scheduled_ms=now_ms,
        first_scheduled_ms=now_ms,
        input=text,
        status="SCHEDULED",
        poll_count=0,
        worker_id=None,
        start_ms=0,
        update_ms=now_ms,
        end_ms=0,
        postponed_ms=0,
        queued=1,
        deliver_ms=now_ms,
        output="{}",
        reason="",
    )
    tasks.add(db, task, stored_rules(row[0]))
    return submitted


def terminate(db: sqlite3.Connection, workflow_id: str, *, reason: str, now_ms: int) -> None:
    """Cancel what is unfinished of a workflow, which ends it; one that has ended stays as it is.

    Raises:
        QueueRefused: There is no such workflow.
    """
    if db.execute("SELECT 1 FROM workflow WHERE id = ?", (workflow_id,)).fetchone() is None:
        raise QueueRefused(f"there is no workflow {workflow_id!r}")
    for task, rules in tasks.unfinished_of(db, workflow_id):
        tasks.finish(db, task, rules, "CANCELED", reason=reason, at_ms=now_ms)


def records(
    db: sqlite3.Connection, *, limit: int, workflow_id: str | None = None
) -> list[TaskRecord]:
    """Return what the queue knows of tasks, the latest scheduled first."""
    query = (
        f"SELECT workflow.status, {', '.join(f'task.{name}' for name in COLUMNS)}"  # noqa: S608 -- names of ours
        " FROM task JOIN workflow ON workflow.id = task.workflow_id"
        " WHERE ?1 IS NULL OR workflow_id = ?1 ORDER BY task.seq DESC LIMIT ?2"
    )
    found = db.execute(query, (workflow_id, limit)).fetchall()
    tasks_found = [(TaskRow(*columns), status) for status, *columns in found]
    log = _log_of(db, [task for task, _ in tasks_found])
    return [record(task, status, log=log[task.id]) for task, status in tasks_found]


def record(task: TaskRow, workflow_status: Any, *, log: Sequence[str]) -> TaskRecord:
    """Return what is told of a task."""
    return TaskRecord(
        workflow_id=task.workflow_id,
        workflow_status=workflow_status,
        task_id=task.id,
        task_type=task.task_type,
        domain=task.domain or None,
        reference_name=task.reference_name,
        status=task.status,
        retry_count=task.retry_count,
        retried_task_id=task.retried_task_id,
        poll_count=task.poll_count,
        worker_id=task.worker_id,
        reason=task.reason,
        input=json.loads(task.input),
        output=json.loads(task.output),
        log=tuple(log),
        scheduled_time_ms=task.scheduled_ms,
        start_time_ms=task.start_ms,
        end_time_ms=task.end_ms,
    )


def _log_of(db: sqlite3.Connection, found: Sequence[TaskRow]) -> Mapping[str, list[str]]:
    lines: dict[str, list[str]] = {task.id: [] for task in found}
    query = (
        "SELECT task_id, line FROM log"
        " WHERE task_id IN (SELECT value FROM json_each(?)) ORDER BY seq"
    )
    for task_id, line in db.execute(query, (json.dumps([*lines]),)):
        lines[task_id].append(line)
    return lines


def _unregistered(db: sqlite3.Connection, task_type: str) -> str:
    names = [name for (name,) in db.execute("SELECT name FROM taskdef ORDER BY name").fetchall()]
    known = ", ".join(map(repr, names)) or "none: start a worker once, which registers its tasks"
    return f"task type {task_type!r} is not registered; registered are {known}"
