"""What was known of a workspace's files when they were last in step with a commit."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

DOWNLOADED_MTIME_NS = 946_684_800 * 10**9
"""2000-01-01, the modification time of every file that is in step with a commit: long past, so that
a write within the clock's granularity still shows."""


FILE_MODE = 0o644
"""Mode of every file that a download makes."""

FOLDER_MODE = 0o755
"""Mode of every directory that a download makes."""

_ATTRIBUTES = ("user.", "system.")


class FileState(NamedTuple):
    """What `lstat` and the checksum said of a file when it was in step with a commit."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    checksum: str

    @classmethod
    def of(cls, found: os.stat_result, checksum: str) -> FileState:
        """Return the state of a file whose content has this checksum."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, checksum)


Manifest = dict[str, FileState]
"""Workspace path -> state."""


def folders_of(paths: Iterable[str]) -> set[str]:
    """Return the directories that these paths lie in, the first one left out."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def settle(descriptor: int) -> None:
    """Give a file the mode and times that a download gives it.

    To be done before its content is looked at: what is written to it afterwards then shows.
    """
    os.fchmod(descriptor, FILE_MODE)
    os.utime(descriptor, ns=(DOWNLOADED_MTIME_NS, DOWNLOADED_MTIME_NS))


def settled_state(descriptor: int, size: int, checksum: str) -> FileState:
    """Return the state of a file that was settled and then read.

    It is one that no file is ever found in, when the file has been written to meanwhile, has
    another name, or carries attributes: then only its size and checksum are known.
    """
    found = os.fstat(descriptor)
    attributes: list[str] = []
    with suppress(OSError):  # not every file system has them
        attributes = os.listxattr(descriptor)
    if (found.st_size, found.st_mtime_ns, found.st_nlink) == (
        size,
        DOWNLOADED_MTIME_NS,
        1,
    ) and not any(name.startswith(_ATTRIBUTES) for name in attributes):
        return FileState.of(found, checksum)
    return FileState(size, 0, 0, 0, checksum)
