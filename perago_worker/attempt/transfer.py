"""Moving many objects at once, and verifying each of them.

A bounded number of threads; the first failure stops what has not begun, and is the one raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import BinaryIO, TypeVar, cast

from perago_worker.ports import Digest

T = TypeVar("T")
R = TypeVar("R")


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
    results: list[R] = []
    pending: set[Future[R]] = set()
    with ThreadPoolExecutor(threads, thread_name_prefix="transfer") as pool:
        try:
            for item in items:
                check()
                pending.add(pool.submit(work, item))
                if len(pending) >= threads * 4:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    results.extend(future.result() for future in done)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                results.extend(future.result() for future in done)
                check()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return results


class DigestingReader:
    """A file that computes what it was read for, so that the stored bytes can be compared."""

    def __init__(self, file: BinaryIO, digest: Digest) -> None:
        self._file = file
        self._digest = digest
        self.bytes_read = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read like the file beneath."""
        data = self._file.read(size)
        self._digest.update(data)
        self.bytes_read += len(data)
        return data

    def as_binary(self) -> BinaryIO:
        """Return self typed as a file; stores only read from it."""
        return cast("BinaryIO", self)


class DigestingWriter:
    """A file that computes the checksum of what is written to it."""

    def __init__(self, file: BinaryIO, digest: Digest) -> None:
        self._file = file
        self._digest = digest

    def write(self, data: bytes, /) -> int:
        """Write like the file beneath."""
        self._digest.update(data)
        return self._file.write(data)

    def as_binary(self) -> BinaryIO:
        """Return self typed as a file; stores only write to it."""
        return cast("BinaryIO", self)
