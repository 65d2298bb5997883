"""The local directories attempts work in, and how those of dead workers are told and removed.

Below the workspace root every worker process has a directory of its own and holds a lock on a file
in it. The kernel lets go of the lock when the process dies, however it dies: so a directory whose
lock can be taken belongs to nobody, whatever process ids were used again since.
"""

from __future__ import annotations

import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from perago_worker.attempt.cache import ContentCache
from perago_worker.attempt.removal import remove_tree
from perago_worker.attempt.shelf import Shelf
from perago_worker.errors import ConfigError, ConfigProblem
from perago_worker.events import Listener

SHELF_NAME = "warm"
"""Folder of the workspaces that are kept, beside those of attempts."""

SPARE_NAME = "spare"
"""Folder of the empty scratch directories that are lent to attempts without a workspace."""

CACHE_NAME = "cache"
"""Folder of the cache, beside the directories of workers; no worker owns it."""

LOCK_NAME = "owner.lock"

SCRATCH_MODE = 0o700


@dataclass(frozen=True)
class AttemptDirectory:
    """Where one attempt works.

    Attributes:
        workspace: Holds the workspace's files and nothing else; handed to the body. Of a task
            without one it does not exist.
        scratch: The body's working and temporary directory; nothing in it is published.
    """

    workspace: Path
    scratch: Path


class AttemptDirectories:
    """The directory of this process below the workspace root.

    Attributes:
        shelf: Workspaces that are kept for the next attempt of their prefix.
        cache: Objects that are kept for all workers of this root.
    """

    def __init__(
        self,
        root: Path,
        *,
        owner: str,
        warm: int = 0,
        cache_bytes: int = 0,
        listener: Listener | None = None,
    ) -> None:
        """Prepare.

        Args:
            warm: How many workspaces are kept at most.
            cache_bytes: How much the cache may hold; 0 is none.
            listener: Told what becomes of the cache.
        """
        self._root = root
        self._home = root / owner
        self.shelf = Shelf(self._home / SHELF_NAME, size=warm)
        self._spare: list[Path] = []
        self.cache = ContentCache(
            root / CACHE_NAME, scratch=self._home, max_bytes=cache_bytes, listener=listener
        )
        self._lock_fd: int | None = None

    def open(self) -> None:
        """Make this process's directory and claim it.

        Raises:
            ConfigError: The workspace root cannot be written.
        """
        try:
            while (fd := _claim(self._home)) is None:
                pass
        except OSError as error:
            raise ConfigError(
                [
                    ConfigProblem(
                        where=str(self._root),
                        key="workspace.root",
                        message=f"cannot make attempt directories there: {error.strerror}. "
                        "Name a folder that the worker may write to.",
                    )
                ]
            ) from error
        self._lock_fd = fd

    @contextmanager
    def attempt(self) -> Iterator[AttemptDirectory]:
        """Make a directory for one attempt; remove it at the end, whatever is in it."""
        base = self._home / uuid.uuid4().hex
        directory = AttemptDirectory(workspace=base / "workspace", scratch=base / "scratch")
        directory.workspace.mkdir(parents=True, mode=0o700)
        directory.scratch.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            remove_tree(base)

    @contextmanager
    def scratch(self) -> Iterator[AttemptDirectory]:
        """Lend a directory to an attempt without a workspace; it is empty.

        One that nothing was put into is lent again: making and removing it would be a good part of
        what an attempt that does little costs. Never to an attempt with a workspace, whose files
        must not be within reach of what an earlier body may have left running.
        """
        try:
            base = self._spare.pop()
            # As making it would; and those who clean up what is old may have removed it.
            os.utime(base)
            os.utime(self._home)
        except (IndexError, FileNotFoundError):
            base = self._home / SPARE_NAME / uuid.uuid4().hex
            base.parent.mkdir(mode=SCRATCH_MODE, exist_ok=True)
            base.mkdir(mode=SCRATCH_MODE)
        try:
            yield AttemptDirectory(workspace=base / "workspace", scratch=base)
        finally:
            if _is_as_new(base):
                self._spare.append(base)
            else:
                _remove(base)

    def make_room(self) -> bool:
        """Give back the disk that kept workspaces and the cache take; return whether any was."""
        kept = self.shelf.clear()
        return self.cache.clear() or kept

    def remove_dead(self) -> list[str]:
        """Remove the directories of workers that are gone; return their names."""
        others = [home for home in _homes(self._root) if home != self._home]
        return [home.name for home in others if remove_if_dead(home)]

    def close(self) -> None:
        """Remove this process's directory and let go of the claim. Idempotent."""
        if self._lock_fd is None:
            return
        self.shelf.close()
        _remove_home(self._home)
        os.close(self._lock_fd)
        self._lock_fd = None


def _remove(base: Path) -> None:
    """Remove a scratch directory, or what a body has put in its place."""
    if base.is_dir() and not base.is_symlink():
        remove_tree(base)
    else:
        base.unlink(missing_ok=True)


def _is_as_new(base: Path) -> bool:
    try:
        if os.lstat(base).st_mode != stat.S_IFDIR | SCRATCH_MODE:
            return False
        with os.scandir(base) as entries:
            return next(entries, None) is None
    except OSError:
        return False


@dataclass(frozen=True)
class WorkerDirectory:
    """The directory of one worker process below a workspace root.

    Attributes:
        changed_at: When an attempt last began or ended in it, seconds since the epoch.
        dead: Whether its worker is gone.
    """

    path: Path
    changed_at: float
    dead: bool


def worker_directories(root: Path) -> list[WorkerDirectory]:
    """List the directories of workers below a workspace root; change nothing."""
    found = []
    for home in _homes(root):
        with suppress(FileNotFoundError), _lock_file(home) as fd:
            if fd is not None:
                dead = _try_lock(fd, fcntl.LOCK_SH)
                found.append(WorkerDirectory(home, home.stat().st_mtime, dead))
    return found


def remove_if_dead(home: Path) -> bool:
    """Remove the directory of a worker that is gone; return whether it was."""
    with _lock_file(home) as fd:
        if fd is None or not _try_lock(fd, fcntl.LOCK_EX):
            return False
        _remove_home(home)
        return True


def _homes(root: Path) -> list[Path]:
    return sorted(root.iterdir()) if root.is_dir() else []


def _claim(home: Path) -> int | None:
    """Make a worker's directory and lock it; None when somebody took it for a dead one's before."""
    home.mkdir(parents=True, mode=0o700)
    fd = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)  # whoever looks whether it is dead holds it for a moment only
    if os.fstat(fd).st_nlink:
        return fd
    os.close(fd)
    return None


@contextmanager
def _lock_file(home: Path) -> Iterator[int | None]:
    """Open a worker's lock; None when it is not one of ours, or just being made or removed."""
    try:
        fd = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _try_lock(fd: int, kind: int) -> bool:
    """Lock what a dead worker left; closing the file unlocks.

    Not what a living one holds, nor what somebody removed since the file was opened.
    """
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(fd).st_nlink > 0


def _remove_home(home: Path) -> None:
    """Remove a worker's directory, the lock last: what is left half-way is still known as dead."""
    for base in home.iterdir():
        if base.is_dir():
            remove_tree(base)
    remove_tree(home)
