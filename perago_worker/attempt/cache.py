"""Objects that were read from the store once, kept on the disk for whoever needs them again.

Named by checksum and size, shared by all attempts of all processes that have the same workspace
root. An entry comes into existence whole, by a rename, and is never written to again; a hit is a
copy, and the checksum of the copy is computed before anybody sees it. So neither crashes nor
several writers at once nor whatever else happens to the files need to be prevented: an entry that
is not what its name says is removed, and the object read from the store.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from perago_worker.attempt.cache_entries import (
    CANNOT_GROW,
    checksum_of,
    copy,
    cost,
    entry_path,
    evict,
    evicting,
    remove,
    weigh,
)
from perago_worker.attempt.manifest import FileState
from perago_worker.events import CacheFailed, CacheLookup, CacheTrimmed, Listener
from perago_worker.models import ObjectInfo
from perago_worker.ports import Digest

LARGEST_SHARE = 4
"""An object that takes more than this part of the cache would drive out too many others."""

LOW_WATER = 0.9
"""Eviction leaves so much, so that it is not needed again at once."""

LOOK_AGAIN = 16
"""After this part of the cache was added, all of it is looked at: other processes add to it too,
each without knowing what the others do."""


def _go_on() -> None:
    """Never stop."""


class ContentCache:
    """A bounded folder of objects by checksum. Safe from any thread and any number of processes."""

    def __init__(
        self, folder: Path, *, scratch: Path, max_bytes: int, listener: Listener | None = None
    ) -> None:
        """Prepare; nothing is made before the first object is kept.

        Args:
            folder: Where the objects are.
            scratch: A folder on the same file system that is removed when this process is gone:
                what it has not finished goes with it.
            max_bytes: How much is kept at most; 0 keeps and finds nothing.
        """
        self._folder = folder
        self._scratch = scratch
        self._max_bytes = max_bytes
        self._listener = listener
        self._lock = threading.Lock()
        self._trimming = threading.Lock()
        self._held = 0
        self._added = 0
        self._looked = False
        self._failing = False

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self._max_bytes > 0

    @property
    def max_bytes(self) -> int:
        """How much is kept at most."""
        return self._max_bytes

    @property
    def held_bytes(self) -> int:
        """What was there when it was last looked at, and what this process has added since."""
        return self._held

    # --- finding --------------------------------------------------------------------------------

    def copy_to(
        self,
        descriptor: int,
        info: ObjectInfo,
        *,
        digest: Digest,
        check: Callable[[], None] = _go_on,
    ) -> CacheLookup:
        """Copy an object into an open, empty file; on anything but a hit it is empty again.

        Args:
            digest: A new one, of the store that lists the object.
            check: Called between pieces; raises to stop early.

        Raises:
            OSError: The disk is full.
        """
        path = entry_path(self._folder, info.checksum, info.size) if info.verifiable else None
        if path is None:
            return "miss"
        try:
            entry = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return "miss"
        except OSError as error:
            if error.errno != errno.ELOOP:
                self._tell_failure(error)
                return "miss"
            self._discard(path)
            return "corrupted"
        try:
            if _copied(entry, descriptor, info, digest, check):
                with suppress(OSError):  # another user's: it only goes a little earlier
                    os.utime(entry)
                return "hit"
        finally:
            os.close(entry)
        os.ftruncate(descriptor, 0)
        self._discard(path)
        return "corrupted"

    def _discard(self, path: str) -> None:
        try:
            remove(path)
        except OSError as error:
            self._tell_failure(error)

    # --- keeping --------------------------------------------------------------------------------

    def add(self, descriptor: int, state: FileState) -> None:
        """Keep what an open file holds, if there is room. What goes wrong is told, not raised.

        Args:
            state: What was known of the file when its checksum was computed; one that was written
                to since is left out.
        """
        path = entry_path(self._folder, state.checksum, state.size) if self.on else None
        if path is None or os.path.lexists(path):
            return
        try:
            if _unchanged(descriptor, state) and self._take_room(cost(state.size)):
                self._write(path, descriptor, state)
        except OSError as error:
            self._tell_failure(error)
        else:
            self._failing = False

    def _take_room(self, needed: int) -> bool:
        limit = self._limit()
        if needed * LARGEST_SHARE > limit:
            return False
        with self._lock:
            unsure = not self._looked or self._added * LOOK_AGAIN > self._max_bytes
            too_full = self._held + needed > limit
        if unsure or too_full:
            self._trim(limit - needed)
        with self._lock:
            if self._held + needed > limit:
                return False  # another thread is making room, or another process
            self._held += needed
            self._added += needed
        return True

    def _limit(self) -> int:
        """Return how much may be kept now: never more than is left of the disk beside it."""
        if not self.on:
            return 0
        disk = os.statvfs(self._scratch)
        return min(self._max_bytes, (self._held + disk.f_bavail * disk.f_frsize) // 2)

    def _write(self, path: str, source: int, state: FileState) -> None:
        part = f"{self._scratch}/cached-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(part, flags, 0o400)
        try:
            try:
                copy(source, descriptor, state.size, check=_go_on)
            finally:
                os.close(descriptor)
            if _unchanged(source, state):
                self._rename(part, path)
                return
        except BaseException:
            remove(part)
            raise
        remove(part)

    def _rename(self, part: str, path: str) -> None:
        try:
            os.rename(part, path)  # noqa: PTH104 -- thousands of strings need not become paths
        except FileNotFoundError:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            Path(path).parent.mkdir(mode=0o700, exist_ok=True)
            os.rename(part, path)  # noqa: PTH104

    def _tell_failure(self, error: OSError) -> None:
        """Tell of the first of several failures: a full disk makes one for every object."""
        with self._lock:
            is_first, self._failing = not self._failing, True
        if is_first and self._listener is not None:
            self._listener.on_event(CacheFailed(error.strerror or type(error).__name__))

    # --- making room ----------------------------------------------------------------------------

    def trim(self) -> None:
        """Look at all that is kept, and remove what is too much. Idempotent.

        Raises:
            OSError: The folder cannot be read or written.
        """
        self._trim(self._limit())

    def clear(self) -> bool:
        """Remove what is kept, as far as that can be done; return whether there was anything."""
        try:
            return self._trim(0) > 0
        except OSError as error:
            self._tell_failure(error)
            return False

    def _trim(self, limit: int) -> int:
        """Remove what is beyond `limit`, unless somebody does; return the number of objects."""
        if not self._trimming.acquire(blocking=False):
            return 0
        try:
            with self._lock:
                before = self._added
            with evicting(self._folder) as ours:
                if not ours:
                    return 0
                weighed = weigh(self._folder)
                goal = limit if weighed.held <= limit else int(limit * LOW_WATER)
                evicted = evict(self._folder, weighed, weighed.held - goal)
            with self._lock:
                self._added -= before  # by other threads, meanwhile
                self._held = weighed.held - evicted.bytes + self._added
                self._looked = True
        finally:
            self._trimming.release()
        if evicted.objects and self._listener is not None:
            self._listener.on_event(CacheTrimmed(*evicted))
        return evicted.objects


def _copied(
    entry: int, descriptor: int, info: ObjectInfo, digest: Digest, check: Callable[[], None]
) -> bool:
    """Copy an entry and return whether the copy is what its name says."""
    found = os.fstat(entry)
    if not stat.S_ISREG(found.st_mode) or found.st_size != info.size:
        return False
    try:
        if copy(entry, descriptor, info.size, check=check) != info.size:
            return False
    except OSError as error:
        if error.errno in CANNOT_GROW:
            raise
        return False  # the entry cannot be read; were it the workspace, the download tells
    # Of the copy, which nobody else can write to; of the entry it would be no proof.
    return checksum_of(descriptor, digest) == info.checksum


def _unchanged(descriptor: int, state: FileState) -> bool:
    return FileState.of(os.fstat(descriptor), state.checksum) == state
