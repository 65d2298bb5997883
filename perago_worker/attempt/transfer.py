"""Moving many objects at once, and verifying each of them.

A bounded number of threads; the first failure stops what has not begun, and is the one raised.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import BinaryIO, Generic, TypeVar, cast

from perago_worker.attempt.meter import UNMETERED
from perago_worker.ports import Digest

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4
"""How many items may be under way or waiting, for each thread."""


def for_each(
    items: Iterable[T],
    work: Callable[[T], R],
    *,
    threads: int,
    check: Callable[[], None],
) -> list[R]:
    """Do `work` for every item, several at once, while `items` is still being produced.

    Args:
        items: Consumed in this thread, at most a few items ahead of the work.
        check: Called between items; raises to stop early.

    Returns:
        The results, in no particular order.

    Raises:
        Exception: The first one that `items`, `work` or `check` raised; work that has not begun by
            then is left out, and work that has is waited for.
    """
    crew = _Crew(work, threads)
    try:
        for item in items:
            check()
            crew.give(item)
        while crew.under_way:
            crew.collect()
            check()
    finally:
        crew.dismiss()
    return crew.results


class _Crew(Generic[T, R]):
    """Threads that take items from one queue and put what came of them into another.

    No executor: its future for each item costs more than reading a small object does.
    """

    def __init__(self, work: Callable[[T], R], threads: int) -> None:
        self.results: list[R] = []
        self.under_way = 0
        self._work = work
        self._size = threads
        self._threads: list[threading.Thread] = []
        self._waiting: SimpleQueue[tuple[T] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[R] | BaseException] = SimpleQueue()
        self._over = threading.Event()

    def give(self, item: T) -> None:
        """Have an item worked on; raises the failure of an earlier one."""
        if len(self._threads) < self._size:
            self._start()
        self.under_way += 1
        self._waiting.put((item,))
        while self.under_way >= self._size * AHEAD or not self._done.empty():
            self.collect()

    def collect(self) -> None:
        """Wait for an item to be done; raises its failure."""
        outcome = self._done.get()
        self.under_way -= 1
        if isinstance(outcome, BaseException):
            raise outcome
        self.results.append(outcome[0])

    def dismiss(self) -> None:
        """Leave out what has not begun and wait for what has."""
        self._over.set()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        name = f"transfer_{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None and not self._over.is_set():
            try:
                self._done.put((self._work(item[0]),))
            except BaseException as error:  # noqa: BLE001 -- raised where it is collected
                self._over.set()
                self._done.put(error)


def once() -> Callable[[], bool]:
    """Return what allows no other try."""
    return lambda: False


class DigestingReader:
    """A file that computes what it was read for, so that the stored bytes can be compared.

    `Rewindable`: what is read again takes the place of what was read first, in the checksum too.

    Attributes:
        digest: Of all that was read so far.
    """

    def __init__(
        self,
        file: BinaryIO,
        digest: Digest,
        *,
        moved: Callable[[int], None] = UNMETERED.moved,
        repeats: Callable[[], Callable[[], bool]] = once,
    ) -> None:
        """Prepare.

        Args:
            moved: Called with the size of each piece before it is handed on; may raise to stop.
            repeats: Called for each part; returns what waits for another try, and returns False
                where there is to be none.
        """
        self._file = file
        self.digest = digest
        self._moved = moved
        self._repeats = repeats
        self.bytes_read = 0
        self.mark()

    def mark(self) -> None:
        """Begin a part here."""
        self._marked = (self.digest.copy(), self.bytes_read)
        self._again = self._repeats()

    def rewind(self) -> bool:
        """Wait, and go back to where the part began; False when it was tried often enough."""
        if not self._again():
            return False
        self._moved(0)
        digest, bytes_read = self._marked
        self._file.seek(bytes_read - self.bytes_read, os.SEEK_CUR)
        self.digest, self.bytes_read = digest.copy(), bytes_read
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Read like the file beneath."""
        data = self._file.read(size)
        self.digest.update(data)
        self.bytes_read += len(data)
        self._moved(len(data))
        return data

    def as_binary(self) -> BinaryIO:
        """Return self typed as a file; stores only read from it."""
        return cast("BinaryIO", self)
