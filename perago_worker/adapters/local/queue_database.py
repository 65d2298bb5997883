"""Connections to the queue's file, transactions, and SQLite's errors in our words.

Several threads and processes use one file at once. Each call borrows a connection of its own from
a pool; writers queue up in SQLite, which makes them wait and gives up after the busy timeout.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perago_worker.adapters.local.queue_schema import prepare
from perago_worker.errors import QueueRefused, QueueUnavailable

REQUEST_TIMEOUT_S = 15.0
"""How long a call waits for other writers before it fails, unless it says otherwise."""

_PASSING = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
)
_ADVICE = {
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database: name another file for the queue",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, or restore a copy",
    sqlite3.SQLITE_CANTOPEN: "make its folder exist and writable, or name another file",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable, or name another file",
    sqlite3.SQLITE_PERM: "make the file and its folder writable, or name another file",
}


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Raise SQLite's errors as `QueueUnavailable` when they may pass, else as `QueueRefused`."""
    try:
        yield
    except sqlite3.Error as error:
        # An extended code carries its primary one in the low byte. Python's own errors have none.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in _PASSING:
            raise QueueUnavailable(f"queue {path} is not available now: {error}") from error
        advice = _ADVICE.get(code)
        message = f"queue {path} cannot be used: {error}"
        raise QueueRefused(f"{message}; {advice}" if advice else message) from error


class Database:
    """A pool of connections to one file, which is created when it is missing.

    Raises:
        QueueRefused: The file cannot be opened or is not a queue of this release.
        QueueUnavailable: Other processes kept it locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        with _alone_in_folder(path), translated_errors(path):
            db = self._open()
            try:
                prepare(db, path)
            except BaseException:
                db.close()
                raise
        self._put_back(db)

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """Borrow a connection in autocommit mode; every statement sees the latest commit."""
        with translated_errors(self._path):
            db = self._take()
            try:
                yield db
            finally:
                self._put_back(db)

    @contextmanager
    def transaction(self, *, timeout_s: float | None = None) -> Iterator[sqlite3.Connection]:
        """Borrow a connection as the only writer; commit at the end, or undo on an exception."""
        with self.connection() as db, writing(db, timeout_s=timeout_s):
            yield db

    def close(self) -> None:
        """Close the idle connections now and the borrowed ones when they come back. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise QueueUnavailable(f"queue {self._path} has been closed")
            if self._idle:
                return self._idle.pop()
        return self._open()

    def _put_back(self, db: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(db)
                return
        db.close()

    def _open(self) -> sqlite3.Connection:
        # Borrowed by one thread at a time, hence not bound to the one that opened it.
        db = sqlite3.connect(
            self._path, timeout=REQUEST_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        # In WAL mode NORMAL survives the death of any process. A power cut may undo the last
        # moments, which shows as tasks delivered again, and a queue may always do that.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        return db


@contextmanager
def writing(db: sqlite3.Connection, *, timeout_s: float | None = None) -> Iterator[None]:
    """Be the only writer; commit at the end, or undo everything on an exception."""
    _wait_for_others(db, REQUEST_TIMEOUT_S if timeout_s is None else timeout_s)
    try:
        # IMMEDIATE: a transaction that read first could not become a writer after another commit.
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _wait_for_others(db: sqlite3.Connection, seconds: float) -> None:
    db.execute(f"PRAGMA busy_timeout = {max(0, int(seconds * 1000))}")


@contextmanager
def _alone_in_folder(path: Path) -> Iterator[None]:
    # Looking at a new file and making it a queue is not one transaction, and switching to WAL heeds
    # no busy timeout. So users of a file open it one after another, by a lock on its folder.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise QueueRefused(
            f"the folder of queue {path} cannot be used: {error.strerror}; "
            "make it exist and writable, or name another file"
        ) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
