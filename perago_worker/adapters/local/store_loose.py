"""Large objects in and out of git's object database, streamed.

libgit2 hands out objects whole and works on them with Python's global lock held, so that a gigabyte
would cost a gigabyte of memory and stop every other thread, heartbeats included, for seconds. A
loose object is git's simplest format: a zlib stream of `blob <size>`, a zero byte, the content.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from perago_worker.errors import StoreUnavailable
from perago_worker.ports import Digest

_CHUNK = 256 * 1024


def blob_digest(size: int) -> Digest:
    """Return a digest that yields the git object id of a blob, once fed its `size` bytes."""
    return hashlib.sha1(_header(size), usedforsecurity=False)


def write_blob(objects: Path, source: BinaryIO, size: int) -> str:
    """Store `size` bytes of `source` as a blob and return its id; on the disk when this returns.

    Raises:
        StoreUnavailable: `source` has fewer bytes. Nothing was stored.
    """
    # git's garbage collector removes files of this name when their writer is long gone.
    descriptor, temporary = tempfile.mkstemp(prefix="tmp_obj_", dir=objects)
    try:
        with os.fdopen(descriptor, "wb") as into:
            blob = _deflate(source, size, into)
            into.flush()
            os.fchmod(descriptor, 0o444)
            os.fsync(descriptor)
        _move(temporary, objects, blob)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return blob


class SinkError(Exception):
    """Carries what the receiving file raised past those who take an OSError for one of git's."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        super().__init__(str(error))


class Part:
    """Where an object is written to of which only a part is wanted."""

    def __init__(self, into: BinaryIO, start: int, size: int | None) -> None:
        self._into = into
        self._skip = start
        self._left = sys.maxsize if size is None else size
        self.written = 0

    def write(self, data: bytes | memoryview) -> int:
        """Pass on what is wanted of the next bytes, and return how many came.

        Raises:
            SinkError: The receiving file raised something.
        """
        wanted = memoryview(data)[self._skip :][: self._left]
        self._skip -= min(self._skip, len(data))
        self._left -= len(wanted)
        if wanted:
            try:
                self.written += self._into.write(wanted)
            except (OSError, ValueError) as error:
                raise SinkError(error) from error
        return len(data)


def read_loose_blob(objects: Path, blob: str, into: Part) -> int | None:
    """Write a blob to `into` and return its size, or None when it is not stored as a loose object.

    Raises:
        StoreUnavailable: The object is damaged.
    """
    try:
        file = _path(objects, blob).open("rb")
    except FileNotFoundError:
        return None
    with file:
        chunks = _inflate(file)
        header, _, content = next(chunks, b"").partition(b"\0")
        written = into.write(content)
        for chunk in chunks:
            written += into.write(chunk)
    if header != b"blob %d" % written:
        raise StoreUnavailable(f"object {blob} is damaged")
    return written


def flush_directory(directory: Path) -> None:
    """Make the names in a directory outlast a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _header(size: int) -> bytes:
    return b"blob %d\0" % size


def _path(objects: Path, blob: str) -> Path:
    return objects / blob[:2] / blob[2:]


def _deflate(source: BinaryIO, size: int, into: BinaryIO) -> str:
    digest = blob_digest(size)
    chunk = source.read(min(_CHUNK, size))
    deflate = zlib.compressobj(_level(chunk))
    into.write(deflate.compress(_header(size)))
    left = size
    while chunk:
        left -= len(chunk)
        digest.update(chunk)
        into.write(deflate.compress(chunk))
        chunk = source.read(min(_CHUNK, left))
    if left:
        raise StoreUnavailable(f"the object ended after {size - left} of {size} bytes")
    into.write(deflate.flush())
    return digest.hexdigest()


def _level(sample: bytes) -> int:
    """Return the fastest compression, or none for what does not shrink, such as Parquet files."""
    return 1 if len(zlib.compress(sample, 1)) < 0.9 * len(sample) else 0


def _move(temporary: str, objects: Path, blob: str) -> None:
    final = _path(objects, blob)
    try:
        final.parent.mkdir()
    except FileExistsError:
        pass
    else:
        flush_directory(objects)
    # Over an equal object, if there is one: that makes it young again, and safe from `git gc`.
    Path(temporary).replace(final)
    flush_directory(final.parent)


def _inflate(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of a zlib stream in bounded chunks, however well it was compressed."""
    inflate = zlib.decompressobj()
    while not inflate.eof:
        packed = inflate.unconsumed_tail or file.read(_CHUNK)
        try:
            chunk = inflate.decompress(packed, _CHUNK)
        except zlib.error:
            return  # too short for its header, which the reader checks
        if not packed and not chunk:
            return
        if chunk:
            yield chunk
