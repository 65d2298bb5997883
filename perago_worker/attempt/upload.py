"""Putting what a body changed on a stage, every object compared with what the store says it has."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from perago_worker.attempt.backoff import Retry
from perago_worker.attempt.codes import Code
from perago_worker.attempt.manifest import FileState, Manifest, settle, settled_state
from perago_worker.attempt.meter import UNMETERED, Meter
from perago_worker.attempt.scan import open_regular
from perago_worker.attempt.transfer import DigestingReader, for_each
from perago_worker.attempt.workspace import Changes, Workspace
from perago_worker.errors import RetryableAttemptError, StoreRefused, StoreUnavailable
from perago_worker.ports import Stage, WorkspaceStore


def upload(
    changes: Changes,
    workspace: Workspace,
    stage: Stage,
    *,
    store: WorkspaceStore,
    threads: int,
    retry: Retry,
    check: Callable[[], None],
    meter: Meter = UNMETERED,
) -> Manifest:
    """Put every change on the stage and verify what the store says it stored.

    Returns:
        The states of the files that were stored.

    Raises:
        RetryableAttemptError: A file changed while it was read, or was stored as something else.
        StoreUnavailable: An object could not be stored in several tries.
    """

    def moved(size: int) -> None:
        check()  # within large files too
        meter.moved(size)

    upload_file = partial(_upload_file, moved=moved, repeats=retry.repeats)

    def send(item: tuple[str, int]) -> tuple[str, FileState]:
        path, size = item
        state = retry(upload_file, path, size, workspace, stage, store)
        meter.done()
        return path, state

    stored = dict(for_each(changes.written.items(), send, threads=threads, check=check))
    if changes.deleted:
        retry(stage.delete, [workspace.key(path) for path in changes.deleted])
    return stored


def _upload_file(
    path: str,
    size: int,
    workspace: Workspace,
    stage: Stage,
    store: WorkspaceStore,
    *,
    moved: Callable[[int], None],
    repeats: Callable[[], Callable[[], bool]],
) -> FileState:
    with open_regular(workspace.directory / path) as file:
        settle(file.fileno())
        reader = DigestingReader(file, store.new_digest(size), moved=moved, repeats=repeats)
        try:
            stored = stage.write(workspace.key(path), reader.as_binary(), size)
        except (StoreUnavailable, StoreRefused) as error:
            if os.fstat(file.fileno()).st_size < size:
                raise _changed_in_size(path) from error  # which no other try would get round
            raise
        grown = bool(file.read(1))
        checksum = reader.digest.hexdigest()
        state = settled_state(file.fileno(), size, checksum)
    if grown or reader.bytes_read != size:
        raise _changed_in_size(path)
    if (stored.size, stored.checksum) != (size, checksum):
        raise StoreUnavailable(f"file {path!a} was stored damaged")
    return state


def _changed_in_size(path: str) -> RetryableAttemptError:
    return RetryableAttemptError(
        Code.WORKSPACE_CHANGED,
        f"file {path!a} changed in size while it was being published. "
        "Nothing may write to the workspace once the body has returned.",
    )
