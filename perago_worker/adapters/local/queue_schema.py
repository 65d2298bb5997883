"""The tables of the embedded queue, and the check that a file holds them.

A file is recognised by SQLite's application id and its layout by the user version, so that neither
somebody else's database nor one of a newer release is ever written to.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from perago_worker.errors import QueueRefused

APPLICATION_ID = 0x50455251
"""What tells our files from other SQLite files; the letters PERQ."""

SCHEMA_VERSION = 1
"""Grows by one with every change of the tables."""

# Times are wall-clock milliseconds, JSON is text. `domain` is '' for the default queue, so that it
# can be compared with `=`. STRICT tables and RETURNING are left out: distributions that ship our
# oldest Python still link SQLite releases without them.
_CREATE = f"""
BEGIN IMMEDIATE;
CREATE TABLE taskdef (
    name TEXT PRIMARY KEY,
    definition TEXT NOT NULL
);
CREATE TABLE workflow (
    id TEXT PRIMARY KEY,
    task_type TEXT NOT NULL,
    definition TEXT NOT NULL,               -- the task definition as it was at the start
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE TABLE task (
    seq INTEGER PRIMARY KEY,                -- order of scheduling
    id TEXT NOT NULL UNIQUE,
    workflow_id TEXT NOT NULL REFERENCES workflow (id) ON DELETE CASCADE,
    task_type TEXT NOT NULL,
    domain TEXT NOT NULL,
    reference_name TEXT NOT NULL,
    retry_count INTEGER NOT NULL,
    retried_task_id TEXT,                   -- the task this one is a retry of
    scheduled_ms INTEGER NOT NULL,
    first_scheduled_ms INTEGER NOT NULL,    -- of the first try
    input TEXT NOT NULL,
    status TEXT NOT NULL,
    poll_count INTEGER NOT NULL DEFAULT 0,
    worker_id TEXT,
    start_ms INTEGER NOT NULL DEFAULT 0,    -- first delivery; 0 before
    update_ms INTEGER NOT NULL,             -- the response timeout counts from here
    end_ms INTEGER NOT NULL DEFAULT 0,
    postponed_ms INTEGER NOT NULL,          -- added to the poll timeout
    queued INTEGER NOT NULL,                -- whether a poll may deliver it
    deliver_ms INTEGER NOT NULL,            -- not delivered before
    expires_ms INTEGER,                     -- when the next timeout is due
    output TEXT NOT NULL DEFAULT '{{}}',
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX task_queue ON task (task_type, domain, deliver_ms) WHERE queued = 1;
CREATE INDEX task_expiry ON task (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE INDEX task_workflow ON task (workflow_id);
CREATE INDEX task_unfinished ON task (task_type, status)
    WHERE status IN ('SCHEDULED', 'IN_PROGRESS');
CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    line TEXT NOT NULL
);
CREATE INDEX log_task ON log (task_id);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make an empty database a queue, and let nothing else pass but a queue of this version.

    The caller keeps other processes from preparing the same file meanwhile.

    Raises:
        QueueRefused: The file is a database, but not one of ours, or of a newer release.
    """
    application_id = _number(db, "PRAGMA application_id")
    version = _number(db, "PRAGMA user_version")
    if application_id != APPLICATION_ID:
        if application_id or version or _number(db, "SELECT count(*) FROM sqlite_master"):
            raise QueueRefused(
                f"{path} is a database of another program: name another file for the queue"
            )
        _use_wal(db, path)
        db.executescript(_CREATE)
    elif version > SCHEMA_VERSION:
        raise QueueRefused(
            f"{path} was written by a newer release (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): upgrade perago-worker, or name another file for the queue"
        )
    else:
        _use_wal(db, path)


def _use_wal(db: sqlite3.Connection, path: Path) -> None:
    # Readers and the writer must not block each other: idle pollers read all the time.
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise QueueRefused(
            f"{path} is on a file system without shared memory for SQLite's write-ahead log "
            f"(journal mode {mode}): name a file on a local disk for the queue"
        )


def _number(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])
