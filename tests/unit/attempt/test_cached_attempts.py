"""Attempts with a cache: what it spares them, and that nothing wrong comes of it.

Kept workspaces are turned off, since they would spare the same attempts the same.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from perago_worker.attempt.cache_entries import Entry, entries
from perago_worker.attempt.codes import Code
from perago_worker.attempt.directories import CACHE_NAME, AttemptDirectories, worker_directories
from perago_worker.attempt.manifest import DOWNLOADED_MTIME_NS
from perago_worker.errors import StoreUnavailable
from perago_worker.events import CacheFailed, CacheLookup, CacheUsed
from tests.support import REPOSITORY, HastyClock, contents, eventually, put, raising, rig
from tests.unit.attempt.test_cache import flip, rewrite
from tests.unit.attempt.test_warm import FILES, Place

BELOW_PREFIX = 4
"""Files of the template in the workspace of these tasks."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with rig(tmp_path / "rig", clock=HastyClock(), warm=0) as here:
        here.start = put(here.local_store, FILES)
        yield Place(here)


def folder(place: Place) -> Path:
    return place.here.root / "work" / CACHE_NAME


def entry(place: Place, key: str) -> Path:
    """Return where the object of a key is kept."""
    (info,) = place.here.local_store.list(REPOSITORY, place.here.head().id, key)
    return folder(place) / info.checksum[:2] / f"{info.checksum}-{info.size}"


def cached(place: Place) -> list[Entry]:
    return list(entries(folder(place))) if folder(place).is_dir() else []


def used(place: Place) -> Mapping[CacheLookup, int]:
    """Return what the latest download found."""
    return place.here.recorder.of(CacheUsed)[-1].lookups


def reads(place: Place) -> int:
    return place.here.store.calls("read")


def grown_back(place: Place) -> None:
    """Carry out the attempt after a failed one: it completes, and its body finds what is right."""
    for method in ("read", "stage.write"):
        place.here.store.before(method, lambda: None)
    place.run(lambda ws: (ws / "in.txt").write_text("published"))
    assert place.seen["in.txt"].content == b"input"
    assert place.seen["sub/deeper/b.bin"].content == FILES["data/sub/deeper/b.bin"]
    assert place.here.publications() == 1
    assert contents(place.here.local_store, place.here.head().id)["data/in.txt"] == b"published"


class TestHits:
    def test_another_task_finds_what_the_first_one_read(self, place: Place) -> None:
        place.run()
        assert used(place) == {"miss": BELOW_PREFIX}
        before = reads(place)

        place.run(definition=place.body.define(prefix="data/sub"))

        assert used(place) == {"hit": 2}
        assert place.here.recorder.of(CacheUsed)[-1].hit_bytes == 2001
        assert place.fetched() == (0, 2001)
        assert reads(place) == before
        a = place.seen["a.txt"]
        assert (a.mode, a.mtime_ns, a.content) == (0o100644, DOWNLOADED_MTIME_NS, b"a")

    def test_another_worker_finds_what_the_first_one_published(self, place: Place) -> None:
        place.run(lambda ws: (ws / "out").write_text("made"))
        place.here.directories.close()
        place.here.directories = AttemptDirectories(
            place.here.root / "work",
            owner="another",
            cache_bytes=place.here.cache_bytes,
            listener=place.here.recorder,
        )
        place.here.directories.open()

        place.run()

        assert used(place) == {"hit": BELOW_PREFIX + 1}
        assert place.seen["out"].content == b"made"

    def test_files_are_kept_before_the_body_ends(self, place: Place) -> None:
        """So that hours of work that come to nothing do not cost another download."""

        def wait_for_the_cache(_: Path) -> None:
            eventually(lambda: folder(place).is_dir())
            eventually(lambda: len(list(entries(folder(place)))) == BELOW_PREFIX)
            raise ValueError("the body fails")

        assert place.end(wait_for_the_cache).code == Code.TASK_EXCEPTION
        place.run()
        assert used(place) == {"hit": BELOW_PREFIX}

    def test_what_a_failed_download_has_read_is_kept(self, place: Place) -> None:
        """So that the next attempt goes on where it ended."""
        reading = count()

        def away_after_the_first() -> None:
            if next(reading):
                raise StoreUnavailable("the store is away")

        place.here.store.before("read", away_after_the_first)
        assert place.end(lambda _: None).code == Code.TRANSFER_FAILED
        place.here.store.before("read", lambda: None)

        place.run()

        assert used(place) == {"hit": 1, "miss": BELOW_PREFIX - 1}

    def test_bodies_that_write_to_their_files_leave_no_trace_in_the_cache(
        self, place: Place
    ) -> None:
        def spoil(ws: Path) -> None:
            for path in ws.rglob("*.*"):
                path.write_bytes(b"X" * path.stat().st_size)

        place.run(spoil, place.reader)
        place.run()

        assert "corrupted" not in used(place)
        assert {path: each.content for path, each in place.seen.items() if each.mtime_ns} == {
            key.removeprefix("data/"): content.encode() if isinstance(content, str) else content
            for key, content in FILES.items()
            if key.startswith("data/")
        }

    def test_a_worker_that_drains_does_not_wait_for_what_is_published(self, place: Place) -> None:
        place.here.draining.set()
        place.run(lambda ws: (ws / "out").write_text("made"))

        assert b"made" not in {Path(e.path).read_bytes() for e in cached(place)}

    def test_it_belongs_to_no_worker(self, place: Place) -> None:
        place.run()
        found = worker_directories(place.here.root / "work")
        assert [each.path.name for each in found] == ["owner"]
        place.here.directories.close()
        assert [path.name for path in (place.here.root / "work").iterdir()] == [CACHE_NAME]
        place.here.directories.open()
        assert place.here.directories.remove_dead() == []
        assert list(entries(folder(place)))

    def test_turned_off_it_is_not_asked(self, tmp_path: Path) -> None:
        with rig(tmp_path / "off", clock=HastyClock(), warm=0, cache_bytes=0) as here:
            here.start = put(here.local_store, FILES)
            place = Place(here)
            place.run()
            place.run()
            assert reads(place) == 2 * BELOW_PREFIX
            assert here.recorder.of(CacheUsed) == []
            assert not folder(place).exists()


def truncate(path: Path) -> None:
    rewrite(path, path.read_bytes()[:-1])


class TestCorruption:
    @pytest.mark.parametrize("damage", [flip, truncate])
    def test_an_entry_that_is_damaged_is_read_again(
        self, place: Place, damage: Callable[[Path], None]
    ) -> None:
        place.run()
        damage(entry(place, "data/in.txt"))
        before = reads(place)

        place.run(lambda ws: (ws / "out").write_bytes((ws / "in.txt").read_bytes()))

        assert used(place) == {"hit": BELOW_PREFIX - 1, "corrupted": 1}
        assert reads(place) == before + 1
        assert contents(place.here.local_store, place.here.head().id)["data/out"] == b"input"
        assert entry(place, "data/in.txt").read_bytes() == b"input"

    def test_with_the_store_away_a_damaged_entry_is_no_way_out(self, place: Place) -> None:
        place.run()
        flip(entry(place, "data/in.txt"))
        place.here.store.before("read", raising(StoreUnavailable("the store is away")))

        outcome = place.end(lambda ws: (ws / "out").touch())

        assert (outcome.code, outcome.kind) == (Code.TRANSFER_FAILED, "failed")
        assert place.here.publications() == 0
        grown_back(place)

    @pytest.mark.parametrize("change", [-1, 1], ids=["truncated", "grown"])
    def test_an_object_of_another_size_than_listed(
        self, place: Place, change: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It fails the attempt, nothing of it is kept, and the next attempt reads it anew."""
        store = place.here.local_store
        read = type(store).read

        def resized(self: Any, where: str, commit: str, key: str, into: Any, **how: Any) -> int:
            size = int(read(self, where, commit, key, into, **how))
            if key != "data/in.txt":
                return size
            into.write(b"x" * max(0, change))
            return size + change

        monkeypatch.setattr(type(store), "read", resized)
        outcome = place.end(lambda ws: (ws / "out").touch())
        monkeypatch.undo()

        assert outcome.code == Code.TRANSFER_FAILED
        assert "arrived damaged" in outcome.reason
        assert place.here.publications() == 0
        assert place.here.leftovers() == []
        assert not folder(place).exists() or not entry(place, "data/in.txt").exists()
        grown_back(place)


class TestFullDisk:
    def test_during_the_download(self, place: Place) -> None:
        place.here.store.before("read", raising(OSError(errno.ENOSPC, "No space left on device")))

        outcome = place.end(lambda ws: (ws / "out").touch())

        assert (outcome.code, outcome.kind) == (Code.DISK_FULL, "failed")
        assert "no space is left" in outcome.reason
        assert place.here.publications() == 0
        assert place.here.leftovers() == []
        grown_back(place)

    def test_of_both_with_a_cache_that_cannot_be_emptied(self, place: Place) -> None:
        place.here.root.joinpath("work", CACHE_NAME).write_text("in the way")
        place.here.store.before("read", raising(OSError(errno.ENOSPC, "No space left on device")))

        assert place.end(lambda ws: (ws / "out").touch()).code == Code.DISK_FULL
        grown_back(place)

    def test_the_cache_makes_room_for_a_download(self, place: Place) -> None:
        place.run()
        put(place.here.local_store, {"data/new": "new"})
        place.here.store.before(
            "read", raising(OSError(errno.ENOSPC, "No space left on device")), nth=1
        )

        place.run()

        assert place.seen["new"].content == b"new"

    def test_of_the_cache(self, place: Place) -> None:
        """The attempts before and after know nothing of it."""
        place.here.root.joinpath("work", CACHE_NAME).write_text("in the way")

        place.run(lambda ws: (ws / "one").touch())
        place.run(lambda ws: (ws / "two").touch())

        assert place.here.publications() == 2
        assert [event.error for event in place.here.recorder.of(CacheFailed)] == ["Not a directory"]

    def test_during_the_upload(self, place: Place) -> None:
        place.here.store.before(
            "stage.write", raising(OSError(errno.ENOSPC, "No space left on device"))
        )

        outcome = place.end(lambda ws: (ws / "in.txt").write_text("lost"))

        assert (outcome.code, outcome.kind) == (Code.DISK_FULL, "failed")
        assert place.here.publications() == 0
        assert place.here.leftovers() == []
        assert b"lost" not in {Path(e.path).read_bytes() for e in entries(folder(place))}
        grown_back(place)


def test_what_a_writer_that_died_has_begun_goes_with_its_directory(place: Place) -> None:
    """Unfinished entries are in the directory of their worker, which others find out is dead."""
    place.run()
    home = place.here.root / "work" / "dead"
    home.mkdir()
    (home / "owner.lock").touch()
    (home / f"cached-{os.urandom(8).hex()}").write_bytes(b"half of it")

    assert place.here.directories.remove_dead() == ["dead"]
    assert list(entries(folder(place)))
