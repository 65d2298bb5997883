"""Reading an object into an open file: in one go, or in several ranges at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from perago_worker.attempt.keys import show
from perago_worker.errors import StoreUnavailable
from perago_worker.models import ObjectInfo
from perago_worker.ports import Digest, WorkspaceStore

RANGE_BYTES = 16 * 1024 * 1024
"""Bytes of one range: enough that what a request costs does not count."""

MIN_RANGED_BYTES = 4 * RANGE_BYTES
"""Smaller objects are read in one go."""

MIN_HELPERS = 2
"""Fewer do not pay: the thread that asks for them only computes the checksum then."""

MAX_HELPERS = 4
"""Most threads that read one object, which leaves lanes for others."""

HASH_BYTES = 256 * 1024
"""Read at a time for the checksum; what a processor's cache holds."""


class Lanes:
    """How many objects, or ranges of one, are read at a time. Safe to use from any thread."""

    def __init__(self, count: int) -> None:
        self._idle = count
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, source: Source) -> Iterator[int]:
        """Take a lane for an object, and yield with how many more to read it."""
        info = source.info
        helpers = self._take(split=info.size >= MIN_RANGED_BYTES and source.store.seeks)
        try:
            yield helpers
        finally:
            with self._lock:
                self._idle += 1 + helpers

    def _take(self, *, split: bool) -> int:
        with self._lock:
            self._idle -= 1
            if not split or self._idle < MIN_HELPERS:
                return 0
            helpers = min(self._idle, MAX_HELPERS)
            self._idle -= helpers
            return helpers


@dataclass(frozen=True)
class Source:
    """Where an object is read from.

    Attributes:
        check: Called between pieces; raises to stop early.
        moved: Called with the size of each piece that has arrived.
    """

    store: WorkspaceStore
    repository: str
    commit: str
    info: ObjectInfo
    check: Callable[[], None]
    moved: Callable[[int], None]

    def read(self, into: _Place) -> int:
        """Write the whole object to a place in a file and return the number of bytes."""
        return self._read(into)

    def read_range(self, into: _Place, start: int, size: int) -> int:
        """Write a range of the object to a place in a file and return the number of bytes."""
        return self._read(into, start=start, size=size)

    def _read(self, into: _Place, *, start: int = 0, size: int | None = None) -> int:
        return self.store.read(
            self.repository,
            self.commit,
            self.info.key,
            into.as_binary(),
            start=start,
            size=size,
            listed_size=self.info.size,
        )


class _Place:
    """A place in an open file that is written to, and the checksum of what is."""

    def __init__(
        self, source: Source, descriptor: int, start: int, *, digest: Digest | None = None
    ) -> None:
        self._source = source
        self._descriptor = descriptor
        self._at = start
        self._digest = digest

    def write(self, data: bytes, /) -> int:
        """Write all of `data`, which a full disk would have files do in part."""
        self._source.check()
        if self._digest is not None:
            self._digest.update(data)
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, self._at)
            self._at += written
            left = left[written:]
        self._source.moved(len(data))
        return len(data)

    def as_binary(self) -> BinaryIO:
        """Return self typed as a file; stores only write to it."""
        return cast("BinaryIO", self)


def damaged(info: ObjectInfo, what: str) -> StoreUnavailable:
    """Return the error for an object that is not what is listed."""
    return StoreUnavailable(f"object {show(info.key)} arrived damaged: {what}")


def read_whole(source: Source, descriptor: int) -> str:
    """Read an object in one go into an empty file and return the checksum of its bytes.

    Raises:
        StoreUnavailable: It could not be read, or is longer or shorter than it is listed.
    """
    digest = source.store.new_digest(source.info.size)
    size = source.read(_Place(source, descriptor, 0, digest=digest))
    _require_size(source.info, size)
    return digest.hexdigest()


def read_ranges(source: Source, descriptor: int, *, threads: int) -> str:
    """Read an object in ranges, several at once, into an empty file; return the checksum.

    The checksum is computed in this thread, of what is complete from the beginning, while more
    arrives: its bytes have to be taken in order, and they arrive out of order.

    Raises:
        StoreUnavailable: It could not be read, or is longer or shorter than it is listed.
        OSError: The disk is full; told before anything is read, where file systems can.
    """
    size = source.info.size
    os.posix_fallocate(descriptor, 0, size)
    digest = source.store.new_digest(size)
    readers = _Readers(source, descriptor, threads)
    try:
        for start in range(0, size, RANGE_BYTES):
            readers.wait_for(start)
            _digest(descriptor, start, min(RANGE_BYTES, size - start), digest)
    finally:
        readers.stop()
    return digest.hexdigest()


class _Readers:
    """Threads that read the ranges of one object, the first ones first."""

    def __init__(self, source: Source, descriptor: int, threads: int) -> None:
        self._source = source
        self._descriptor = descriptor
        self._starts = iter(range(0, source.info.size, RANGE_BYTES))
        self._done: set[int] = set()
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, name=f"transfer_range_{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, start: int) -> None:
        """Wait until the range that begins at `start` is in the file; raise any failure."""
        with self._changed:
            self._changed.wait_for(lambda: start in self._done or self._failure)
            if self._failure is not None:
                raise self._failure

    def stop(self) -> None:
        """Begin no other range and wait for those that have begun."""
        with self._changed:
            self._starts = iter(range(0))
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            while (start := self._next()) is not None:
                self._read(start)
                with self._changed:
                    self._done.add(start)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 -- raised where it is waited for
            with self._changed:
                self._failure = self._failure or error
                self._starts = iter(range(0))
                self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            return next(self._starts, None)

    def _read(self, start: int) -> None:
        info = self._source.info
        size = min(RANGE_BYTES, info.size - start)
        is_last = start + size == info.size
        place = _Place(self._source, self._descriptor, start)
        # One byte more than there should be at the end: it must not be there.
        read = self._source.read_range(place, start, size + is_last)
        if read != size:
            _require_size(info, start + read)


def _require_size(info: ObjectInfo, size: int) -> None:
    if size != info.size:
        raise damaged(info, f"{size} bytes, listed {info.size}")


def _digest(descriptor: int, start: int, size: int, digest: Digest) -> None:
    buffer = bytearray(HASH_BYTES)
    view = memoryview(buffer)
    end = start + size
    while start < end:
        count = os.preadv(descriptor, [view[: min(HASH_BYTES, end - start)]], start)
        if not count:
            return  # somebody has cut the file; the checksum tells
        digest.update(view[:count])
        start += count
