"""Moving git references so that nobody's move is lost.

libgit2 compares and swaps: `Reference.set_target` fails, under git's own lock of that reference,
when it is not any more what it was when looked up. So does a `git push`, and neither can undo the
other. Creating a reference is not exclusive in libgit2, and the lock file of a killed process stays
for ever; for both, the processes of this store take turns by a lock that the kernel frees.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pygit2
from pygit2.enums import ReferenceType

from perago_worker.errors import HeadMoved, NotFound, PublishUnknown, StoreUnavailable

LOCK_WAIT_S = 5.0
"""How long an operation waits for its turn, or for a git process that holds a reference."""

STALE_LOCK_S = 5.0
"""A reference's lock file older than this was left by a process that was killed.

Git holds one for the time of one small write. No living process of this store holds it either,
since whoever removes it has the turn. What remains is a foreign git process that was suspended in
the middle of its write; it fails when it goes on."""

_PAUSE_S = 0.002
_BRANCHES = "refs/heads/"


@contextmanager
def turn(directory: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Keep this store's other threads and processes from changing references of a repository.

    Raises:
        StoreUnavailable: Somebody else had the turn for all of `wait_s` seconds.
    """
    descriptor = os.open(directory / "perago.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _acquire(descriptor, time.monotonic() + wait_s)
        try:
            yield
        finally:
            # Closing would not do while a child forked meanwhile still has the descriptor.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def branch_head(repo: pygit2.Repository, branch: str) -> pygit2.Commit:
    """Return the commit a branch is at.

    Raises:
        NotFound: There is no such branch.
    """
    found = repo.get(_branch(repo, branch).target)
    if not isinstance(found, pygit2.Commit):
        raise NotFound("branch", branch)
    return found


def create_branch(repo: pygit2.Repository, branch: str, commit: pygit2.Oid) -> None:
    """Create a branch. The caller has the turn.

    Raises:
        ValueError: It exists, or git takes no such name.
    """
    repo.references.create(_BRANCHES + branch, commit)


def move_branch(
    repo: pygit2.Repository, branch: str, *, expected: pygit2.Oid, to: pygit2.Oid, wait_s: float
) -> None:
    """Move a branch from one commit to another. The caller has the turn.

    Args:
        wait_s: How long to wait for a git process that holds the branch.

    Raises:
        HeadMoved: The branch is not at `expected`; it was not moved.
        StoreUnavailable: The branch could not be written; it was not moved.
        PublishUnknown: It could not be written, and then not be read either.
    """
    deadline = time.monotonic() + wait_s
    while (failure := _try_move(repo, branch, expected, to)) is not None:
        if _target(repo, branch, failure) == to:
            return  # moved, and failed after that
        if time.monotonic() >= deadline:
            raise StoreUnavailable(
                f"branch {branch!r} is locked by another program or cannot be written"
            ) from failure
        _remove_stale_lock(repo, branch)
        time.sleep(_PAUSE_S)


def _acquire(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise StoreUnavailable("the repository is busy: others change it") from error
            time.sleep(_PAUSE_S)
        else:
            return


def _branch(repo: pygit2.Repository, branch: str) -> pygit2.Reference:
    try:
        reference = repo.references[_BRANCHES + branch]
    except (KeyError, ValueError) as error:
        raise NotFound("branch", branch) from error
    if reference.type == ReferenceType.SYMBOLIC:
        raise NotFound("branch", branch)
    return reference


def _try_move(
    repo: pygit2.Repository, branch: str, expected: pygit2.Oid, to: pygit2.Oid
) -> Exception | None:
    reference = _branch(repo, branch)
    if reference.target != expected:
        raise HeadMoved(branch, str(expected), str(reference.target))
    try:
        reference.set_target(to)
    except (pygit2.GitError, OSError, ValueError) as failure:
        return failure
    return None


def _target(repo: pygit2.Repository, branch: str, failure: Exception) -> pygit2.Oid | str:
    try:
        return _branch(repo, branch).target
    except (pygit2.GitError, OSError):
        raise PublishUnknown(f"branch {branch!r} could not be read back") from failure


def _remove_stale_lock(repo: pygit2.Repository, branch: str) -> None:
    lock = Path(repo.path) / f"{_BRANCHES}{branch}.lock"
    with suppress(FileNotFoundError):
        if time.time() - lock.stat().st_mtime > STALE_LOCK_S:
            lock.unlink()
