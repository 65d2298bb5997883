"""Finding a workspace's files, and refusing what cannot be published.

Runs for every attempt, over every file of the workspace: one system call for each of them, as
little Python as possible, and nothing remembered of a file that is as it was.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from perago_worker.attempt.codes import Code
from perago_worker.attempt.keys import MAX_KEY_BYTES, KeyRefused, object_key, show
from perago_worker.attempt.manifest import Manifest
from perago_worker.errors import RetryableAttemptError

HASH_CHUNK_BYTES = 1 << 20


class Look(NamedTuple):
    """How what is below a directory differs from a manifest.

    Attributes:
        others: Path -> `lstat` of everything that is no directory and not as the manifest has it.
        missing: Paths of the manifest where there is nothing, or a directory.
        folders: Path -> `fstat` of every directory, the first one too, whose path is empty.
    """

    others: dict[str, os.stat_result]
    missing: set[str]
    folders: dict[str, os.stat_result]


def look(root: Path, manifest: Manifest) -> Look:
    """Compare everything below a directory with a manifest; follow no link.

    Raises:
        RetryableAttemptError: Directories are nested deeper than any key could be.
    """
    top = os.fspath(root)
    others: dict[str, os.stat_result] = {}
    same: list[str] = []
    folders: dict[str, os.stat_result] = {}
    # A stack and no recursion: a body can nest directories deeper than the interpreter calls.
    to_visit = [""]
    while to_visit:
        folder = to_visit.pop()
        if len(os.fsencode(folder)) > MAX_KEY_BYTES:
            raise _file_refused(
                f"directory {show(folder)} cannot be published: its path is too long"
            )
        # By descriptor: the kernel then resolves names only, not paths.
        fd = os.open(f"{top}/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            folders[folder] = os.fstat(fd)
            to_visit += _compare(fd, f"{folder}/" if folder else "", manifest, same, others)
        finally:
            os.close(fd)
    missing: set[str] = set()
    if len(same) != len(manifest):
        missing = manifest.keys() - same - others.keys()
    return Look(others, missing, folders)


def _compare(
    fd: int,
    start: str,
    manifest: Manifest,
    same: list[str],
    others: dict[str, os.stat_result],
) -> list[str]:
    """Sort the files of one directory into `same` and `others`; return the directories in it."""
    folders = []
    with os.scandir(fd) as entries:
        for entry in entries:
            path = start + entry.name
            before = manifest.get(path)
            if before is None and entry.is_dir(follow_symlinks=False):
                folders.append(path)
                continue
            found = entry.stat(follow_symlinks=False)
            # Written out here: a call would cost a tenth of the whole.
            if (
                before is not None
                and before.ctime_ns == found.st_ctime_ns
                and before.mtime_ns == found.st_mtime_ns
                and before.size == found.st_size
                and before.inode == found.st_ino
            ):
                same.append(path)
            elif stat.S_ISDIR(found.st_mode):
                folders.append(path)
            else:
                others[path] = found
    return folders


def mode_of(state: os.stat_result) -> int:
    """Return the permissions."""
    return stat.S_IMODE(state.st_mode)


def scan(root: Path, prefix: str, manifest: Manifest) -> Look:
    """Look at a workspace that is to be published.

    Raises:
        RetryableAttemptError: Something that cannot be published is in the way; names it.
    """
    found = look(root, manifest)
    linked: dict[int, list[str]] = {}
    for path, state in found.others.items():
        if not stat.S_ISREG(state.st_mode):
            kind = _special_kind(state.st_mode)
            raise _file_refused(f"file {show(path)} cannot be published: it is a {kind}")
        if path not in manifest:
            _require_key(path, prefix)
        # Making a link changes both names' times, so all within the workspace are among these.
        if state.st_nlink > 1:
            linked.setdefault(state.st_ino, []).append(path)
    for paths in linked.values():
        if len(paths) != found.others[paths[0]].st_nlink:
            raise _file_refused(
                f"file {show(paths[0])} cannot be published: it is a hard link to a file outside "
                "the workspace; copy the file instead"
            )
    return found


def _require_key(path: str, prefix: str) -> None:
    try:
        object_key(path, prefix)
    except KeyRefused as refused:
        raise _file_refused(str(refused)) from refused


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
