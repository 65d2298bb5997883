"""Files of a workspace go into the cache beside the body's work, not before it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from perago_worker.attempt.cache import ContentCache
from perago_worker.attempt.manifest import FileState
from perago_worker.attempt.scan import open_regular
from perago_worker.errors import RetryableAttemptError


class CacheFill:
    """Adds what was downloaded to the cache, in a thread of its own.

    A file that the body has changed, or changes meanwhile, is left out.

    Args:
        stop: Looked at between files; leaves out the others when it is set.
    """

    def __init__(self, cache: ContentCache, directory: Path, *, stop: threading.Event) -> None:
        self._cache = cache
        self._directory = directory
        self._stops = [stop]
        self._thread: threading.Thread | None = None

    def start(self, files: Mapping[str, FileState]) -> None:
        """Begin to add files; called once at most."""
        if not files:
            return
        self._thread = threading.Thread(
            target=self.add, args=(files,), name="cache_fill", daemon=True
        )
        self._thread.start()

    def finish(self, *, stop: threading.Event) -> None:
        """Wait until they are added.

        Args:
            stop: Looked at from now on, too.
        """
        self._stops.append(stop)
        if self._thread is not None:
            self._thread.join()

    def add(self, files: Mapping[str, FileState]) -> None:
        """Add files and return when that is done."""
        for path, state in files.items():
            if any(stop.is_set() for stop in self._stops):
                return
            with (
                suppress(RetryableAttemptError),  # the body has removed it, or put a link there
                open_regular(self._directory / path) as file,
            ):
                self._cache.add(file.fileno(), state)
