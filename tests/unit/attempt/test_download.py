"""One object becomes one file: whole, verified, under its name only then."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from perago_worker.attempt import ranges
from perago_worker.attempt.download import fetch
from perago_worker.attempt.manifest import DOWNLOADED_MTIME_NS
from perago_worker.attempt.ranges import Lanes
from perago_worker.errors import StoreUnavailable
from perago_worker.models import ObjectInfo
from perago_worker.ports import Digest, WorkspaceStore
from tests.support import PATIENCE_S

RANGE = 1000
LANES = 8


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of a thousand bytes: what is tested does not depend on how many there are of them."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", RANGE)
    monkeypatch.setattr(ranges, "MIN_RANGED_BYTES", 4 * RANGE)


class Shelf:
    """A store of one object, which is read in chunks of 100 bytes.

    Attributes:
        seeks: See the port.
        asked: Start and size of each reading, None for the size of a whole one.
        before: Called before each reading with its number, from 1, and its start; returns what the
            object holds for that reading.
    """

    def __init__(self, content: bytes, *, seeks: bool = True) -> None:
        self.content = content
        self.seeks = seeks
        self.asked: list[tuple[int, int | None]] = []
        self.before: Callable[[int, int], bytes] = lambda _, __: self.content
        self._lock = threading.Lock()

    def read(
        self,
        repository: str,
        commit: str,
        key: str,
        into: BinaryIO,
        *,
        start: int = 0,
        size: int | None = None,
        listed_size: int,
    ) -> int:
        assert (repository, commit, key) == ("data", "c0ffee", "ws/file")
        with self._lock:
            self.asked.append((start, size))
            number = len(self.asked)
        held = self.before(number, start)
        wanted = held[start:] if size is None else held[start : start + size]
        for at in range(0, len(wanted), 100):
            into.write(wanted[at : at + 100])
        return len(wanted)

    def new_digest(self, size: int) -> Digest:
        return hashlib.md5(b"%d:" % size, usedforsecurity=False)

    def checksum(self, content: bytes) -> str:
        digest = self.new_digest(len(content))
        digest.update(content)
        return digest.hexdigest()

    def info(self, *, verifiable: bool = True) -> ObjectInfo:
        checksum = self.checksum(self.content)
        return ObjectInfo(
            key="ws/file", size=len(self.content), checksum=checksum, verifiable=verifiable
        )


def bring(
    shelf: Shelf,
    target: Path,
    *,
    info: ObjectInfo | None = None,
    lanes: Lanes | None = None,
    check: Callable[[], None] = lambda: None,
) -> str:
    store = cast("WorkspaceStore", shelf)
    return fetch(store, "data", "c0ffee", info or shelf.info(), target, lanes=lanes, check=check)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """Where the file goes; nothing else may be beside it afterwards, no thread left."""
    yield tmp_path / "file"
    assert {path.name for path in tmp_path.iterdir()} <= {"file"}
    assert not [t for t in threading.enumerate() if t.name.startswith("transfer")]


CONTENTS = {size: os.urandom(size) for size in (0, 1, 999, 3999, 4000, 4001, 12_345)}


@pytest.mark.parametrize("size", CONTENTS)
@pytest.mark.parametrize("lanes", [None, 1, 2, LANES])
@pytest.mark.parametrize("seeks", [True, False])
def test_the_file_is_the_object(target: Path, size: int, lanes: int | None, seeks: bool) -> None:
    shelf = Shelf(CONTENTS[size], seeks=seeks)
    checksum = bring(shelf, target, lanes=None if lanes is None else Lanes(lanes))
    assert target.read_bytes() == shelf.content
    assert checksum == shelf.checksum(shelf.content)
    assert target.stat().st_mtime_ns == DOWNLOADED_MTIME_NS
    assert target.stat().st_mode & 0o777 == 0o644


def test_it_takes_the_place_of_what_was_there(target: Path) -> None:
    target.write_bytes(b"older")
    bring(Shelf(b"newer"), target)
    assert target.read_bytes() == b"newer"


def test_a_large_object_is_read_in_ranges_at_once(target: Path) -> None:
    shelf = Shelf(CONTENTS[12_345])
    together = threading.Barrier(2)

    def meet(number: int, _: int) -> bytes:
        if number <= 2:
            together.wait(PATIENCE_S)
        return shelf.content

    shelf.before = meet
    bring(shelf, target, lanes=Lanes(LANES))
    assert target.read_bytes() == shelf.content
    # The last one asks for a byte that must not be there.
    assert sorted(shelf.asked) == [(at, RANGE) for at in range(0, 12_000, RANGE)] + [(12_000, 346)]


@pytest.mark.parametrize(
    ("size", "lanes", "seeks"), [(3999, LANES, True), (12_345, 2, True), (12_345, LANES, False)]
)
def test_an_object_is_read_in_one_go_where_ranges_would_not_pay(
    target: Path, size: int, lanes: int, seeks: bool
) -> None:
    """It is small, or no other lanes are idle, or the store cannot begin in the middle."""
    shelf = Shelf(CONTENTS[size], seeks=seeks)
    bring(shelf, target, lanes=Lanes(lanes))
    assert shelf.asked == [(0, None)]


def test_lanes_are_given_back(target: Path) -> None:
    lanes = Lanes(LANES)
    shelf = Shelf(CONTENTS[12_345])
    shelf.before = lambda number, _: shelf.content if number > 1 else b""
    with pytest.raises(StoreUnavailable):
        bring(shelf, target, lanes=lanes)
    for _ in range(3):
        shelf.asked.clear()
        shelf.before = lambda _, __: shelf.content
        bring(shelf, target, lanes=lanes)
        assert len(shelf.asked) == 13


@pytest.mark.parametrize("lanes", [None, Lanes(LANES)], ids=["whole", "ranges"])
class TestDamage:
    content = CONTENTS[12_345]

    @pytest.mark.parametrize("held", [content[:-1], content[:5000], b"", content + b"x"])
    def test_an_object_of_another_size_is_no_file(
        self, target: Path, lanes: Lanes | None, held: bytes
    ) -> None:
        shelf = Shelf(self.content)
        shelf.before = lambda _, __: held
        with pytest.raises(StoreUnavailable, match=r"arrived damaged: \d+ bytes, listed 12345"):
            bring(shelf, target, lanes=lanes)
        assert not target.exists()

    def test_bytes_damaged_once_are_read_again(self, target: Path, lanes: Lanes | None) -> None:
        shelf = Shelf(self.content)
        spoilt = self.content[:100] + b"\0" + self.content[101:]
        shelf.before = lambda number, _: spoilt if number == 1 else self.content
        assert bring(shelf, target, lanes=lanes) == shelf.checksum(self.content)
        assert target.read_bytes() == self.content

    def test_bytes_that_change_with_each_reading_are_no_file(
        self, target: Path, lanes: Lanes | None
    ) -> None:
        shelf = Shelf(self.content)
        other = [byte for byte in range(256) if byte != self.content[0]]
        shelf.before = lambda number, _: bytes([other[number]]) + self.content[1:]
        with pytest.raises(StoreUnavailable, match="arrived damaged: checksums"):
            bring(shelf, target, lanes=lanes)
        assert not target.exists()

    def test_bytes_that_are_the_same_twice_are_taken(
        self, target: Path, lanes: Lanes | None
    ) -> None:
        """Their checksum was that of the origin they were imported from."""
        shelf = Shelf(self.content)
        listed = shelf.info().model_copy(update={"checksum": "0" * 32})
        assert bring(shelf, target, info=listed, lanes=lanes) == shelf.checksum(self.content)

    def test_an_opaque_checksum_is_not_compared(self, target: Path, lanes: Lanes | None) -> None:
        shelf = Shelf(self.content)
        listed = shelf.info(verifiable=False).model_copy(update={"checksum": "etag-7"})
        bring(shelf, target, info=listed, lanes=lanes)
        starts = [start for start, _ in shelf.asked]
        assert len(starts) == len(set(starts))  # once

    @pytest.mark.parametrize("nth", [1, 2, 40])
    def test_it_stops_when_it_is_told_to(self, target: Path, lanes: Lanes | None, nth: int) -> None:
        """Between pieces of one object, not only between objects."""
        shelf = Shelf(self.content)
        checks = iter(range(1, 10_000))

        def check() -> None:
            if next(checks) >= nth:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            bring(shelf, target, lanes=lanes, check=check)
        assert not target.exists()

    def test_a_full_disk_leaves_nothing(
        self, target: Path, lanes: Lanes | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It takes a part of what is written first, as file systems do."""
        room = 5050
        pwrite = os.pwrite

        def full(descriptor: int, data: memoryview, at: int) -> int:
            if at >= room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return pwrite(descriptor, data[: room - at], at)

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            bring(Shelf(self.content), target, lanes=lanes)
        assert not target.exists()


def test_no_file_is_made_where_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bring(Shelf(b"x"), tmp_path / "missing" / "file")
