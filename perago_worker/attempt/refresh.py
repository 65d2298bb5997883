"""Making of a kept workspace exactly what a download of a commit would make.

Costs one look at every file and what has changed. Whatever is not as expected makes the kept
directory unfit, and the caller downloads instead: a download says best what is wrong with a commit.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from perago_worker.attempt.backoff import Retry
from perago_worker.attempt.keys import KeyRefused, is_reserved, relative_path
from perago_worker.attempt.listing import Listing
from perago_worker.attempt.manifest import (
    FOLDER_MODE,
    FileState,
    Manifest,
    folders_of,
    settle,
    settled_state,
)
from perago_worker.attempt.scan import HASH_CHUNK_BYTES, Look, look, mode_of, open_regular
from perago_worker.attempt.shelf import Kept
from perago_worker.models import Change, ObjectInfo
from perago_worker.ports import WorkspaceStore

MIN_CHANGES = 1000
"""As many changes are always taken: a page of them costs no more than a page of a listing."""


class UnfitError(Exception):
    """A kept workspace cannot be used; the message says why."""


@dataclass
class Plan:
    """What a workspace is to hold.

    Attributes:
        manifest: Files that are there already, unless they have been touched since.
        to_fetch: Workspace path -> object of files that are not.
        markers: Workspace paths of directory markers.
        dropped: Workspace paths of files that were kept and are not to be there, or are to hold
            something else.
    """

    manifest: Manifest
    markers: set[str]
    to_fetch: dict[str, ObjectInfo] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, kept: Kept, changes: Iterable[Change], prefix: str) -> Plan:
        """Apply changes to what is kept.

        Args:
            prefix: As keys begin with it.

        Raises:
            UnfitError: A key cannot be a file.
        """
        plan = cls(dict(kept.manifest), set(kept.markers))
        for change in changes:
            if is_reserved(change.key):
                continue
            try:
                path = relative_path(change.key, prefix)
            except KeyRefused as refused:
                raise UnfitError(str(refused)) from refused
            if not path or path.endswith("/"):
                plan._apply_marker(path, change.now)
            else:
                plan._apply_file(path, change.now)
        return plan

    def _apply_marker(self, path: str, now: ObjectInfo | None) -> None:
        if now is None:
            self.markers.discard(path)
        elif now.size:
            raise UnfitError("a directory marker holds something")
        else:
            self.markers.add(path)

    def _apply_file(self, path: str, now: ObjectInfo | None) -> None:
        before = self.manifest.get(path)
        if (
            before
            and now
            and now.verifiable
            and (before.size, before.checksum) == (now.size, now.checksum)
        ):
            return
        if before:
            del self.manifest[path]
            self.dropped.append(path)
        if now:
            self.to_fetch[path] = now

    def fetch_again(self, path: str, prefix: str) -> None:
        """Have a file brought that should be there and is not, or is something else."""
        was = self.manifest.pop(path)
        # The checksum of the content that was there, whatever the store lists.
        self.to_fetch[path] = ObjectInfo(key=prefix + path, size=was.size, checksum=was.checksum)

    @property
    def objects(self) -> int:
        """Number of objects, markers included."""
        return len(self.manifest) + len(self.to_fetch) + len(self.markers)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        kept = sum(state.size for state in self.manifest.values())
        return kept + sum(info.size for info in self.to_fetch.values())

    def folders(self) -> set[str]:
        """Return the directories, the first one left out.

        Raises:
            UnfitError: One name is to be a file and a directory.
        """
        found = folders_of(chain(self.manifest, self.to_fetch, self.markers))
        if not found.isdisjoint(self.manifest) or not found.isdisjoint(self.to_fetch):
            raise UnfitError("one name would be a file and a directory at once")
        return found


def changes_since(
    kept: Kept, commit: str, prefix: str, *, store: WorkspaceStore, retry: Retry
) -> list[Change]:
    """Ask the store what is different at `commit`.

    Raises:
        UnfitError: So much that a listing costs less.
    """
    if kept.commit == commit:
        return []
    begin = partial(store.changes, kept.repository, kept.commit, commit, prefix)
    listing = Listing(begin)
    limit = max(MIN_CHANGES, len(kept.manifest))
    changes: list[Change] = []
    while change := retry(listing.next):
        changes.append(change)
        if len(changes) > limit:
            raise UnfitError(f"more than {limit} objects have changed")
    return changes


def tidy(
    directory: Path,
    plan: Plan,
    prefix: str,
    *,
    store: WorkspaceStore,
    check: Callable[[], None],
) -> None:
    """Leave in a directory what `plan` wants of it; what is missing or spoilt, it is to fetch.

    Raises:
        UnfitError: There is something in it that a download never makes.
        OSError: It cannot be tidied.
    """
    found = look(directory, plan.manifest)
    _refuse_odd(found)
    folders = plan.folders()
    for path in sorted(found.missing):
        plan.fetch_again(path, prefix)
    top = os.fspath(directory)
    for path, state in found.others.items():
        check()
        before = plan.manifest.get(path)
        if before is not None:
            now = _settle(directory / path, before, store) if before.size == state.st_size else None
            if now is not None:
                plan.manifest[path] = now
                continue
            plan.fetch_again(path, prefix)
        os.unlink(f"{top}/{path}")  # noqa: PTH108 -- thousands of strings need not become paths
    _set_folders(directory, found.folders.keys() - {""}, folders)


def change(directory: Path, plan: Plan, folders: AbstractSet[str]) -> None:
    """Do the same where the directory is known to hold what was kept, and these directories.

    Raises:
        UnfitError: One name is to be a file and a directory.
        OSError: It cannot be done.
    """
    wanted = plan.folders()
    for path in plan.dropped:
        (directory / path).unlink()
    _set_folders(directory, folders, wanted)


def _refuse_odd(found: Look) -> None:
    for state in found.others.values():
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise UnfitError("it holds a link or a special file")
    for path, state in found.folders.items():
        if path and mode_of(state) != FOLDER_MODE:
            raise UnfitError("the permissions of a directory were changed")


def _settle(path: Path, before: FileState, store: WorkspaceStore) -> FileState | None:
    """Make a file that was touched as a download leaves it, if it holds what it held."""
    digest = store.new_digest(before.size)
    with open_regular(path) as file:
        settle(file.fileno())
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
        state = settled_state(file.fileno(), before.size, digest.hexdigest())
    return state if state.inode and state.checksum == before.checksum else None


def _set_folders(directory: Path, found: AbstractSet[str], wanted: AbstractSet[str]) -> None:
    for path in sorted(found - wanted, key=len, reverse=True):
        (directory / path).rmdir()
    for path in sorted(wanted - found, key=len):
        (directory / path).mkdir()
        (directory / path).chmod(FOLDER_MODE)
