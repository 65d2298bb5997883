"""The files of one attempt: brought from a commit, and compared with it after the body.

The manifest of the download is what changes are told by: a file whose size, inode, change and
modification times are as they were left is unchanged without being read. Downloaded files carry a
modification time long past, so that a write within the clock's granularity still shows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from perago_worker.attempt.backoff import Retry
from perago_worker.attempt.codes import Code
from perago_worker.attempt.keys import (
    MAX_KEY_BYTES,
    KeyRefused,
    is_reserved,
    key_prefix,
    object_key,
    relative_path,
    show,
)
from perago_worker.attempt.transfer import DigestingWriter, for_each
from perago_worker.errors import (
    RetryableAttemptError,
    StoreUnavailable,
    TerminalAttemptError,
)
from perago_worker.models import ObjectInfo
from perago_worker.ports import WorkspaceStore

DOWNLOADED_MTIME_NS = 946_684_800 * 10**9
"""2000-01-01, the modification time of every downloaded file."""

HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileState:
    """What `lstat` and the checksum said of a file when it was downloaded."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    checksum: str

    def unchanged(self, found: os.stat_result) -> bool:
        """Whether the file has certainly not been written since."""
        return (self.size, self.mtime_ns, self.ctime_ns, self.inode) == (
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_ino,
        )


Manifest = dict[str, FileState]
"""Workspace path -> state at download."""


@dataclass(frozen=True)
class Limits:
    """What a workspace may hold at most; None is no limit."""

    objects: int
    bytes: int | None = None


@dataclass(frozen=True)
class Changes:
    """What a body made of its workspace.

    Attributes:
        written: Workspace path -> size of files that are new or hold something else.
        deleted: Workspace paths of files that are gone.
        kept_bytes: Bytes of the files that stayed as they were.
    """

    written: dict[str, int]
    deleted: tuple[str, ...]
    kept_bytes: int

    def __bool__(self) -> bool:
        return bool(self.written or self.deleted)


class Workspace:
    """One attempt's local files under one prefix of one commit."""

    def __init__(
        self, directory: Path, *, store: WorkspaceStore, repository: str, prefix: str
    ) -> None:
        self.directory = directory
        self.manifest: Manifest = {}
        self._store = store
        self._repository = repository
        self._prefix = key_prefix(prefix)

    def download(
        self,
        commit: str,
        *,
        limits: Limits,
        threads: int,
        retry: Retry,
        check: Callable[[], None],
    ) -> None:
        """Bring every object of the prefix, several at once, while the listing still runs.

        Args:
            retry: Tries one object, or the rest of the listing, again while the store does not
                answer.
            check: Called between objects; raises to stop early.

        Raises:
            TerminalAttemptError: A key cannot be a file, or the workspace is over its limits.
            StoreUnavailable: An object could not be read, or not whole, in several tries.
        """

        def fetch(entry: tuple[str, ObjectInfo]) -> tuple[str, FileState]:
            path, info = entry
            return path, retry(self._fetch, commit, path, info)

        entries = self._files(commit, limits, retry)
        self.manifest = dict(for_each(entries, fetch, threads=threads, check=check))

    def _files(self, commit: str, limits: Limits, retry: Retry) -> Iterator[tuple[str, ObjectInfo]]:
        """Yield what to download; make directories on the way, before any file in them is begun."""
        layout = _Layout(self.directory)
        total = 0
        listing = _Listing(partial(self._store.list, self._repository, commit, self._prefix))
        listed = iter(lambda: retry(listing.next), None)
        objects = (info for info in listed if not is_reserved(info.key))
        for count, info in enumerate(objects, start=1):
            total += info.size
            if count > limits.objects or (limits.bytes is not None and total > limits.bytes):
                raise TerminalAttemptError(
                    Code.WORKSPACE_TOO_LARGE,
                    f"the workspace holds more than {limits.objects} objects or {limits.bytes} "
                    "bytes; narrow the task's prefix, or raise workspace.max_objects or "
                    "workspace.max_bytes",
                )
            try:
                path = relative_path(info.key, self._prefix)
                if layout.place(path, info):
                    yield path, info
            except KeyRefused as refused:
                raise TerminalAttemptError(Code.KEY_REFUSED, str(refused)) from refused

    def _fetch(self, commit: str, path: str, info: ObjectInfo) -> FileState:
        target = self.directory / path
        part = target.with_name(f".perago-{os.urandom(8).hex()}")
        try:
            checksum = self._fetch_verified(commit, info, part)
            os.utime(part, ns=(DOWNLOADED_MTIME_NS, DOWNLOADED_MTIME_NS))
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        return _state(target.lstat(), checksum)

    def _fetch_verified(self, commit: str, info: ObjectInfo, part: Path) -> str:
        """Read the object, twice if its checksum is not the listed one; return its own checksum.

        A checksum of the right form can still be none of the content's: objects that were imported
        or linked keep their origin's. So bytes that come out the same twice are taken as they are;
        bytes that change from one reading to the next were damaged on the way.
        """
        checksum = self._fetch_once(commit, info, part)
        if not info.verifiable or checksum == info.checksum:
            return checksum
        again = self._fetch_once(commit, info, part)
        if again not in {checksum, info.checksum}:
            raise _damaged(info, f"checksums {checksum} and {again}, listed {info.checksum}")
        return again

    def _fetch_once(self, commit: str, info: ObjectInfo, part: Path) -> str:
        digest = self._store.new_digest(info.size)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(part, flags, 0o644), "wb") as file:
            writer = DigestingWriter(file, digest)
            size = self._store.read(self._repository, commit, info.key, writer.as_binary())
        if size != info.size:
            raise _damaged(info, f"{size} bytes, listed {info.size}")
        return digest.hexdigest()

    def changes(self) -> Changes:
        """Compare the directory with the manifest; read only files that may have changed.

        Raises:
            RetryableAttemptError: Something that cannot be published: a symbolic link, a socket, a
                device, a hard link to a file outside, or a name that cannot be a key.
        """
        found = dict(scan(self.directory, self._prefix))
        written = {
            path: state.st_size for path, state in found.items() if self._written(path, state)
        }
        return Changes(
            written=written,
            deleted=tuple(sorted(self.manifest.keys() - found.keys())),
            kept_bytes=sum(s.st_size for path, s in found.items() if path not in written),
        )

    def _written(self, path: str, found: os.stat_result) -> bool:
        before = self.manifest.get(path)
        if before is None or before.size != found.st_size:
            return True
        return not before.unchanged(found) and self._checksum(path, found) != before.checksum

    def _checksum(self, path: str, found: os.stat_result) -> str:
        digest = self._store.new_digest(found.st_size)
        with open_regular(self.directory / path) as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def key(self, path: str) -> str:
        """Return the object key of a workspace path."""
        return object_key(path, self._prefix)


class _Listing:
    """A commit's listing, which goes on where it was when the store did not answer half-way."""

    def __init__(self, begin: Callable[[], Iterator[ObjectInfo]]) -> None:
        self._begin = begin
        self._entries: Iterator[ObjectInfo] | None = None
        self._seen = 0

    def next(self) -> ObjectInfo | None:
        """Return the next object, None at the end; may be called again after it has failed."""
        if self._entries is None:
            # What a commit lists never changes, so what was seen is known by its number.
            self._entries = islice(self._begin(), self._seen, None)
        try:
            info = next(self._entries, None)
        except StoreUnavailable:
            self._entries = None  # an iterator that has raised is at its end
            raise
        self._seen += info is not None
        return info


class _Layout:
    """Makes directories, and finds keys that ask for a file and a directory of the same name."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: set[str] = set()
        self._folders: set[str] = {""}

    def place(self, path: str, info: ObjectInfo) -> bool:
        """Prepare for one object; return whether it is a file rather than a directory marker."""
        is_marker = not path or path.endswith("/")
        if is_marker and info.size:
            raise KeyRefused(
                f"object key {show(info.key)} cannot be a file: it ends in '/' and holds "
                f"{info.size} bytes"
            )
        folder = path.rstrip("/") if is_marker else path.rpartition("/")[0]
        self._ensure_folder(folder, info)
        if is_marker:
            return False
        if path in self._folders:
            raise _both(info, path)
        self._files.add(path)
        return True

    def _ensure_folder(self, folder: str, info: ObjectInfo) -> None:
        if folder in self._folders:
            return
        parent = folder.rpartition("/")[0]
        self._ensure_folder(parent, info)
        if folder in self._files:
            raise _both(info, folder)
        (self._root / folder).mkdir()
        self._folders.add(folder)


def _both(info: ObjectInfo, path: str) -> KeyRefused:
    return KeyRefused(
        f"object key {show(info.key)} cannot be a file: {show(path)} would be a file and a "
        "directory at once"
    )


def _damaged(info: ObjectInfo, what: str) -> StoreUnavailable:
    return StoreUnavailable(f"object {show(info.key)} arrived damaged: {what}")


def _state(found: os.stat_result, checksum: str) -> FileState:
    return FileState(
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        ctime_ns=found.st_ctime_ns,
        inode=found.st_ino,
        checksum=checksum,
    )


def scan(root: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield workspace path and `lstat` of every regular file below `root`.

    Raises:
        RetryableAttemptError: Something that cannot be published is in the way; names it.
    """
    links: dict[int, int] = {}
    linked: dict[int, tuple[str, int]] = {}
    for path, entry in _walk(root):
        state = entry.stat(follow_symlinks=False)
        kind = _special_kind(state.st_mode)
        if kind:
            raise _file_refused(f"file {show(path)} cannot be published: it is a {kind}")
        try:
            object_key(path, prefix)
        except KeyRefused as refused:
            raise _file_refused(str(refused)) from refused
        if state.st_nlink > 1:
            links[state.st_ino] = links.get(state.st_ino, 0) + 1
            linked[state.st_ino] = (path, state.st_nlink)
        yield path, state
    for inode, (path, count) in linked.items():
        if links[inode] != count:
            raise _file_refused(
                f"file {show(path)} cannot be published: it is a hard link to a file outside the "
                "workspace; copy the file instead"
            )


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    # A stack and no recursion: a body can nest directories deeper than the interpreter calls.
    folders = [""]
    while folders:
        folder = folders.pop()
        if len(os.fsencode(folder)) > MAX_KEY_BYTES:
            raise _file_refused(
                f"directory {show(folder)} cannot be published: its path is too long"
            )
        with os.scandir(root / folder) as entries:
            found = list(entries)  # nothing is left open when the caller stops half-way
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                yield path, entry


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
