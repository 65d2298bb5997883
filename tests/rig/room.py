"""A place for a process's files that can be full, and have room again, when a test wants it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

SIZE = 4 * 1024**2
FILES = 512


class Room(Protocol):
    """Where a process has its files.

    Attributes:
        root: The folder.
        refusal: What the system says when there is no room.
        shared: Whether there is more for one file when others are removed.
    """

    root: Path
    refusal: str
    shared: bool

    def fill(self, pid: int, *, leave: int = 0) -> None:
        """Let the process write no more than so many bytes."""

    def close_to_new_files(self, pid: int) -> None:
        """Let the process change the files that are there, and make none that hold much."""

    def free(self, pid: int) -> None:
        """Let the process write again."""


class SmallDisk:
    """A file system of its own, which others fill: the real thing."""

    refusal = os.strerror(errno.ENOSPC)
    shared = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._filler = root / "filler"

    def fill(self, pid: int, *, leave: int = 0) -> None:
        """Take all blocks, but for those."""
        self._filler.mkdir(exist_ok=True)
        disk = os.statvfs(self.root)
        with (self._filler / "blocks").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - leave)

    def close_to_new_files(self, pid: int) -> None:
        """Take all inodes, and leave the blocks."""
        self._filler.mkdir(exist_ok=True)
        for number in range(os.statvfs(self.root).f_favail):
            (self._filler / str(number)).touch()

    def free(self, pid: int) -> None:
        """Remove what fills it."""
        for path in self._filler.iterdir():
            path.unlink()


class SmallFiles:
    """A process whose files may not grow, which any user can have on any machine.

    It takes writes up to the limit, as a full disk does, and then refuses them with another error,
    which the worker takes for the same.
    """

    refusal = os.strerror(errno.EFBIG)
    shared = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def fill(self, pid: int, *, leave: int = 0) -> None:
        """Limit each file to that."""
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (leave, most))

    def close_to_new_files(self, pid: int) -> None:
        """Limit each file to a block."""
        self.fill(pid, leave=4096)

    def free(self, pid: int) -> None:
        """Take the limit away."""
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


@contextmanager
def small_disk(root: Path) -> Iterator[Room]:
    """Offer a small disk at a folder; small files where this process may not mount one.

    Containers usually may not. Nothing is left out there: what the worker makes of either error is
    the same.
    """
    root.mkdir()
    if not _mount(root):
        yield SmallFiles(root)
        return
    try:
        yield SmallDisk(root)
    finally:
        # Lazily: what the test has started and not ended may still have files there.
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def _mount(root: Path) -> bool:
    options = f"size={SIZE},nr_inodes={FILES},mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(root)]
    if os.geteuid() != 0 or shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def small_files(root: Path) -> Iterator[Room]:
    """Offer small files in a folder."""
    root.mkdir()
    yield SmallFiles(root)
