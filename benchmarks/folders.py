"""Where contenders write: each apart from what those before it have removed.

ext4 without a journal, which small virtual machines often have, makes a file where a removed one
was only when that is some minutes ago. Until then it passes over each of them whenever it makes a
file near them: after a thousand were removed, a new one takes ten times as long.
Source: Linux, fs/ext4/ialloc.c, recently_deleted.
"""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_TOP_DIRECTORY = 0x00020000
"""Source: Linux, include/uapi/linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL."""


@contextmanager
def temporary_files_apart() -> Iterator[Path]:
    """Make temporary folders in one whose folders the file system keeps far from each other.

    Those of this process, and of those it starts.
    """
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as created:
        _spread(created)
        os.environ["TMPDIR"] = tempfile.tempdir = created
        try:
            yield Path(created)
        finally:
            del os.environ["TMPDIR"]
            if before[0] is not None:
                os.environ["TMPDIR"] = before[0]
            tempfile.tempdir = before[1]


def _spread(folder: str) -> None:
    """Have the folders in this one begin in parts of the disk of their own, where it has parts."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # other file systems need none of this
            (flags,) = struct.unpack("i", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(4)))
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("i", flags | _TOP_DIRECTORY))
    finally:
        os.close(descriptor)
