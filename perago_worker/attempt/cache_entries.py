"""The files of the cache: their names, copying them, and which of them go when room is needed.

An entry is named after the checksum and the size of what it holds. Its modification time is when it
was last of use. Nothing here is believed: whoever reads an entry computes its checksum.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from perago_worker.ports import Digest

LOCK_NAME = "lock"

BLOCK_BYTES = 4096
"""What the smallest entry takes on most disks."""

COPY_BYTES = 64 * 1024 * 1024
"""Copied by one system call, at most: a thread that copies can be stopped in between."""

HASH_BYTES = 256 * 1024
"""Read at a time for the checksum; what a processor's cache holds."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

CANNOT_GROW = DISK_FULL | {errno.EFBIG}
"""What is the fault of the file that is written, never of the one that is read."""

_CHECKSUM = re.compile(r"[0-9a-f]{32,128}")

_CANNOT_SHARE = frozenset({errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM})
"""What file systems answer that cannot copy by themselves, or not between these two files."""


def entry_path(folder: Path, checksum: str, size: int) -> str | None:
    """Return where an object is kept; None when its checksum is not fit for a name."""
    if _CHECKSUM.fullmatch(checksum) is None:
        return None
    return f"{folder}/{checksum[:2]}/{checksum}-{size}"


def cost(size: int) -> int:
    """Return what a file of so many bytes takes on the disk, about."""
    return max(1, -(-size // BLOCK_BYTES)) * BLOCK_BYTES


def copy(source: int, target: int, size: int, *, check: Callable[[], None]) -> int:
    """Copy the first bytes of one open file to another; return how many there were.

    The kernel copies; where the file system can, the files share their blocks until one of them is
    written to, and nothing is copied.

    Args:
        check: Called between pieces; raises to stop early.
    """
    done = 0
    while done < size:
        check()
        count = _copy_piece(source, target, done, min(COPY_BYTES, size - done))
        if not count:
            break
        done += count
    return done


def _copy_piece(source: int, target: int, start: int, size: int) -> int:
    try:
        count = os.copy_file_range(source, target, size, start, start)
    except OSError as error:
        if error.errno not in _CANNOT_SHARE:
            raise
        count = 0
    if count:
        return count
    # Not at the end either, perhaps: some kernels answer 0 for files they do not copy.
    return os.pwrite(target, os.pread(source, min(HASH_BYTES, size), start), start)


def checksum_of(descriptor: int, digest: Digest) -> str:
    """Read an open file from its beginning and return its checksum."""
    start = 0
    while data := os.pread(descriptor, HASH_BYTES, start):
        digest.update(data)
        start += len(data)
    return digest.hexdigest()


class Entry(NamedTuple):
    """A file of the cache.

    Attributes:
        cost: Bytes it takes on the disk.
        used_at: When it was last of use, whole seconds since the epoch.
    """

    path: str
    cost: int
    used_at: int


def entries(folder: Path) -> Iterator[Entry]:
    """Yield what is in the cache, in no order; others may add and remove meanwhile."""
    with os.scandir(folder) as found:
        buckets = [each.path for each in found if each.is_dir(follow_symlinks=False)]
    for bucket in buckets:
        with suppress(FileNotFoundError), os.scandir(bucket) as files:
            for file in files:
                with suppress(FileNotFoundError):
                    state = file.stat(follow_symlinks=False)
                    if not file.is_dir(follow_symlinks=False):
                        yield Entry(file.path, cost(state.st_size), int(state.st_mtime))


class Weighed(NamedTuple):
    """How much there is, by when it was last of use.

    Attributes:
        held: Bytes on the disk.
        by_age: Second since the epoch -> bytes last used then. Seconds, since a million entries
            with a time of their own would be a lot of memory.
    """

    held: int
    by_age: Counter[int]


def weigh(folder: Path) -> Weighed:
    """Look at every entry; nothing when there is no cache.

    Raises:
        OSError: The folder cannot be read.
    """
    by_age: Counter[int] = Counter()
    with suppress(FileNotFoundError):
        for entry in entries(folder):
            by_age[entry.used_at] += entry.cost
    return Weighed(by_age.total(), by_age)


class Evicted(NamedTuple):
    """What was removed."""

    objects: int
    bytes: int


def evict(folder: Path, weighed: Weighed, wanted: int) -> Evicted:
    """Remove the entries that were of use longest ago, until so many bytes are free.

    Whoever reads one of them still can.
    """
    if wanted <= 0:
        return Evicted(0, 0)
    last, share = _cut(weighed.by_age, wanted)
    objects = size = 0
    for entry in entries(folder):
        if entry.used_at > last or (entry.used_at == last and share <= 0):
            continue
        if entry.used_at == last:
            share -= entry.cost
        remove(entry.path)
        objects += 1
        size += entry.cost
    return Evicted(objects, size)


def _cut(by_age: Counter[int], wanted: int) -> tuple[int, int]:
    """Return the last second whose entries go, and how many bytes of those."""
    second = 0
    for second in sorted(by_age):
        if by_age[second] >= wanted:
            return second, wanted
        wanted -= by_age[second]
    return second, by_age[second]


def remove(path: str) -> None:
    """Remove an entry, unless somebody has."""
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 -- thousands of strings need not become paths


@contextmanager
def evicting(folder: Path) -> Iterator[bool]:
    """Hold the right to evict, which one process has at a time; yield whether it is ours."""
    try:
        fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield True  # there is no cache, and nothing to evict
        return
    try:
        yield _locked(fd)
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
