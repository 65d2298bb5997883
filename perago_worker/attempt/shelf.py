"""Workspaces that are kept when their attempt is over, for the next one of the same prefix.

What is kept is known by its manifest; nobody vouches for the directory itself. Whoever takes it
compares every file with the manifest, see `refresh`, unless a seal tells that it is as it was.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from perago_worker.attempt.manifest import Manifest
from perago_worker.attempt.removal import remove_tree
from perago_worker.attempt.seal import Seal, Sealer

NO_LEASES = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What file systems that know no leases answer."""


@dataclass(frozen=True)
class Kept:
    """A directory that held what a commit holds under a prefix when it was put away.

    Attributes:
        prefix: As the task declares it.
        markers: Workspace paths of directory markers, with their final slash.
        seal: Tells whether it is as it was; None where nothing can. To be ended by who takes it.
    """

    directory: Path
    repository: str
    prefix: str
    commit: str
    manifest: Manifest
    markers: frozenset[str]
    seal: Seal | None = None

    def remove(self) -> None:
        """Remove the directory."""
        if self.seal is not None:
            self.seal.end()
        remove_tree(self.directory)


class Shelf:
    """Keeps a bounded number of workspaces, those put away last. Safe from any thread."""

    def __init__(self, folder: Path, *, size: int) -> None:
        """Prepare.

        Args:
            folder: Where they are kept, on the file system of the attempts' directories; made when
                needed.
            size: How many are kept at most; 0 is none.
        """
        self._folder = folder
        self._size = size
        self._lock = threading.Lock()
        self._kept: list[Kept] = []
        self._sealer = Sealer()

    def take(self, *, repository: str, prefix: str, commit: str) -> Kept | None:
        """Hand out one of this prefix, at this commit if there is one; it is the caller's then."""
        with self._lock:
            fitting = [
                kept
                for kept in reversed(self._kept)
                if (kept.repository, kept.prefix) == (repository, prefix)
            ]
            if not fitting:
                return None
            best = next((kept for kept in fitting if kept.commit == commit), fitting[0])
            self._kept.remove(best)
            return best

    def put(self, kept: Kept) -> str:
        """Keep a workspace; moves its directory. Return why it cannot be kept, empty if it is.

        Raises:
            OSError: It cannot be moved; it is where it was.
        """
        if not self._size:
            return ""
        reason = self._reason_not_to(kept)
        if reason:
            return reason
        target = self._folder / uuid.uuid4().hex
        self._folder.mkdir(mode=0o700, exist_ok=True)
        kept.directory.rename(target)
        kept = replace(kept, directory=target)
        sealing = self._sealer.begin(target, kept.manifest, kept.markers)
        # After it was moved: nobody who knows the path it had can open anything in it now.
        try:
            reason = _reason_of_writers(target, kept.manifest)
        except OSError as error:
            reason = self._cannot_tell(error)
        if reason:
            if sealing is not None:
                sealing.give_up()
            remove_tree(target)
            return reason
        seal = None if sealing is None else sealing.finish(kept.manifest)
        self._add(replace(kept, seal=seal))
        return ""

    def _reason_not_to(self, kept: Kept) -> str:
        free = shutil.disk_usage(kept.directory).free
        if free < sum(state.size for state in kept.manifest.values()):
            return "the disk has less room left than it takes"
        return ""

    def _cannot_tell(self, error: OSError) -> str:
        reason = f"its files cannot be checked for writers: {error.strerror}"
        if error.errno not in NO_LEASES:
            return reason
        self._size = 0  # it would be the same for all others, and be told each time
        return f"{reason}; the file system has no leases, and no workspace will be kept"

    def _add(self, kept: Kept) -> None:
        with self._lock:
            self._kept.append(kept)
            too_many = max(0, len(self._kept) - self._size)
            surplus = self._kept[:too_many]
            del self._kept[:too_many]
        for each in surplus:
            each.remove()

    def close(self) -> None:
        """Remove all that is kept and keep nothing more."""
        self._size = 0
        self.clear()
        self._sealer.close()

    def clear(self) -> bool:
        """Remove all that is kept; return whether there was anything."""
        with self._lock:
            kept, self._kept = self._kept, []
        for each in kept:
            each.remove()
        return bool(kept)


def _reason_of_writers(directory: Path, manifest: Manifest) -> str:
    written = first_open_for_writing(directory, manifest)
    return "" if written is None else f"file {written!a} is still open for writing"


def first_open_for_writing(directory: Path, paths: Iterable[str]) -> str | None:
    """Return the first of these files that any process can still write to through what it opened.

    A body can leave a log or a database open, or a writable map of a file. What is written there
    later would be found in the next attempt's workspace and taken for its work.

    Files that do not exist are passed over.

    Raises:
        OSError: The file system cannot tell.
    """
    top = os.fspath(directory)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for path in paths:
        try:
            fd = os.open(f"{top}/{path}", flags)
        except OSError:
            continue  # gone, or not what it was: found out when the manifest is compared
        try:
            # The kernel grants a read lease only where nobody has the file open for writing. It
            # tells the holder of one by a signal: by one that is ignored unless somebody asks.
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return path
        except OSError:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                raise
        finally:
            os.close(fd)  # ends the lease
    return None
