"""Noticing that somebody opens or changes something in directories.

inotify, which the standard library has no module for. The kernel tells of every way to a file by a
name in a watched directory, and does so before the call that takes it returns. It tells nothing of
files that somebody has open already, nor of those reached by a name elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress

_MODIFY, _ATTRIB, _CLOSE_WRITE, _OPEN = 0x2, 0x4, 0x8, 0x20
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLYDIR, _DONT_FOLLOW, _ONESHOT = 0x0100_0000, 0x0200_0000, 0x8000_0000
# One event of a directory is all that is wanted, so that bodies are not slowed down by more.
_CHANGES = (
    *(_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF),
    *(_ONLYDIR, _DONT_FOLLOW, _ONESHOT),
)
CHANGES = sum(_CHANGES)
"""Everything that changes a directory or a file in it through what is opened from now on."""

CHANGES_AND_OPENS = CHANGES | _OPEN
"""The same, and opening any of them, the directory itself included."""

_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * 1024


class Watch:
    """Directories that are watched. Safe to use from any thread."""

    def __init__(self, watcher: Watcher, numbers: list[int]) -> None:
        self._watcher = watcher
        self._numbers = numbers
        self._overflows = watcher.overflows

    def quiet(self) -> bool:
        """Tell whether nothing has happened in any of the directories; not where it is unknown."""
        try:
            touched = self._watcher.touched(self._numbers)
        except OSError:  # closed meanwhile
            return False
        return not touched and self._watcher.overflows == self._overflows

    def end(self) -> None:
        """Watch them no more. Idempotent."""
        numbers, self._numbers = self._numbers, []
        self._watcher.forget(numbers)


class Watcher:
    """Watches directories for the whole process: instances are few, and slow to close.

    Safe to use from any thread.

    Attributes:
        overflows: How often the system could not tell all that had happened.
    """

    def __init__(self) -> None:
        """Prepare.

        Raises:
            OSError: The system offers no watching, or no more of it.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        self._add, self._remove = libc.inotify_add_watch, libc.inotify_rm_watch
        self._add.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
        self._fd = _checked(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._close = weakref.finalize(self, os.close, self._fd)  # there are 128 for each user
        self._lock = threading.Lock()
        self._touched: set[int] = set()
        self.overflows = 0

    def watch(self, folders: Iterable[str], events: int) -> Watch:
        """Begin to watch directories that are not watched, or ask of those that are for `events`.

        Raises:
            OSError: One is no directory, or the system watches no more.
        """
        numbers: list[int] = []
        try:
            numbers.extend(
                _checked(self._add(self._fd, os.fsencode(folder), events)) for folder in folders
            )
        except OSError:
            self.forget(numbers)
            raise
        return Watch(self, numbers)

    def touched(self, numbers: Iterable[int]) -> bool:
        """Tell whether anything has happened in one of these directories.

        Raises:
            OSError: The watcher is closed.
        """
        with self._lock:
            self._take_notice()
            return not self._touched.isdisjoint(numbers)

    def forget(self, numbers: Iterable[int]) -> None:
        """Watch these directories no more."""
        with self._lock:
            for number in numbers:
                self._remove(self._fd, number)  # fails where the one event has ended it already
            with suppress(OSError):
                self._take_notice()  # of the last there is: numbers are not used again
            self._touched.difference_update(numbers)

    def close(self) -> None:
        """Watch nothing more. Idempotent."""
        with self._lock:
            self._fd = -1
        self._close()

    def _take_notice(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._fd, _READ_BYTES):
                self._note(data)

    def _note(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            number, events, _, name_size = _EVENT.unpack_from(data, at)
            if events & _OVERFLOW:
                self.overflows += 1
            elif not events & _IGNORED:  # that only says that it is not watched any more
                self._touched.add(number)
            at += _EVENT.size + name_size


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
