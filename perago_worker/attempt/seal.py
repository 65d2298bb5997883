"""Knowing without looking that a kept workspace is as its manifest says.

It was looked at when it was put away, and watched since: what nobody opened has not changed. Where
nothing can be watched, or anything has happened, there is no seal, and whoever takes the workspace
looks at every file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from perago_worker.attempt.manifest import FOLDER_MODE, Manifest, folders_of
from perago_worker.attempt.scan import look, mode_of
from perago_worker.attempt.watch import CHANGES, CHANGES_AND_OPENS, Watch, Watcher
from perago_worker.errors import RetryableAttemptError

MAX_FOLDERS = 1000
"""Directories of a workspace that are watched at most: a user has 8,192 or more in all."""


@dataclass(frozen=True)
class Seal:
    """Tells whether a workspace is still as it was looked at.

    Attributes:
        folders: Workspace paths of its directories, the first one left out.
    """

    folders: AbstractSet[str]
    _watch: Watch

    def holds(self) -> bool:
        """Tell whether nobody has opened or changed anything in it."""
        return self._watch.quiet()

    def end(self) -> None:
        """Take it off: what happens in the workspace from now on is expected."""
        self._watch.end()


class Sealing:
    """A workspace on its way to a seal: watched, not yet looked at."""

    def __init__(self, watcher: Watcher, directory: Path, folders: AbstractSet[str]) -> None:
        """Begin to watch.

        Raises:
            OSError: It cannot be watched.
        """
        top = os.fspath(directory)
        self._watcher = watcher
        self._directory = directory
        self._folders = folders
        self._paths = [top, *(f"{top}/{folder}" for folder in folders)]
        self._watch = watcher.watch(self._paths, CHANGES)

    def finish(self, manifest: Manifest) -> Seal | None:
        """Look at every file; None where anything is not as the manifest has it."""
        with suppress(OSError, RetryableAttemptError):
            if self._matches(manifest):
                # Not before: our own look opens the directories.
                watch = self._watcher.watch(self._paths, CHANGES_AND_OPENS)
                if self._watch.quiet():
                    return Seal(self._folders, watch)
                watch.end()
        self.give_up()
        return None

    def _matches(self, manifest: Manifest) -> bool:
        found = look(self._directory, manifest)
        if found.others or found.missing or found.folders.keys() - {""} != self._folders:
            return False
        return all(mode_of(state) == FOLDER_MODE for path, state in found.folders.items() if path)

    def give_up(self) -> None:
        """Watch no more."""
        self._watch.end()


class Sealer:
    """Begins to seal workspaces, with one watcher for all of them. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watcher: Watcher | None = None

    def begin(
        self, directory: Path, manifest: Manifest, markers: AbstractSet[str]
    ) -> Sealing | None:
        """Watch a workspace before it is looked at; None where that is not possible."""
        folders = folders_of((*manifest, *markers))
        if len(folders) >= MAX_FOLDERS:
            return None
        try:
            return Sealing(self._open(), directory, folders)
        except OSError:
            return None

    def _open(self) -> Watcher:
        with self._lock:
            if self._watcher is None:
                self._watcher = Watcher()
            return self._watcher

    def close(self) -> None:
        """Watch nothing more."""
        with self._lock:
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
