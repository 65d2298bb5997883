"""Listing a commit from beginning to end, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from perago_worker.errors import StoreUnavailable
from perago_worker.models import ObjectInfo


class Listing:
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
