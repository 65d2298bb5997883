"""The access keys of a server, which may be exchanged while the worker runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_log = logging.getLogger(__name__)

_State = tuple[int, int, int]


@dataclass(frozen=True)
class Keys:
    """Who we are to a server. The secret is in no `repr`."""

    key_id: str
    secret: str = field(repr=False)


class KeySource(Protocol):
    """Where the keys come from. Safe from any thread."""

    def current(self) -> Keys:
        """Return the keys to use now."""


@dataclass(frozen=True)
class FixedKeys:
    """Keys that do not change."""

    keys: Keys

    def current(self) -> Keys:
        """Return them."""
        return self.keys


class KeyFiles:
    """Keys in two files, read again when either has changed.

    Whoever mounts secrets exchanges the files one after the other, or makes them anew: what cannot
    be read then leaves the keys as they were, until the next look.

    Args:
        on_new: Told of every secret before it is used, so that it can be kept out of logs.
    """

    def __init__(
        self,
        key_id: Path,
        secret: Path,
        *,
        read: Callable[[Path], str],
        on_new: Callable[[str], object],
    ) -> None:
        self._files = (key_id, secret)
        self._read = read
        self._on_new = on_new
        self._lock = threading.Lock()
        self._states = self._look()
        self._keys = self._load()

    def current(self) -> Keys:
        """Return the keys as the files have them."""
        states = self._look()
        with self._lock:
            if states == self._states:
                return self._keys
            try:
                keys = self._load()
            except Exception as problem:  # noqa: BLE001 -- the old ones may do until the next look
                _log.warning("new keys cannot be read yet: %s", problem)
                return self._keys
            self._states = states
            if keys != self._keys:
                self._keys = keys
                _log.info("keys were exchanged: %s", self._files[1].name)
            return self._keys

    def _load(self) -> Keys:
        key_id, secret = map(self._read, self._files)
        self._on_new(secret)
        return Keys(key_id, secret)

    def _look(self) -> list[_State | None]:
        return [_state(file) for file in self._files]


def _state(file: Path) -> _State | None:
    """Return what changes when a file does; None while it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
