"""Listing a commit, or a difference, from beginning to end, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from perago_worker.errors import StoreUnavailable

T = TypeVar("T")


class Listing(Generic[T]):
    """What commits hold, from where it was on when the store did not answer half-way."""

    def __init__(self, begin: Callable[[], Iterator[T]]) -> None:
        self._begin = begin
        self._entries: Iterator[T] | None = None
        self._seen = 0

    def next(self) -> T | None:
        """Return the next entry, None at the end; may be called again after it has failed."""
        if self._entries is None:
            # What commits hold never changes, so what was seen is known by its number.
            self._entries = islice(self._begin(), self._seen, None)
        try:
            info = next(self._entries, None)
        except StoreUnavailable:
            self._entries = None  # an iterator that has raised is at its end
            raise
        self._seen += info is not None
        return info
