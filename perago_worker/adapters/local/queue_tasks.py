"""Tasks in the database: reading rows, storing what became of them, letting time take effect.

The functions that change anything are called inside of a transaction.
"""

from __future__ import annotations

import random
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from perago_worker.adapters.local.queue_records import (
    COLUMNS,
    Rules,
    TaskRow,
    TaskStatus,
    stored_rules,
)
from perago_worker.adapters.local.queue_timeouts import (
    End,
    after,
    ended,
    leased,
    next_limit,
    retry_of,
)

_SELECT = (
    f"SELECT {', '.join(f'task.{name}' for name in COLUMNS)}, workflow.definition"  # noqa: S608 -- names of ours
    " FROM task JOIN workflow ON workflow.id = task.workflow_id "
)


def find(db: sqlite3.Connection, task_id: str) -> tuple[TaskRow, Rules] | None:
    """Return a task and the rules its workflow started with, or None when there is none."""
    values = db.execute(_SELECT + "WHERE task.id = ?", (task_id,)).fetchone()
    return _loaded(values) if values else None


def unfinished_of(db: sqlite3.Connection, workflow_id: str) -> list[tuple[TaskRow, Rules]]:
    """Return the tasks of a workflow that something can still happen to."""
    where = "WHERE task.workflow_id = ? AND task.status IN ('SCHEDULED', 'IN_PROGRESS')"
    return [_loaded(values) for values in db.execute(_SELECT + where, (workflow_id,)).fetchall()]


def due(db: sqlite3.Connection, task_type: str, domain: str, now_ms: int) -> bool:
    """Tell whether a poll may find something, or a timeout is due that may bring it something."""
    queued = db.execute(
        "SELECT 1 FROM task WHERE queued = 1 AND task_type = ? AND domain = ? AND deliver_ms <= ?"
        " LIMIT 1",
        (task_type, domain, now_ms),
    ).fetchone()
    return queued is not None or overdue(db, now_ms)


def overdue(db: sqlite3.Connection, now_ms: int) -> bool:
    """Tell whether a timeout is due that has not taken effect yet."""
    row = db.execute("SELECT 1 FROM task WHERE expires_ms <= ? LIMIT 1", (now_ms,)).fetchone()
    return row is not None


def next_event_ms(db: sqlite3.Connection, task_type: str, domain: str, now_ms: int) -> float:
    """Return when `due` may become true without anybody writing; infinity for never."""
    delivery = db.execute(
        "SELECT min(deliver_ms) FROM task"
        " WHERE queued = 1 AND task_type = ? AND domain = ? AND deliver_ms > ?",
        (task_type, domain, now_ms),
    ).fetchone()[0]
    expiry = db.execute("SELECT min(expires_ms) FROM task WHERE expires_ms > ?", (now_ms,))
    return min(
        (at_ms for at_ms in (delivery, expiry.fetchone()[0]) if at_ms is not None),
        default=float("inf"),
    )


def deliver(
    db: sqlite3.Connection,
    task_type: str,
    domain: str,
    *,
    count: int,
    worker_id: str,
    now_ms: int,
) -> list[tuple[TaskRow, Rules]]:
    """Lease up to `count` queued tasks, longest waiting first, and no more than may run at once."""
    candidates = db.execute(
        _SELECT + "WHERE task.queued = 1 AND task.task_type = ? AND task.domain = ?"
        " AND task.deliver_ms <= ? ORDER BY task.deliver_ms, task.seq LIMIT ?",
        (task_type, domain, now_ms, count),
    ).fetchall()
    running = count_of(db, [task_type], statuses=("IN_PROGRESS",)) if candidates else 0
    delivered = []
    for task, rules in map(_loaded, candidates):
        starts = task.status != "IN_PROGRESS"  # else it is delivered twice, and counted already
        if starts and 0 < rules.concurrent_exec_limit <= running:
            continue
        lease = leased(task, worker_id=worker_id, now_ms=now_ms)
        store(db, lease, rules)
        delivered.append((lease, rules))
        running += starts
    return delivered


def finish(
    db: sqlite3.Connection,
    task: TaskRow,
    rules: Rules,
    status: TaskStatus,
    *,
    reason: str,
    at_ms: int,
    output: str = "{}",
    ends_workflow: bool = False,
) -> None:
    """End a task; schedule its retry or end its workflow, as its rules say."""
    done = ended(task, status, reason=reason, output=output, at_ms=at_ms)
    store(db, done, rules)
    jitter = random.random()  # noqa: S311 -- spreads retries, guards nothing
    follow_up = (
        End("TIMED_OUT", reason)
        if ends_workflow
        else after(task, rules, status, reason=reason, at_ms=at_ms, jitter=jitter)
    )
    if isinstance(follow_up, End):
        db.execute(
            "UPDATE workflow SET status = ?, reason = ? WHERE id = ?",
            (follow_up.status, follow_up.reason, task.workflow_id),
        )
        return
    again = retry_of(done, str(uuid.uuid4()), delay_ms=follow_up.delay_ms, at_ms=at_ms)
    add(db, again, rules)


def expire(db: sqlite3.Connection, now_ms: int) -> None:
    """Let every timeout that is due take effect, in the order in which they were due.

    A retry that comes of one may itself be overdue already, when nobody looked for long.
    """
    while True:
        values = db.execute(
            _SELECT + "WHERE task.expires_ms <= ? ORDER BY task.expires_ms LIMIT 1", (now_ms,)
        ).fetchone()
        if values is None:
            return
        task, rules = _loaded(values)
        limit = next_limit(task, rules)
        if limit is None or limit.at_ms > now_ms:
            store(db, task, rules)
            continue
        finish(
            db,
            task,
            rules,
            "TIMED_OUT",
            reason=limit.reason,
            at_ms=limit.at_ms,
            output=task.output,
            ends_workflow=limit.ends_workflow,
        )


def add(db: sqlite3.Connection, task: TaskRow, rules: Rules) -> None:
    """Insert a new task."""
    limit = next_limit(task, rules)
    values = [getattr(task, name) for name in COLUMNS]
    db.execute(
        f"INSERT INTO task ({', '.join(COLUMNS)}, expires_ms)"  # noqa: S608 -- names of ours
        f" VALUES ({', '.join('?' * len(COLUMNS))}, ?)",
        [*values, limit.at_ms if limit else None],
    )


def store(db: sqlite3.Connection, task: TaskRow, rules: Rules) -> None:
    """Write back a task's columns that can change, and when its next timeout is due."""
    limit = next_limit(task, rules)
    db.execute(
        "UPDATE task SET status = ?, poll_count = ?, worker_id = ?, start_ms = ?, update_ms = ?,"
        " end_ms = ?, postponed_ms = ?, queued = ?, deliver_ms = ?, expires_ms = ?, output = ?,"
        " reason = ? WHERE id = ?",
        (
            task.status,
            task.poll_count,
            task.worker_id,
            task.start_ms,
            task.update_ms,
            task.end_ms,
            task.postponed_ms,
            task.queued,
            task.deliver_ms,
            limit.at_ms if limit else None,
            task.output,
            task.reason,
            task.id,
        ),
    )


def log(db: sqlite3.Connection, task_id: str, lines: Iterable[str]) -> None:
    """Append lines to the log of a task that exists."""
    db.executemany(
        "INSERT INTO log (task_id, line) VALUES (?, ?)", [(task_id, line) for line in lines]
    )


def count_of(
    db: sqlite3.Connection,
    task_types: Sequence[str],
    *,
    statuses: Sequence[TaskStatus],
    domain: str | None = None,
) -> int:
    """Count tasks of some types and statuses, in all domains or in one."""
    query = (
        "SELECT count(*) FROM task"  # noqa: S608 -- question marks only
        f" WHERE task_type IN ({', '.join('?' * len(task_types))})"
        f" AND status IN ({', '.join('?' * len(statuses))})"
    )
    values: list[str] = [*task_types, *statuses]
    if domain is not None:
        query += " AND domain = ?"
        values.append(domain)
    return int(db.execute(query, values).fetchone()[0])


def retried(db: sqlite3.Connection, task: TaskRow) -> bool:
    """Tell whether another try was made of a task."""
    query = "SELECT 1 FROM task WHERE workflow_id = ? AND retried_task_id = ?"
    return db.execute(query, (task.workflow_id, task.id)).fetchone() is not None


def _loaded(values: tuple[Any, ...]) -> tuple[TaskRow, Rules]:
    *columns, definition = values
    return TaskRow(*columns), stored_rules(definition)
