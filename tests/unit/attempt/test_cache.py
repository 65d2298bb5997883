"""The cache by itself: what comes out of it is what its name says, whatever became of the files."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from perago_worker.attempt import cache as module
from perago_worker.attempt.cache import ContentCache
from perago_worker.attempt.cache_entries import copy, cost, entries, evicting
from perago_worker.attempt.manifest import FileState
from perago_worker.events import CacheFailed, CacheLookup, CacheTrimmed
from perago_worker.models import ObjectInfo
from tests.support import ROOT, Recorder

KIB = 1024


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def listed(content: bytes) -> ObjectInfo:
    return ObjectInfo(key="k", size=len(content), checksum=md5(content))


@dataclass
class Place:
    """A cache, and files to copy from and to."""

    root: Path
    max_bytes: int = KIB * KIB
    told: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.folder = self.root / "cache"
        self.scratch = self.root / "scratch"
        self.files = self.root / "files"
        self.scratch.mkdir(exist_ok=True)
        self.files.mkdir(exist_ok=True)
        self.cache = self.another()

    def another(self) -> ContentCache:
        """Return the same cache as another process has it."""
        return ContentCache(
            self.folder, scratch=self.scratch, max_bytes=self.max_bytes, listener=self.told
        )

    @contextmanager
    def source(self, content: bytes) -> Iterator[tuple[int, FileState]]:
        """Open a file that holds this; with the state a download would have noted."""
        path = self.files / os.urandom(8).hex()
        path.write_bytes(content)
        with path.open("r+b") as file:
            yield file.fileno(), FileState.of(os.fstat(file.fileno()), md5(content))

    def add(self, content: bytes, *, used_at: int | None = None) -> Path:
        """Add content; return where its entry is."""
        with self.source(content) as (descriptor, state):
            self.cache.add(descriptor, state)
        path = self.entry(content)
        if used_at is not None:
            os.utime(path, (used_at, used_at))
        return path

    def entry(self, content: bytes) -> Path:
        name = md5(content)
        return self.folder / name[:2] / f"{name}-{len(content)}"

    def look_up(
        self, content: bytes, cache: ContentCache | None = None
    ) -> tuple[CacheLookup, bytes]:
        """Look content up; return what came of it, and what is in the file then."""
        path = self.files / os.urandom(8).hex()
        with path.open("w+b") as file:
            digest = hashlib.md5(usedforsecurity=False)
            found = (cache or self.cache).copy_to(file.fileno(), listed(content), digest=digest)
        return found, path.read_bytes()

    def held(self) -> set[str]:
        return {Path(entry.path).name for entry in entries(self.folder)}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def contents(count: int, size: int = 64 * KIB) -> list[bytes]:
    return [random.Random(number).randbytes(size) for number in range(count)]  # noqa: S311


@pytest.mark.parametrize("size", [0, 1, 5_000, 300 * KIB])
def test_what_is_added_is_found_by_everybody(tmp_path: Path, size: int) -> None:
    place = Place(tmp_path, max_bytes=4 * KIB * KIB)
    (content,) = contents(1, size)
    assert place.look_up(content) == ("miss", b"")

    path = place.add(content)

    assert place.look_up(content) == ("hit", content)
    assert place.look_up(content, place.another()) == ("hit", content)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert path.stat().st_nlink == 1
    assert list(place.scratch.iterdir()) == []


def flip(path: Path) -> None:
    content = path.read_bytes()
    rewrite(path, bytes([content[0] ^ 1]) + content[1:])


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)


def replace(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: rewrite(path, path.read_bytes()[:-1]),
        lambda path: rewrite(path, path.read_bytes() + b"x"),
        lambda path: rewrite(path, b""),
        replace(os.mkfifo),
        replace(lambda path: path.symlink_to("/dev/zero")),
        replace(lambda path: path.symlink_to(path.parent)),
    ],
    ids=["changed", "truncated", "longer", "empty", "pipe", "link", "link to a folder"],
)
def test_an_entry_that_is_not_what_its_name_says_is_removed(
    place: Place, damage: Callable[[Path], None]
) -> None:
    (content,) = contents(1)
    path = place.add(content)
    damage(path)

    assert place.look_up(content) == ("corrupted", b"")

    assert not os.path.lexists(path)
    assert place.look_up(content) == ("miss", b"")
    place.add(content)
    assert place.look_up(content) == ("hit", content)


def test_a_folder_in_the_place_of_an_entry_is_in_nobodys_way(place: Place) -> None:
    (content,) = contents(1)
    path = place.add(content)
    path.unlink()
    path.mkdir()

    assert place.look_up(content) == ("corrupted", b"")
    place.add(content)

    assert [event.error for event in place.told.of(CacheFailed)] == ["Is a directory"]


def test_one_entry_in_the_place_of_another_is_no_hit(place: Place) -> None:
    one, other = contents(2)
    place.add(one)
    place.entry(other).parent.mkdir(exist_ok=True)
    place.entry(one).rename(place.entry(other))

    assert place.look_up(other) == ("corrupted", b"")


@pytest.mark.parametrize(
    "checksum",
    [
        "d41d8cd98f00b204e9800998ecf8427e-3",
        "../../../../../../etc/passwd",
        "D41D8CD98F00B204E9800998ECF8427E",
        "d41d8cd98f00b204e9800998ecf8427e\n",
        "",
    ],
)
def test_a_checksum_that_nobody_can_compute_is_never_a_name(place: Place, checksum: str) -> None:
    with place.source(b"content") as (descriptor, state):
        place.cache.add(descriptor, state._replace(checksum=checksum))
        info = ObjectInfo(key="k", size=7, checksum=checksum)
        digest = hashlib.md5(usedforsecurity=False)
        assert place.cache.copy_to(descriptor, info, digest=digest) == "miss"
    assert not place.folder.exists()


def test_an_object_that_cannot_be_verified_is_not_looked_up(place: Place) -> None:
    place.add(b"content")
    info = listed(b"content").model_copy(update={"verifiable": False})
    with place.source(b"") as (descriptor, _):
        digest = hashlib.md5(usedforsecurity=False)
        assert place.cache.copy_to(descriptor, info, digest=digest) == "miss"


def test_a_file_that_was_written_to_is_not_added(place: Place) -> None:
    with place.source(b"content") as (descriptor, state):
        os.pwrite(descriptor, b"C", 0)
        os.utime(descriptor, ns=(1, 1))
        place.cache.add(descriptor, state)
    assert not place.entry(b"content").exists()


def test_a_file_that_is_written_to_meanwhile_is_not_added(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_copy(source: int, target: int, size: int, **how: object) -> int:
        os.pwrite(source, b"C", 0)
        os.utime(source, ns=(1, 1))
        return copy(source, target, size, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "copy", write_and_copy)
    with place.source(b"content") as (descriptor, state):
        place.cache.add(descriptor, state)
    assert place.look_up(b"content") == ("miss", b"")
    assert list(place.scratch.iterdir()) == []


# --- bounds ---------------------------------------------------------------------------------------


def test_what_was_of_use_longest_ago_goes_first(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=640 * KIB)
    first = contents(10)
    for age, content in enumerate(first):
        place.add(content, used_at=1_000_000 + age)
    assert place.look_up(first[0])[0] == "hit"  # which makes it the one used last

    (new,) = contents(1, 64 * KIB - 1)
    place.add(new)

    # One makes room for it, one more keeps eviction from being due at once again.
    assert [place.entry(each).exists() for each in [*first, new]] == [
        *(True, False, False),
        *[True] * 8,
    ]
    assert place.told.of(CacheTrimmed) == [CacheTrimmed(2, 128 * KIB)]
    assert place.cache.held_bytes == 9 * 64 * KIB


def test_it_never_holds_more_than_it_may(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=200 * KIB)
    for content in contents(60, 9_000):
        place.add(content)
        assert sum(each.cost for each in entries(place.folder)) <= place.max_bytes
    assert len(place.held()) > 10


def test_two_processes_together_hold_little_more(tmp_path: Path) -> None:
    """Each knows what it has added; what the others have, it learns now and then."""
    place = Place(tmp_path, max_bytes=200 * KIB)
    one, other = place.cache, place.another()
    for content in contents(60, 9_000):
        for place.cache in (one, other):
            place.add(content + (b"1" if place.cache is one else b"2"))
        held = sum(each.cost for each in entries(place.folder))
        assert held <= place.max_bytes * (1 + 2 / module.LOOK_AGAIN) + cost(9_000)


def test_an_object_that_would_drive_out_the_others_is_not_kept(place: Place) -> None:
    place.add(b"x" * (place.max_bytes // module.LARGEST_SHARE + 1))
    assert not place.folder.exists()
    place.add(b"x" * (place.max_bytes // module.LARGEST_SHARE))
    assert len(place.held()) == 1


def test_nothing_is_evicted_while_another_process_evicts(tmp_path: Path) -> None:
    place = Place(tmp_path, max_bytes=64 * KIB)
    for content in contents(4, 16 * KIB):
        place.add(content)
    with evicting(place.folder) as ours:
        assert ours
        with evicting(place.folder) as again:
            assert not again
        place.add(b"new")
        assert place.look_up(b"new")[0] == "miss"
    place.add(b"new")
    assert place.look_up(b"new")[0] == "hit"


def test_it_takes_at_most_half_of_what_is_left_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a disk that others fill: what the cache holds then is given back to them."""
    place = Place(tmp_path, max_bytes=1024 * KIB)
    for age, content in enumerate(contents(8)):
        place.add(content, used_at=1_000_000 + age)
    real = os.statvfs(tmp_path)

    def nearly_full(_: object) -> os.statvfs_result:
        blocks = 128 * KIB // real.f_frsize
        return os.statvfs_result((*real[:3], blocks, blocks, *real[5:10]))

    monkeypatch.setattr(os, "statvfs", nearly_full)
    place.cache.trim()

    assert place.cache.held_bytes <= (512 + 128) * KIB // 2
    assert place.entry(contents(8)[7]).exists()


def test_turned_off_it_finds_nothing_and_gives_back_what_is_there(tmp_path: Path) -> None:
    Place(tmp_path).add(b"content")
    place = Place(tmp_path, max_bytes=0)

    place.add(b"more")
    assert place.held() == {f"{md5(b'content')}-7"}
    place.cache.trim()

    assert place.held() == set()


def test_clearing_tells_whether_there_was_anything(place: Place) -> None:
    assert not place.cache.clear()
    place.add(b"content")
    assert place.cache.clear()
    assert not place.cache.clear()
    place.add(b"content")
    assert place.look_up(b"content")[0] == "hit"


def test_it_can_be_removed_at_any_time(place: Place) -> None:
    place.add(b"content")
    place.folder.rename(place.root / "away")
    assert place.look_up(b"content")[0] == "miss"
    place.cache.trim()
    place.add(b"content")
    assert place.look_up(b"content")[0] == "hit"


# --- everything at once ---------------------------------------------------------------------------


def test_readers_writers_and_evictions_at_once(tmp_path: Path) -> None:
    """Whoever gets a hit has the right bytes, and the bounds hold; some entries are spoilt."""
    place = Place(tmp_path, max_bytes=256 * KIB)
    known = contents(24, 20 * KIB)
    caches = [place.cache, place.another()]
    outcomes: set[CacheLookup] = set()

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        for _ in range(40):
            content, cache = chance.choice(known), chance.choice(caches)
            found, got = place.look_up(content, cache)
            assert got == (content if found == "hit" else b"")
            outcomes.add(found)
            if found != "hit":
                with place.source(content) as (descriptor, state):
                    cache.add(descriptor, state)
            if chance.random() < 0.1:
                spoil(place.entry(content))
            if chance.random() < 0.05:
                cache.trim()

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, seed) for seed in range(6)]:
            done.result()

    for cache in caches:
        cache.trim()
    assert sum(each.cost for each in entries(place.folder)) <= place.max_bytes
    assert list(place.scratch.iterdir()) == []
    assert outcomes == {"hit", "miss", "corrupted"}
    assert place.told.of(CacheFailed) == []


def spoil(path: Path) -> None:
    """Write to an entry, as nobody should, wherever it is by now."""
    try:
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(os.urandom(16))
    except FileNotFoundError:
        return


# --- failures -------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_told_of_once(place: Place) -> None:
    place.folder.write_text("in the way")
    for content in contents(3):
        assert place.look_up(content)[0] == "miss"
        place.add(content)
    assert [event.error for event in place.told.of(CacheFailed)] == ["Not a directory"]

    place.folder.unlink()
    place.add(b"content")
    assert place.look_up(b"content")[0] == "hit"
    place.cache.clear()
    place.folder.joinpath("lock").unlink()
    for bucket in place.folder.iterdir():
        bucket.rmdir()
    place.folder.rmdir()
    place.folder.write_text("again")
    place.add(b"content")
    assert len(place.told.of(CacheFailed)) == 2


def test_files_are_copied_where_the_file_system_does_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (content,) = contents(1)
    place.add(content)
    assert place.look_up(content) == ("hit", content)


def test_one_who_copies_is_stopped(place: Place) -> None:
    (content,) = contents(1)
    place.add(content)

    def check() -> None:
        raise ZeroDivisionError

    with place.source(b"") as (descriptor, _), pytest.raises(ZeroDivisionError):
        place.cache.copy_to(
            descriptor, listed(content), digest=hashlib.md5(usedforsecurity=False), check=check
        )


FULL = """
import errno, hashlib, os, resource, signal, sys
from pathlib import Path
from perago_worker.attempt.cache import ContentCache
from perago_worker.attempt.manifest import FileState
from perago_worker.events import CacheFailed
from perago_worker.models import ObjectInfo

root, room = Path(sys.argv[1]), int(sys.argv[2])
content, told = os.urandom(3_000_000), []

class Listener:
    def on_event(self, event):
        told.append(event)

cache = ContentCache(root / "cache", scratch=root, max_bytes=10**8, listener=Listener())
checksum = hashlib.md5(content).hexdigest()
info = ObjectInfo(key="k", size=len(content), checksum=checksum)
(root / "file").write_bytes(content)
file = os.open(root / "file", os.O_RDONLY)
state = FileState.of(os.fstat(file), checksum)
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)

def limited(room):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, no_limit[1]))

def look_up():
    target = os.open(root / "target", os.O_RDWR | os.O_CREAT)
    os.ftruncate(target, 0)
    return cache.copy_to(target, info, digest=hashlib.md5())

limited(room)
cache.add(file, state)
cache.add(file, state)
assert told == [CacheFailed("File too large")], told
assert look_up() == "miss"
assert sorted(os.listdir(root)) == ["file", "target"], os.listdir(root)

limited(no_limit[0])
cache.add(file, state)
limited(room)
try:
    look_up()
except OSError as error:
    assert error.errno == errno.EFBIG
else:
    raise AssertionError("it fitted")

limited(no_limit[0])
assert look_up() == "hit"
assert (root / "target").read_bytes() == content
assert sorted(os.listdir(root)) == ["cache", "file", "target"]
"""


@pytest.mark.parametrize("room", [0, 1_500_000])
def test_a_disk_without_room_costs_only_the_entry(tmp_path: Path, room: int) -> None:
    """The kernel refuses, as in `test_full_disk`; a hit that does not fit leaves its entry."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(room)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
