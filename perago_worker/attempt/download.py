"""One object becomes one file: whole, verified, and under its name only then."""

from __future__ import annotations

import os
from pathlib import Path

from perago_worker.attempt.keys import show
from perago_worker.attempt.manifest import DOWNLOADED_MTIME_NS
from perago_worker.attempt.transfer import DigestingWriter
from perago_worker.errors import StoreUnavailable
from perago_worker.models import ObjectInfo
from perago_worker.ports import WorkspaceStore


def fetch(
    store: WorkspaceStore, repository: str, commit: str, info: ObjectInfo, target: Path
) -> str:
    """Bring an object into the file `target` and return the checksum of its bytes.

    The file appears when it is complete, verified and has `DOWNLOADED_MTIME_NS`, in place of what
    was there; a call that fails leaves nothing. The directory it is in must exist.

    Raises:
        StoreUnavailable: The object could not be read, or did not arrive as it is listed.
        OSError: The file could not be written.
    """
    part = target.with_name(f".perago-{os.urandom(8).hex()}")
    try:
        checksum = _fetch_verified(store, repository, commit, info, part)
        os.utime(part, ns=(DOWNLOADED_MTIME_NS, DOWNLOADED_MTIME_NS))
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return checksum


def _fetch_verified(
    store: WorkspaceStore, repository: str, commit: str, info: ObjectInfo, part: Path
) -> str:
    """Read the object, twice if its checksum is not the listed one; return its own checksum.

    A checksum of the right form can still be none of the content's: objects that were imported or
    linked keep their origin's. So bytes that come out the same twice are taken as they are; bytes
    that change from one reading to the next were damaged on the way.
    """
    checksum = _fetch_once(store, repository, commit, info, part)
    if not info.verifiable or checksum == info.checksum:
        return checksum
    again = _fetch_once(store, repository, commit, info, part)
    if again not in {checksum, info.checksum}:
        raise _damaged(info, f"checksums {checksum} and {again}, listed {info.checksum}")
    return again


def _fetch_once(
    store: WorkspaceStore, repository: str, commit: str, info: ObjectInfo, part: Path
) -> str:
    digest = store.new_digest(info.size)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(part, flags, 0o644), "wb") as file:
        writer = DigestingWriter(file, digest)
        size = store.read(repository, commit, info.key, writer.as_binary())
    if size != info.size:
        raise _damaged(info, f"{size} bytes, listed {info.size}")
    return digest.hexdigest()


def _damaged(info: ObjectInfo, what: str) -> StoreUnavailable:
    return StoreUnavailable(f"object {show(info.key)} arrived damaged: {what}")
