"""The files of one attempt: brought from a commit, and compared with it after the body.

The manifest of the download is what changes are told by: a file whose size, inode, change and
modification times are as they were left is unchanged without being read. Downloaded files carry a
modification time long past, so that a write within the clock's granularity still shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perago_worker.attempt.backoff import Retry
from perago_worker.attempt.cache_use import CacheUse
from perago_worker.attempt.codes import Code
from perago_worker.attempt.download import fetch
from perago_worker.attempt.keys import (
    KeyRefused,
    is_reserved,
    key_prefix,
    object_key,
    relative_path,
    show,
)
from perago_worker.attempt.layout import Layout
from perago_worker.attempt.listing import Listing
from perago_worker.attempt.manifest import FileState, Manifest
from perago_worker.attempt.meter import UNMETERED, Meter
from perago_worker.attempt.ranges import Lanes
from perago_worker.attempt.refresh import Plan, UnfitError, change, changes_since, tidy
from perago_worker.attempt.scan import HASH_CHUNK_BYTES, open_regular, scan
from perago_worker.attempt.shelf import Kept
from perago_worker.attempt.transfer import for_each
from perago_worker.errors import RetryableAttemptError, TerminalAttemptError
from perago_worker.models import ObjectInfo
from perago_worker.ports import WorkspaceStore


@dataclass(frozen=True)
class Limits:
    """What a workspace may hold at most; None is no limit."""

    objects: int
    bytes: int | None = None

    def exceeded_by(self, objects: int, size: int) -> bool:
        """Tell whether a workspace with so many objects and bytes is too large."""
        return objects > self.objects or (self.bytes is not None and size > self.bytes)


@dataclass(frozen=True)
class Fetched:
    """What was read from the store for a workspace."""

    objects: int
    bytes: int


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
    """One attempt's local files under one prefix of one commit.

    Attributes:
        manifest: The files that the commit holds.
        brought: Those of them that were not there before; also of a download that failed.
        markers: Workspace paths of its directory markers.
        prefix: The plain string that all keys begin with.
    """

    def __init__(
        self,
        directory: Path,
        *,
        store: WorkspaceStore,
        repository: str,
        prefix: str,
        meter: Meter = UNMETERED,
        cache: CacheUse | None = None,
    ) -> None:
        self.directory = directory
        self.manifest: Manifest = {}
        self.brought: Manifest = {}
        self.markers: set[str] = set()
        self._store = store
        self._repository = repository
        self.prefix = key_prefix(prefix)
        self._meter = meter
        self._ours_since_ns = 0
        self._cache = cache

    def download(
        self,
        commit: str,
        *,
        limits: Limits,
        threads: int,
        retry: Retry,
        check: Callable[[], None],
    ) -> Fetched:
        """Bring every object of the prefix, several at once, while the listing still runs.

        Args:
            retry: Tries one object, or the rest of the listing, again while the store does not
                answer.
            check: Called between objects; raises to stop early.

        Raises:
            TerminalAttemptError: A key cannot be a file, or the workspace is over its limits.
            StoreUnavailable: An object could not be read, or not whole, in several tries.
        """
        entries = self._files(commit, limits, retry)
        fetched = self._bring(entries, commit, threads=threads, retry=retry, check=check)
        self.manifest = self.brought
        return fetched

    def refresh(
        self,
        kept: Kept,
        commit: str,
        *,
        limits: Limits,
        threads: int,
        retry: Retry,
        check: Callable[[], None],
    ) -> Fetched:
        """Bring what is different at `commit` from what was kept, which is in `directory` now.

        The arguments are those of `download`, and so is what the directory then holds.

        Raises:
            UnfitError: The kept files cannot be used, or the commit cannot be downloaded either.
            StoreUnavailable: As from `download`.
        """
        changes = changes_since(kept, commit, self.prefix, store=self._store, retry=retry)
        plan = Plan.of(kept, changes, self.prefix)
        if limits.exceeded_by(plan.objects, plan.bytes):
            raise UnfitError("the workspace would be over its limits")
        if kept.seal is not None and kept.seal.holds():
            # Where it lies tells since when it is ours, by the clock that files' times are of.
            self._ours_since_ns = self.directory.parent.stat().st_ctime_ns
            if changes:
                change(self.directory, plan, kept.seal.folders)
        else:
            tidy(self.directory, plan, self.prefix, store=self._store, check=check)
        entries = iter(plan.to_fetch.items())
        self._meter.expect(len(plan.to_fetch), sum(info.size for info in plan.to_fetch.values()))
        fetched = self._bring(entries, commit, threads=threads, retry=retry, check=check)
        self.markers = plan.markers
        self.manifest = {**plan.manifest, **self.brought}
        return fetched

    def _bring(
        self,
        entries: Iterator[tuple[str, ObjectInfo]],
        commit: str,
        *,
        threads: int,
        retry: Retry,
        check: Callable[[], None],
    ) -> Fetched:
        self.brought = {}
        before = self._from_cache()
        read = partial(
            fetch,
            self._store,
            self._repository,
            lanes=Lanes(threads),
            check=check,
            moved=self._meter.moved,
            cache=self._cache,
        )

        def bring(entry: tuple[str, ObjectInfo]) -> None:
            path, info = entry
            target = self.directory / path
            checksum = retry(read, commit, info, target)
            self._meter.done()
            self.brought[path] = FileState.of(target.lstat(), checksum)

        for_each(entries, bring, threads=threads, check=check)
        cached = self._from_cache()
        size = sum(state.size for state in self.brought.values())
        return Fetched(
            len(self.brought) - (cached.objects - before.objects),
            size - (cached.bytes - before.bytes),
        )

    def _from_cache(self) -> Fetched:
        if self._cache is None:
            return Fetched(0, 0)
        return Fetched(self._cache.lookups["hit"], self._cache.hit_bytes)

    def _files(self, commit: str, limits: Limits, retry: Retry) -> Iterator[tuple[str, ObjectInfo]]:
        """Yield what to download; make directories on the way, before any file in them is begun."""
        layout = Layout(self.directory)
        self.markers = layout.markers
        count = total = 0
        listing = Listing(partial(self._store.list, self._repository, commit, self.prefix))
        listed = iter(lambda: retry(listing.next), None)
        objects = (info for info in listed if not is_reserved(info.key))
        for count, info in enumerate(objects, start=1):
            total += info.size
            if limits.exceeded_by(count, total):
                raise TerminalAttemptError(
                    Code.WORKSPACE_TOO_LARGE,
                    f"the workspace holds more than {limits.objects} objects or {limits.bytes} "
                    "bytes; narrow the task's prefix, or raise workspace.max_objects or "
                    "workspace.max_bytes",
                )
            try:
                path = relative_path(info.key, self.prefix)
                if layout.place(path, info):
                    yield path, info
            except KeyRefused as refused:
                raise TerminalAttemptError(Code.KEY_REFUSED, str(refused)) from refused
        self._meter.expect(count, total)

    def changes(self) -> Changes:
        """Compare the directory with the manifest; read only files that may have changed.

        Raises:
            RetryableAttemptError: Something that cannot be published: a symbolic link, a socket, a
                device, a hard link to a file outside, or a name that cannot be a key. Or a file
                that was not as it should be before the body began.
        """
        found = scan(self.directory, self.prefix, self.manifest)
        for path, state in found.others.items():
            self._require_ours(path, state)
        written = {
            path: state.st_size
            for path, state in found.others.items()
            if self._written(path, state)
        }
        total = sum(state.size for state in self.manifest.values())
        gone = sum(self.manifest[path].size for path in found.missing)
        was = sum(self.manifest[path].size for path in written if path in self.manifest)
        return Changes(
            written=written,
            deleted=tuple(sorted(found.missing)),
            kept_bytes=total - gone - was,
        )

    def _written(self, path: str, found: os.stat_result) -> bool:
        before = self.manifest.get(path)
        if before is None or before.size != found.st_size:
            return True
        return self._checksum(path, found) != before.checksum

    def _require_ours(self, path: str, found: os.stat_result) -> None:
        """Fail where a seal held and a file was changed all the same, in ways that break none.

        Files change so through links to them elsewhere. The body cannot have done it: that it was
        done is older than the body is.
        """
        before = self.manifest.get(path)
        if (
            before is not None
            and before.inode == found.st_ino
            and before.ctime_ns != found.st_ctime_ns < self._ours_since_ns
        ):
            raise RetryableAttemptError(
                Code.WORKSPACE_CHANGED,
                f"file {show(path)} was changed before the body began, by something that earlier "
                "work left behind; nothing is published",
            )

    def _checksum(self, path: str, found: os.stat_result) -> str:
        digest = self._store.new_digest(found.st_size)
        with open_regular(self.directory / path) as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def key(self, path: str) -> str:
        """Return the object key of a workspace path."""
        return object_key(path, self.prefix)
