"""What was known of a workspace's files when they were last in step with a commit."""

from __future__ import annotations

import os
from typing import NamedTuple

DOWNLOADED_MTIME_NS = 946_684_800 * 10**9
"""2000-01-01, the modification time of every file that is in step with a commit: long past, so that
a write within the clock's granularity still shows."""


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

    def unchanged(self, found: os.stat_result) -> bool:
        """Whether the file has certainly not been written since."""
        return (
            self.ctime_ns == found.st_ctime_ns
            and self.mtime_ns == found.st_mtime_ns
            and self.size == found.st_size
            and self.inode == found.st_ino
        )


Manifest = dict[str, FileState]
"""Workspace path -> state."""
