"""Finding a workspace's files, and refusing what cannot be published.

Runs twice for every attempt, over every file of the workspace: one system call for each of them and
as little Python as possible.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container
from pathlib import Path
from typing import BinaryIO, NamedTuple

from perago_worker.attempt.codes import Code
from perago_worker.attempt.keys import MAX_KEY_BYTES, KeyRefused, object_key, show
from perago_worker.errors import RetryableAttemptError

HASH_CHUNK_BYTES = 1 << 20


class Found(NamedTuple):
    """What is below a directory.

    Attributes:
        files: Path -> `lstat` of everything that is no directory.
        folders: Path -> `fstat` of every directory, the first one too, whose path is empty.
    """

    files: dict[str, os.stat_result]
    folders: dict[str, os.stat_result]


def scan(root: Path, prefix: str, *, known: Container[str] = ()) -> dict[str, os.stat_result]:
    """Return workspace path -> `lstat` of every regular file below `root`.

    Args:
        known: Paths that are known to be keys.

    Raises:
        RetryableAttemptError: Something that cannot be published is in the way; names it.
    """
    files = walk(root).files
    linked: dict[int, list[str]] = {}
    for path, state in files.items():
        if not stat.S_ISREG(state.st_mode):
            kind = _special_kind(state.st_mode)
            raise _file_refused(f"file {show(path)} cannot be published: it is a {kind}")
        if path not in known:
            _require_key(path, prefix)
        if state.st_nlink > 1:
            linked.setdefault(state.st_ino, []).append(path)
    for paths in linked.values():
        if len(paths) != files[paths[0]].st_nlink:
            raise _file_refused(
                f"file {show(paths[0])} cannot be published: it is a hard link to a file outside "
                "the workspace; copy the file instead"
            )
    return files


def _require_key(path: str, prefix: str) -> None:
    try:
        object_key(path, prefix)
    except KeyRefused as refused:
        raise _file_refused(str(refused)) from refused


def walk(root: Path) -> Found:
    """Look at everything below a directory; follow no link.

    Raises:
        RetryableAttemptError: Directories are nested deeper than any key could be.
    """
    top = os.fspath(root)
    files: dict[str, os.stat_result] = {}
    folders: dict[str, os.stat_result] = {}
    # A stack and no recursion: a body can nest directories deeper than the interpreter calls.
    to_visit = [""]
    while to_visit:
        folder = to_visit.pop()
        if len(os.fsencode(folder)) > MAX_KEY_BYTES:
            raise _file_refused(
                f"directory {show(folder)} cannot be published: its path is too long"
            )
        start = f"{folder}/" if folder else ""
        # By descriptor: the kernel then resolves names only, not paths.
        fd = os.open(f"{top}/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            folders[folder] = os.fstat(fd)
            with os.scandir(fd) as entries:
                for entry in entries:
                    path = start + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        to_visit.append(path)
                    else:
                        files[path] = entry.stat(follow_symlinks=False)
        finally:
            os.close(fd)
    return Found(files, folders)


def _special_kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISLNK(mode):
        return "symbolic link; write a regular file instead"
    if stat.S_ISFIFO(mode):
        return "named pipe"
    if stat.S_ISSOCK(mode):
        return "socket"
    return "device"


def _file_refused(reason: str) -> RetryableAttemptError:
    return RetryableAttemptError(Code.FILE_REFUSED, reason)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, unless it has become something else than a regular file.

    Raises:
        RetryableAttemptError: It is gone, or a link or special file stands in its place.
    """
    try:
        # O_NONBLOCK: a named pipe put in the file's place must not hold the attempt for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _changed_meanwhile(path, error.strerror or "unreadable") from error
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return os.fdopen(fd, "rb")
    os.close(fd)
    raise _changed_meanwhile(path, "not a regular file any more")


def _changed_meanwhile(path: Path, what: str) -> RetryableAttemptError:
    return RetryableAttemptError(
        Code.WORKSPACE_CHANGED,
        f"file {show(path.name)} changed while it was being published: {what}. "
        "Nothing may write to the workspace once the body has returned.",
    )
