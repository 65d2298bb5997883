"""Moving many objects at once: bounded, stopped by the first failure, verified."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator

import pytest

from perago_worker.attempt.transfer import DigestingReader, for_each
from tests.support import PATIENCE_S

THREADS = 3


def go_on() -> None:
    """Check nothing."""


def test_every_item_is_worked_on() -> None:
    results = for_each(range(100), lambda n: n * n, threads=THREADS, check=go_on)

    assert sorted(results) == [n * n for n in range(100)]


def test_nothing_to_do_is_done() -> None:
    assert for_each([], str, threads=THREADS, check=go_on) == []


def test_several_are_worked_on_at_once() -> None:
    barrier = threading.Barrier(THREADS)

    for_each(range(THREADS), lambda _: barrier.wait(PATIENCE_S), threads=THREADS, check=go_on)

    assert not barrier.broken


def test_items_are_taken_no_more_than_a_few_ahead_of_the_work() -> None:
    """A listing of a million objects must not pile up in memory."""
    done, ahead, lock = 0, 0, threading.Lock()

    def items() -> Iterator[int]:
        nonlocal ahead
        for number in range(500):
            with lock:
                ahead = max(ahead, number - done)
            yield number

    def work(_: int) -> None:
        nonlocal done
        with lock:
            done += 1

    for_each(items(), work, threads=THREADS, check=go_on)

    # What is pending was not collected yet; what ran but was not seen so far counts as done.
    assert ahead <= THREADS * 4


def test_the_first_failure_stops_what_has_not_begun() -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        for_each(range(10_000), work, threads=1, check=go_on)
    assert len(begun) <= 5


def test_a_failing_listing_is_raised_once_the_work_that_began_has_ended() -> None:
    finished: list[int] = []
    listing_failed = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        listing_failed.set()
        raise ValueError("the listing")

    def work(number: int) -> None:
        assert listing_failed.wait(PATIENCE_S)
        finished.append(number)

    with pytest.raises(ValueError, match="the listing"):
        for_each(items(), work, threads=THREADS, check=go_on)
    assert finished in ([1], [])  # left out, if it had not begun
    assert not [t for t in threading.enumerate() if t.name.startswith("transfer")]


@pytest.mark.parametrize("nth", [1, 2, 50])
def test_it_stops_when_it_is_told_to(nth: int) -> None:
    checks = 0
    begun: list[int] = []

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == nth:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        for_each(range(10_000), begun.append, threads=THREADS, check=check)
    assert len(begun) < nth


def test_it_stops_while_the_last_ones_are_under_way() -> None:
    """With nothing left to begin, whoever waits for the rest still looks up."""
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks > 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        for_each(range(3), str, threads=THREADS, check=check)


def test_what_is_read_is_digested() -> None:
    digest = hashlib.sha256()
    reader = DigestingReader(io.BytesIO(b"some bytes"), digest)

    assert reader.as_binary().read(4) == b"some"
    assert reader.as_binary().read() == b" bytes"
    assert reader.as_binary().read() == b""
    assert reader.bytes_read == 10
    assert digest.digest() == hashlib.sha256(b"some bytes").digest()


def test_what_is_read_again_takes_the_place_of_what_was_read_first() -> None:
    """Even where the file has changed meanwhile: the checksum is that of what was sent last."""
    file = io.BytesIO(b"some bytes")
    reader = DigestingReader(file, hashlib.sha256(), repeats=lambda: lambda: True)
    reader.read(4)
    reader.mark()
    for text in (b" words", b" bytes"):
        file.getbuffer()[4:] = text
        assert reader.rewind()
        assert reader.read(3) == text[:3]
        assert reader.rewind()
        assert reader.read() == text

    assert reader.bytes_read == 10
    assert reader.digest.hexdigest() == hashlib.sha256(b"some bytes").hexdigest()


def test_each_part_has_tries_of_its_own_and_stays_where_it_is_after_them() -> None:
    reader = DigestingReader(
        io.BytesIO(b"some bytes"), hashlib.sha256(), repeats=lambda: iter([True, False]).__next__
    )
    for part in (b"some", b" byt"):
        reader.mark()
        reader.read(4)
        assert reader.rewind()
        assert reader.read(4) == part
        assert not reader.rewind()

    assert reader.read() == b"es"


def test_nothing_is_read_again_once_it_is_to_stop() -> None:
    pieces: list[int] = []

    def moved(size: int) -> None:
        pieces.append(size)
        if size == 0:
            raise InterruptedError

    reader = DigestingReader(
        io.BytesIO(b"some bytes"), hashlib.sha256(), moved=moved, repeats=lambda: lambda: True
    )
    reader.read()

    with pytest.raises(InterruptedError):
        reader.rewind()
    assert pieces == [10, 0]
