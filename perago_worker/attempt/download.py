"""One object becomes one file: whole, verified, and under its name only then.

An object is read in one go, its checksum taken of the bytes as they pass; a large one, while other
lanes are idle, in several ranges at once. No object is ever in memory as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from perago_worker.attempt.cache_use import CacheUse
from perago_worker.attempt.manifest import settle
from perago_worker.attempt.meter import UNMETERED
from perago_worker.attempt.ranges import Lanes, Source, damaged, read_ranges, read_whole
from perago_worker.models import ObjectInfo
from perago_worker.ports import WorkspaceStore


def _go_on() -> None:
    """Never stop."""


def fetch(
    store: WorkspaceStore,
    repository: str,
    commit: str,
    info: ObjectInfo,
    target: Path,
    *,
    lanes: Lanes | None = None,
    check: Callable[[], None] = _go_on,
    moved: Callable[[int], None] = UNMETERED.moved,
    cache: CacheUse | None = None,
) -> str:
    """Bring an object into the file `target` and return the checksum of its bytes.

    The file appears when it is complete, verified and has `DOWNLOADED_MTIME_NS`, in place of what
    was there; a call that fails leaves nothing. The directory it is in must exist.

    Args:
        lanes: Shared by all calls that run at once: one with a large object uses those that are
            idle. None reads every object in one go.
        check: Called between pieces of the object, from several threads; raises to stop early.
        moved: Called with the size of each piece, likewise.
        cache: Where the object is looked for first.

    Raises:
        StoreUnavailable: The object could not be read, or did not arrive as it is listed.
        OSError: The file could not be written.
    """
    source = Source(store, repository, commit, info, check, moved)
    folder, _, _ = str(target).rpartition("/")
    part = f"{folder}/.perago-{os.urandom(8).hex()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(part, flags, 0o644)
    try:
        try:
            checksum = cache.fill(source, descriptor) if cache else None
            if checksum is None:
                checksum = _fetch_verified(source, descriptor, lanes)
            settle(descriptor)
        finally:
            os.close(descriptor)
        os.rename(part, target)  # noqa: PTH104 -- thousands of strings need not become paths
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)  # noqa: PTH108
        raise
    return checksum


def _fetch_verified(source: Source, descriptor: int, lanes: Lanes | None) -> str:
    """Read the object, twice if its checksum is not the listed one; return its own checksum.

    A checksum of the right form can still be none of the content's: objects that were imported or
    linked keep their origin's. So bytes that come out the same twice are taken as they are; bytes
    that change from one reading to the next were damaged on the way.
    """
    info = source.info
    checksum = _fetch_once(source, descriptor, lanes)
    if not info.verifiable or checksum == info.checksum:
        return checksum
    os.ftruncate(descriptor, 0)
    again = read_whole(source, descriptor)
    if again not in {checksum, info.checksum}:
        raise damaged(info, f"checksums {checksum} and {again}, listed {info.checksum}")
    return again


def _fetch_once(source: Source, descriptor: int, lanes: Lanes | None) -> str:
    if lanes is None:
        return read_whole(source, descriptor)
    with lanes.taken(source) as helpers:
        if helpers:
            return read_ranges(source, descriptor, threads=helpers)
        return read_whole(source, descriptor)
