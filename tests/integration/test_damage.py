"""Damaged data and full disks, met by a real worker over both real servers.

Whatever happens to the bytes: an attempt repairs it by itself, or fails and says what, where and
why; nothing of it is published; and the next attempt completes. `tests/unit/attempt` has the same
faults in every variety, over the embedded pair.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from deploy.servers.servers import LakeFSServer
from perago_worker.attempt.context import STORE_TRIES
from perago_worker.attempt.directories import LOCK_NAME
from tests.e2e.worker import started_worker
from tests.integration.platform import Platform, wait_for, workspace
from tests.rig.cached import entry_of
from tests.rig.fault_proxy import FaultProxy, Sent, call_of
from tests.rig.room import Room, small_disk, small_files

pytestmark = pytest.mark.servers

REPOSITORY = "/api/v1/repositories/*"
READ = f"GET {REPOSITORY}/refs/*/objects"
OPEN_STAGE = f"POST {REPOSITORY}/branches"
WRITE = f"POST {REPOSITORY}/branches/*/objects"

KIB = 1024
IN, OUT, OTHER = "data/in.txt", "data/out.txt", "data/other.txt"
FILES = {IN: b"the input", OTHER: b"the other", "elsewhere": b"not in the workspace"}
CHANGED_IN_SIZE = (
    "workspace_changed: file {} changed in size while it was being published. "
    "Nothing may write to the workspace once the body has returned."
)
NO_ROOM = "disk_full: no space is left where the worker keeps its workspaces"


class Between(FaultProxy):
    """Stands before lakeFS and knows the objects that pass, by repository and key."""

    def __init__(self, target: str) -> None:
        self._passing = threading.Lock()
        self._passed: Counter[tuple[str, str, str]] = Counter()
        self._damages: dict[tuple[str, str, str], list[str]] = {}
        self._moments: dict[tuple[str, str], Callable[[], object]] = {}
        super().__init__(target)

    def damage(self, call: str, repository: str, key: str, action: str, *, times: int) -> None:
        """Have something become of an object on its way, so many times."""
        self._damages[call, repository, key] = [action] * times

    def at(self, call: str, repository: str, do: Callable[[], object]) -> None:
        """Have something done when the head of the next such request has come."""
        self._moments[call, repository] = do

    def count(self, call: str, repository: str, key: str) -> int:
        """Return how often an object was asked for, or sent."""
        with self._passing:
            return self._passed[call, repository, key]

    def arriving(self, method: str, target: str) -> None:
        with self._passing:
            do = self._moments.pop((call_of(method, target), _repository(target)), None)
        if do is not None:
            do()

    def note(self, method: str, target: str, body: bytes) -> tuple[Sent, str]:
        sent, action = super().note(method, target, body)
        key = parse_qs(urlsplit(target).query).get("path", [""])[0]
        what = (sent.call, _repository(target), key)
        with self._passing:
            self._passed[what] += 1
            left = self._damages.get(what)
            return sent, left.pop() if left else action


def _repository(target: str) -> str:
    return (urlsplit(target).path.split("/") + [""] * 5)[4]


@dataclass
class Place:
    """A worker over both servers, and what there is to see of its attempts.

    Attributes:
        folder: Holds its configuration.
        root: Its workspace root.
        lakefs: Where it finds lakeFS, if not where that is.
    """

    platform: Platform
    folder: Path
    root: Path
    lakefs: str = ""

    def config(self) -> Path:
        """Write the configuration; with it, all cases of a test run at once."""
        config = self.platform.write_config(
            self.folder,
            extra=f'[workspace]\nroot = "{self.root}"\nwarm = 0\n'
            '[tasks."probe.files"]\nconcurrency = 8\n',
        )
        if self.lakefs:
            endpoint = self.platform.lakefs_access.endpoint
            config.write_text(config.read_text().replace(endpoint, self.lakefs))
        return config

    def start(self, repository: str, ref: str, **order: Any) -> str:
        """Start a workflow of one task; return its id."""
        inputs = {"workspace": workspace(repository, ref), "params": order}
        return self.platform.start_task("probe.files", inputs)

    def completed(self, repository: str, ref: str, **order: Any) -> str:
        """Have a workflow of one task completed by its first attempt; return the output commit."""
        state = self.platform.wait_ended(self.start(repository, ref, **order))
        assert outcomes(state) == ["COMPLETED"], state
        return str(state["tasks"][0]["outputData"]["workspace"]["ref"])

    def content(self, repository: str, ref: str) -> dict[str, bytes]:
        """Return all that a commit holds."""
        store, found = self.platform.lakefs.store, {}
        for info in store.list(repository, ref, ""):
            into = BytesIO()
            store.read(repository, ref, info.key, into)
            found[info.key] = into.getvalue()
        return found

    def assert_published(
        self, repository: str, base: str, wanted: Mapping[str, bytes], what: str = ""
    ) -> None:
        """Check that one publication is on top of the input, whole, and nothing beside it."""
        newest, before, *_ = self.platform.history(repository)
        assert (before["id"], "perago-publication" in newest["metadata"]) == (base, True), what
        assert self.content(repository, newest["id"]) == wanted, what
        self.assert_nothing_beside(repository)

    def assert_unpublished(self, repository: str, base: str) -> None:
        """Check that the branch is as it was."""
        assert self.platform.history(repository)[0]["id"] == base
        self.assert_nothing_beside(repository)

    def assert_nothing_beside(self, repository: str) -> None:
        """Check that nothing waits on the branch to be committed, and that no stage is left."""
        path = ("repositories", repository, "branches", "main", "diff")
        assert self.platform.lakefs.call("GET", *path)["results"] == []
        wait_for(lambda: not self.platform.stages(repository), "the end of the stages")


def outcomes(state: Mapping[str, Any]) -> list[str]:
    """Return how the attempts at a workflow's task ended, the first one first."""
    tasks = sorted(state["tasks"], key=lambda task: int(task["retryCount"]))
    return [task["status"] for task in tasks]


def reasons(state: Mapping[str, Any]) -> list[str]:
    """Return the reasons of the attempts that failed."""
    return [t["reasonForIncompletion"] for t in state["tasks"] if t["status"] != "COMPLETED"]


def files_of_attempts(root: Path) -> list[str]:
    """Return what attempts have left in a workspace root; the cache is not theirs."""
    return [
        str(path.relative_to(root))
        for home in root.iterdir()
        if (home / LOCK_NAME).exists()
        for path in home.rglob("*")
        if path.is_file() and path.name != LOCK_NAME
    ]


@pytest.fixture
def between(platform: Platform) -> Iterator[Between]:
    with closing(Between(platform.lakefs_access.endpoint)) as proxy:
        yield proxy


@pytest.fixture
def place(platform: Platform, between: Between, tmp_path: Path) -> Place:
    return Place(platform, tmp_path, tmp_path / "work", lakefs=between.url)


# --- the cache ------------------------------------------------------------------------------------


def flip(entry: Path, other: Path) -> None:
    content = entry.read_bytes()
    rewrite(entry, content[:-1] + bytes([content[-1] ^ 1]))


def truncate(entry: Path, other: Path) -> None:
    rewrite(entry, entry.read_bytes()[:-1])


def exchange(entry: Path, other: Path) -> None:
    rewrite(entry, other.read_bytes())


def rewrite(entry: Path, content: bytes) -> None:
    entry.chmod(0o600)
    entry.write_bytes(content)


@pytest.mark.parametrize("spoil", [flip, truncate, exchange])
def test_a_damaged_cache_entry_is_read_again_and_never_used(
    place: Place, between: Between, spoil: Callable[[Path, Path], None]
) -> None:
    """The body finds what the store holds, and so does whoever looks into the cache next."""
    repository, ref = place.platform.repository(FILES)
    entry, other = (
        entry_of(FILES[key], work=place.root, store=place.platform.lakefs.store)
        for key in (IN, OTHER)
    )
    with started_worker(place.config()) as worker:
        place.completed(repository, ref, do="nothing")
        worker.wait_event("attempt.finished")
        spoil(entry, other)

        place.completed(repository, ref, do="copy")
        worker.wait_event("attempt.finished", count=2)

        worker.wait_event("cache.used", hits=1, corrupted=1, misses=0, level="warning")
        assert (entry.read_bytes(), other.read_bytes()) == (FILES[IN], FILES[OTHER])
        assert [between.count(READ, repository, key) for key in (IN, OTHER)] == [2, 1]
        place.assert_published(repository, ref, {**FILES, OUT: FILES[IN]})


# --- on the way -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """What becomes of an object on its way.

    Attributes:
        says: Pattern of what the reason of an attempt that fails by it says is wrong.
        requests: How often an attempt asks before it tries again: bytes of the right number that
            are not the listed ones are read a second time at once.
    """

    call: str
    action: str
    says: str
    requests: int = 1

    @property
    def key(self) -> str:
        """The key of the object."""
        return IN if self.call == READ else OUT

    @property
    def reason(self) -> str:
        """Pattern of the whole reason."""
        code = "transfer_failed" if self.call == READ else "stage_failed"
        return f"{code}: the store failed: {self.says}"


READ_DAMAGED = "object 'data/in.txt' arrived damaged: "
STORED_DAMAGED = "file 'out.txt' was stored damaged"
DAMAGES = {
    "cut off": Damage(READ, "truncated", "reading 'data/in.txt' at .*: no answer from lakeFS: .*"),
    "shorter": Damage(READ, "shorter", f"{READ_DAMAGED}10 bytes, listed 20"),
    "longer": Damage(READ, "longer", f"{READ_DAMAGED}21 bytes, listed 20"),
    "changed": Damage(READ, "changed", f"{READ_DAMAGED}checksums .* and .*, listed .*", requests=2),
    "stored shorter": Damage(WRITE, "stored_shorter", STORED_DAMAGED),
    "stored longer": Damage(WRITE, "stored_longer", STORED_DAMAGED),
    "stored changed": Damage(WRITE, "stored_changed", STORED_DAMAGED),
    "not stored": Damage(
        WRITE, "no_room", "writing 'data/out.txt' on .*: no space left on device failed to write .*"
    ),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("tries", [1, STORE_TRIES], ids=["once", "until the attempt fails"])
def test_an_object_that_is_damaged_on_its_way_is_moved_again(
    place: Place, between: Between, tries: int
) -> None:
    """Within the attempt; in the next one when nothing else came in all its tries.

    All at once: an attempt waits for most of a minute before it gives a store up.
    """
    lasts = tries == STORE_TRIES
    running = {}
    with started_worker(place.config()) as worker:
        for name, damage in DAMAGES.items():
            # Its own, or that of another case would be in the cache.
            files = {**FILES, IN: name.ljust(20).encode()}
            repository, ref = place.platform.repository(files)
            times = tries * damage.requests
            between.damage(damage.call, repository, damage.key, damage.action, times=times)
            workflow_id = place.start(repository, ref, do="copy")
            running[name] = (damage, repository, ref, workflow_id, files)

        for name, (damage, repository, ref, workflow_id, files) in running.items():
            state = place.platform.wait_ended(workflow_id)
            assert outcomes(state) == ["FAILED"] * lasts + ["COMPLETED"], (name, state)
            for reason in reasons(state):
                assert re.fullmatch(damage.reason, reason), (name, reason)
            requests = between.count(damage.call, repository, damage.key)
            assert requests == tries * damage.requests + 1, name
            place.assert_published(repository, ref, {**files, OUT: files[IN]}, name)
        worker.wait_event("attempt.finished", count=len(DAMAGES) * (1 + lasts))
        assert files_of_attempts(place.root) == []


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, 5)


LARGE = 32 * KIB**2
"""More than waits in the buffers of a connection: of a file this large the worker has not read all
when the server has read nothing."""


@dataclass(frozen=True)
class Resize:
    """How and when a file changes after the body has returned."""

    when: str
    how: Callable[[Path], None]
    size: int


RESIZES = {
    "grown before it is read": Resize(OPEN_STAGE, grow, KIB),
    "shrunk before it is read": Resize(OPEN_STAGE, shrink, KIB),
    "grown while it is read": Resize(WRITE, grow, LARGE),
    "shrunk while it is read": Resize(WRITE, shrink, LARGE),
}


def test_a_file_that_changes_in_size_while_it_is_published_is_not(
    place: Place, between: Between
) -> None:
    """The attempt ends at once, as no other try could do better, and the next one completes.

    It is lakeFS, as the worker sees it, that changes the file: when the request for the stage comes
    it is known which files are to be read, and when the head of an upload has come one is open.
    """
    running = {}
    with started_worker(place.config()) as worker:
        for nth, (name, resize) in enumerate(RESIZES.items()):
            files = {IN: os.urandom(resize.size)}
            repository, ref = place.platform.repository(files)

            def change(path: str = f"{nth}.bin", resize: Resize = resize) -> None:
                (found,) = place.root.glob(f"*/*/workspace/{path}")
                resize.how(found)

            between.at(resize.when, repository, change)
            workflow_id = place.start(repository, ref, do="copy", path=f"{nth}.bin")
            wanted = {**files, f"data/{nth}.bin": files[IN]}
            running[name] = (repository, ref, workflow_id, wanted)

        for nth, (name, (repository, ref, workflow_id, wanted)) in enumerate(running.items()):
            state = place.platform.wait_ended(workflow_id)
            assert outcomes(state) == ["FAILED", "COMPLETED"], (name, state)
            (reason,) = reasons(state)
            assert reason == CHANGED_IN_SIZE.format(f"'{nth}.bin'"), name
            place.assert_published(repository, ref, wanted, name)
        worker.wait_event("attempt.finished", count=len(RESIZES) * 2)
        assert files_of_attempts(place.root) == []


# --- full disks -----------------------------------------------------------------------------------


@pytest.fixture(params=[small_disk, small_files])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    make: Callable[[Path], Any] = request.param
    with make(tmp_path / "room") as made:
        yield made


@pytest.mark.parametrize("cached", [False, True], ids=["no cache", "cache"])
def test_a_disk_that_is_full_during_the_download(
    platform: Platform, tmp_path: Path, room: Room, cached: bool
) -> None:
    """The cache is given back, if that is of use; else every attempt fails until there is room."""
    place = Place(platform, tmp_path, room.root)
    size = 256 * KIB
    files = {IN: os.urandom(size), OTHER: os.urandom(size)}
    repository, ref = platform.repository(files)
    failures = [] if cached and room.shared else [NO_ROOM] * 2
    with started_worker(place.config()) as worker:
        worker.wait_event("poll.finished", task="probe.files")
        if cached:
            others = {IN: os.urandom(size), OTHER: os.urandom(size), "data/more": os.urandom(size)}
            place.completed(*platform.repository(others), do="nothing")
            worker.wait_event("attempt.finished")
        room.fill(worker.process.pid, leave=size // 2)

        workflow_id = place.start(repository, ref, do="copy")
        state = platform.wait_ended(workflow_id)

        assert reasons(state) == failures
        if failures:
            worker.wait_event("attempt.finished", count=cached + 2)
            assert outcomes(state) == ["FAILED"] * 2
            assert files_of_attempts(room.root) == []
            place.assert_unpublished(repository, ref)
            room.free(worker.process.pid)
            platform.conductor.post(f"/workflow/{workflow_id}/retry").raise_for_status()
            state = platform.wait_ended(workflow_id)
        assert outcomes(state) == [*("FAILED" for _ in failures), "COMPLETED"], state
        place.assert_published(repository, ref, {**files, OUT: files[IN]})


def test_a_disk_that_is_full_from_the_body_on(
    platform: Platform, tmp_path: Path, room: Room
) -> None:
    """Uploading, publishing and reporting need no room; what the cache has none for is left out.

    The body replaces what is in a file, which needs no more room than there was.
    """
    place = Place(platform, tmp_path, room.root)
    size = 64 * KIB
    files = {IN: b"the input".ljust(size)}
    repository, ref = platform.repository(files)
    begun = tmp_path / "begun"
    with started_worker(place.config()) as worker:
        pid = worker.process.pid
        place.completed(repository, ref, do="nothing")  # what the cache takes, it has by now
        worker.wait_event("attempt.finished")
        for nth, take in enumerate((room.fill, room.close_to_new_files)):
            text = str(nth) * size
            entry = entry_of(text.encode(), work=room.root, store=platform.lakefs.store)
            workflow_id = place.start(
                repository, ref, do="wait", path="in.txt", text=text, signal_file=str(begun)
            )
            worker.wait_for(begun.exists, "begun body")
            take(pid)
            begun.unlink()
            state = platform.wait_ended(workflow_id)
            worker.wait_event("attempt.finished", count=2 + 2 * nth)
            assert outcomes(state) == ["COMPLETED"], state
            files[IN] = text.encode()
            place.assert_published(repository, ref, files)
            assert not entry.exists()
            assert files_of_attempts(room.root) == []

            room.free(pid)
            ref = platform.history(repository)[0]["id"]
            output = place.completed(repository, ref, do="copy", path=f"{nth}.txt")
            worker.wait_event("attempt.finished", count=3 + 2 * nth)
            files[f"data/{nth}.txt"] = files[IN]
            place.assert_published(repository, ref, files)
            assert entry.read_bytes() == files[IN]
            ref = output
        worker.wait_event("cache.failed", error=room.refusal)


def test_a_disk_of_the_store_that_is_full_during_the_upload(
    conductor_url: str, installed: None, tmp_path: Path, room: Room
) -> None:
    """An attempt goes on when there is room again; until then nothing is published."""
    server = LakeFSServer(tmp_path / "lakefs", settings=blocks_in(room))
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        platform = stack.enter_context(closing(Platform(conductor_url, server.access)))
        between = stack.enter_context(closing(Between(server.url)))
        place = Place(platform, tmp_path, tmp_path / "work", lakefs=between.url)
        repository, ref = platform.repository(FILES)
        begun = tmp_path / "begun"
        with started_worker(place.config()) as worker:
            text = "x" * 64 * KIB
            workflow_id = place.start(repository, ref, do="wait", text=text, signal_file=str(begun))
            worker.wait_for(begun.exists, "begun body")
            assert server.process is not None
            pid = server.process.pid
            room.fill(pid, leave=16 * KIB)
            free = partial(room.free, pid)
            # When the first request comes, wait for the second one: the first is refused by then.
            between.at(WRITE, repository, partial(between.at, WRITE, repository, free))
            begun.unlink()
            state = platform.wait_ended(workflow_id)
            assert outcomes(state) == ["COMPLETED"], state
            assert between.count(WRITE, repository, OUT) == 2
            place.assert_published(repository, ref, {**FILES, OUT: text.encode()})


def blocks_in(room: Room) -> dict[str, str]:
    """Return the settings of a lakeFS that keeps objects, and nothing else, there."""
    return {"LAKEFS_BLOCKSTORE_LOCAL_PATH": str(room.root)}
