"""What only a real lakeFS has: hostile keys, its kinds of refusal, the fence, size and outages."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from deploy.servers.servers import LakeFSAccess, LakeFSServer
from perago_worker.adapters.lakefs import LakeFSStore
from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH
from perago_worker.errors import HeadMoved, NotFound, StoreRefused, StoreUnavailable
from perago_worker.models import CommitInfo
from perago_worker.ports import Stage
from tests.contract.lakefs_harness import LakeFSHarness, open_harness, settings_for

pytestmark = pytest.mark.servers

T = TypeVar("T")

MIB = 1024 * 1024

HOSTILE_KEYS = [
    "ws/../../../etc/passwd",
    "ws/..",
    "..",
    ".",
    "ws/.",
    "ws/./x",
    "ws//double",
    "ws/",
    "ws/dir",
    "ws/dir/file",
    "ws/dir/",
    "/abs",
    "//x",
    "/",
    "ws/nul\0byte",
    "ws/line\nbreak\r\ttab\x01\x7f",
    "ws/back\\slash",
    "ws/..\\..\\x",
    "C:\\x",
    "ws/a:b",
    "ws/con",
    "ws/\u00e9",
    "ws/e\u0301",
    "ws/Case",
    "ws/case",
    "ws/trailing ",
    "ws/trailing.",
    " leading",
    "ws/" + "n" * 256,
    "/".join("d" for _ in range(300)),
    "ws/\u202egnp.exe",
    "ws/\u2028",
    "ws/\ufeff",
    "ws/.git/config",
    "ws/%2e%2e/x?y=z&path=w#f+",
    "k" * 1024,
]


@pytest.fixture(scope="module")
def harness(lakefs: LakeFSAccess) -> Iterator[LakeFSHarness]:
    with open_harness(lakefs) as harness:
        yield harness


@pytest.fixture
def store(harness: LakeFSHarness) -> LakeFSStore:
    return harness.store


@pytest.fixture
def repository(harness: LakeFSHarness) -> str:
    return harness.repository()


@pytest.fixture
def base(store: LakeFSStore, repository: str) -> CommitInfo:
    return store.head(repository, "main")


# --- keys -----------------------------------------------------------------------------------------


def test_hostile_keys_are_listed_as_they_are_stored(
    store: LakeFSStore, repository: str, base: CommitInfo
) -> None:
    """Refusing them is the business of who turns keys into files."""
    with staged(store, repository, base) as stage:
        for number, key in enumerate(HOSTILE_KEYS):
            put(stage, key, b"%d" % number)
        commit = stage.commit("Hostile keys", {})
    listed = [each.key for each in store.list(repository, commit.id, "")]
    assert listed == sorted(HOSTILE_KEYS, key=str.encode)
    for number, key in enumerate(HOSTILE_KEYS):
        assert get(store, repository, commit, key) == b"%d" % number
    with staged(store, repository, commit) as stage:
        stage.delete(HOSTILE_KEYS)
        assert list(store.list(repository, stage.commit("Gone", {}).id, "")) == []


def test_keys_that_are_not_utf_8_are_listed_and_cannot_be_read(
    harness: LakeFSHarness, repository: str
) -> None:
    """The name in the listing is not the key, so that reading it never yields another object."""
    for key in (b"ws/\xff", b"ws/\xff\xfe", b"ws/ok"):
        harness.upload(repository, "main", key, b"content")
    commit = harness.commit(repository, "main", message="Not UTF-8")
    listed = [each.key for each in harness.store.list(repository, commit, "ws/")]
    assert listed == ["ws/ok", "ws/\ufffd", "ws/\ufffd\ufffd"]
    with pytest.raises(NotFound, match="object"):
        harness.store.read(repository, commit, "ws/\ufffd", io.BytesIO())


def test_a_key_that_is_too_long_is_refused(
    store: LakeFSStore, repository: str, base: CommitInfo
) -> None:
    with (
        staged(store, repository, base) as stage,
        pytest.raises(StoreRefused, match="maximum length"),
    ):
        put(stage, "k" * 1025, b"")


# --- who stands in the way of a publication -------------------------------------------------------


def test_a_merge_that_conflicts_is_a_moved_head(
    harness: LakeFSHarness, repository: str, base: CommitInfo
) -> None:
    source = change(harness.store, repository, base, {"ws/a": b"ours"})
    harness.upload(repository, "main", "ws/a", b"theirs")
    theirs = harness.commit(repository, "main", message="Theirs")
    with pytest.raises(HeadMoved):
        publish(harness.store, repository, source, base)
    assert harness.store.head(repository, "main").id == theirs


def test_a_source_that_is_in_the_branch_already_is_a_moved_head(
    store: LakeFSStore, repository: str, base: CommitInfo
) -> None:
    source = change(store, repository, base, {"ws/a": b"1"})
    merge = publish(store, repository, source, base)
    with pytest.raises(HeadMoved):
        publish(store, repository, source, base)
    assert store.head(repository, "main") == merge


def test_uncommitted_changes_of_others_delay_a_publication(
    harness: LakeFSHarness, repository: str, base: CommitInfo
) -> None:
    source = change(harness.store, repository, base, {"ws/a": b"1"})
    harness.upload(repository, "main", "theirs", b"half-done")
    with pytest.raises(StoreUnavailable, match="others hold uncommitted changes"):
        publish(harness.store, repository, source, base)
    assert harness.store.head(repository, "main") == base
    theirs = harness.commit(repository, "main", message="Done")
    assert publish(harness.store, repository, source, base).parents == (theirs, source.id)


def test_a_protected_branch_refuses_commits_and_takes_publications(
    harness: LakeFSHarness, repository: str, base: CommitInfo
) -> None:
    store = harness.store
    source = change(store, repository, base, {"ws/a": b"1"})
    stage = store.stage(repository, base.id, "perago-protected")
    path = ("repositories", repository, "settings", "branch_protection")
    harness.call("PUT", *path, send=[{"pattern": "main"}, {"pattern": "perago-*"}])
    refused = eventually(lambda: refusal(lambda: put(stage, "ws/b", b"")))
    assert "protected branch" in str(refused)
    assert "protected branch" in str(refusal(lambda: stage.commit("Refused", {})))
    assert publish(store, repository, source, base).parents == (base.id, source.id)


# --- the fence ------------------------------------------------------------------------------------


@pytest.fixture
def fenced(harness: LakeFSHarness, repository: str) -> CommitInfo:
    """The head of `main`, which holds the action that fences merges."""
    harness.upload(repository, "main", ACTION_PATH, ACTION.encode())
    commit = harness.commit(repository, "main", message="Fence")
    return harness.store.resolve(repository, commit)


def test_the_fence_refuses_a_publication_on_a_head_that_moved(
    harness: LakeFSHarness, repository: str, fenced: CommitInfo
) -> None:
    """Without it, this merge succeeds: nothing conflicts."""
    source = change(harness.store, repository, fenced, {"ws/a": b"1"})
    harness.upload(repository, "main", "theirs", b"2")
    theirs = harness.commit(repository, "main", message="Theirs")
    with pytest.raises(HeadMoved) as moved:
        publish(harness.store, repository, source, fenced)
    assert (moved.value.expected, moved.value.found) == (fenced.id, theirs)
    assert harness.store.head(repository, "main").id == theirs


def test_the_fence_lets_a_publication_on_the_expected_head_and_other_merges_pass(
    harness: LakeFSHarness, repository: str, fenced: CommitInfo
) -> None:
    source = change(harness.store, repository, fenced, {"ws/a": b"1"})
    merge = publish(harness.store, repository, source, fenced)
    assert merge.parents == (fenced.id, source.id)
    theirs = harness.foreign_commit(repository, "main", write={"b": b"2"}, message="Theirs")
    assert harness.store.head(repository, "main").parents == (merge.id,)
    assert harness.store.head(repository, "main").id == theirs


def test_of_publications_that_race_at_the_fence_one_wins(
    harness: LakeFSHarness, repository: str, fenced: CommitInfo
) -> None:
    store = harness.store
    head = fenced
    for number in range(8):
        sources = [change(store, repository, head, {f"ws/{number}-{x}": b""}) for x in "ab"]
        together = threading.Barrier(2)

        def race(source: CommitInfo, head: CommitInfo = head) -> CommitInfo | None:
            together.wait()  # noqa: B023
            try:
                return publish(store, repository, source, head)
            except HeadMoved:
                return None

        with ThreadPoolExecutor(2) as pool:
            winners = [merge for merge in pool.map(race, sources) if merge is not None]
        assert [winner.parents[0] for winner in winners] == [head.id]
        assert store.head(repository, "main") == winners[0]
        head = winners[0]


def test_another_hook_that_refuses_is_a_refusal_in_its_own_words(
    harness: LakeFSHarness, repository: str
) -> None:
    action = ACTION.replace("if expected", 'if true then error("no column named price") end if e')
    harness.upload(repository, "main", "_lakefs_actions/other.yaml", action.encode())
    head = harness.store.resolve(repository, harness.commit(repository, "main", message="Hook"))
    source = change(harness.store, repository, head, {"ws/a": b"1"})
    with pytest.raises(StoreRefused, match="no column named price"):
        publish(harness.store, repository, source, head)
    assert harness.store.head(repository, "main") == head


# --- stages ---------------------------------------------------------------------------------------


def test_stages_are_hidden_and_other_branches_are_no_stages(
    harness: LakeFSHarness, repository: str, base: CommitInfo
) -> None:
    harness.add_branch(repository, "perago-of-somebody", base.id)
    with staged(harness.store, repository, base) as stage:
        path = ("repositories", repository, "branches")
        shown = [each["id"] for each in harness.call("GET", *path)["results"]]
        everything = harness.call("GET", *path, query={"show_hidden": "true"})["results"]
        assert sorted(shown) == ["main", "perago-of-somebody"]
        assert stage.name in [each["id"] for each in everything]
        assert harness.store.stages(repository) == [stage.name]


@pytest.mark.parametrize("name", ["main", "stage", "", "perago-a b", "perago-/../main"])
def test_nothing_but_a_stage_can_be_opened_or_dropped_as_one(
    store: LakeFSStore, repository: str, base: CommitInfo, name: str
) -> None:
    with pytest.raises(StoreRefused, match="cannot be named"):
        store.drop_stage(repository, name)
    with pytest.raises(StoreRefused, match="cannot be named"):
        store.stage(repository, base.id, name)
    assert store.head(repository, "main") == base


def test_references_that_are_no_branches_have_no_head(
    harness: LakeFSHarness, repository: str, base: CommitInfo
) -> None:
    harness.add_tag(repository, "v1", base.id)
    for name in ("v1", base.id, base.id[:12], "main~0", "main@"):
        with pytest.raises(NotFound) as missing:
            harness.store.head(repository, name)
        assert (missing.value.what, missing.value.name) == ("branch", name)


def test_a_branch_named_like_a_commit_is_found_as_a_branch(
    harness: LakeFSHarness, repository: str, base: CommitInfo
) -> None:
    for name in (base.id[:8], "0" * 64):
        harness.add_branch(repository, name, base.id)
        moved = harness.foreign_commit(repository, name, write={"a": b"1"}, message="Moved")
        assert harness.store.head(repository, name).id == moved


# --- size and time --------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_size_of_objects(
    store: LakeFSStore, repository: str, base: CommitInfo, tmp_path: Path
) -> None:
    size = 64 * MIB
    digest = fill(tmp_path / "out", size)
    with staged(store, repository, base) as stage, (tmp_path / "out").open("rb") as source:
        tracemalloc.start()
        try:
            written = stage.write("ws/big", source, size)
            commit = stage.commit("Big", {})
            with (tmp_path / "in").open("wb") as sink:
                assert store.read(repository, commit.id, "ws/big", sink) == size
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (written.size, written.checksum) == (size, digest)
    with (tmp_path / "in").open("rb") as received:
        assert hashlib.file_digest(received, "md5").hexdigest() == digest
    assert peak < 16 * MIB


def test_few_connections_serve_all_calls(
    harness: LakeFSHarness, lakefs: LakeFSAccess, repository: str, base: CommitInfo
) -> None:
    """Reading objects to their ends gives connections back; a new one each time would be slow."""
    commit = change(harness.store, repository, base, {"ws/a": b"1" * MIB})
    store = LakeFSStore.open(settings_for(lakefs, connections=4))
    with contextlib.closing(store), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: get(store, repository, commit, "ws/a"), range(40)))
        store.head(repository, "main")
        transport = store._api._transport
        (others,) = [transport._pool.pools[key] for key in transport._pool.pools.keys()]  # noqa: SIM118
        assert others.num_requests == 2  # one of them for what the server can sign
        assert others.num_connections <= 2
        assert 1 <= transport._objects._pool.num_connections <= 4


def test_wrong_credentials_are_refused(lakefs: LakeFSAccess) -> None:
    store = LakeFSStore.open(settings_for(lakefs, secret_access_key="x" * 40))
    with (
        contextlib.closing(store),
        pytest.raises(StoreRefused, match="access key was refused") as refused,
    ):
        store.ping()
    assert lakefs.access_key_id not in str(refused.value)


def test_a_server_that_comes_back_is_used_again(private_lakefs: LakeFSServer) -> None:
    """The connections of before are dead, and no call fails for having been given one of them."""
    with open_harness(private_lakefs.access) as harness:
        repository = harness.repository()
        head = harness.store.head(repository, "main")
        private_lakefs.kill()
        with pytest.raises(StoreUnavailable):
            harness.store.head(repository, "main")
        private_lakefs.start()
        assert harness.store.head(repository, "main") == head
        private_lakefs.restart()
        source = change(harness.store, repository, head, {"ws/a": b"1"})
        assert publish(harness.store, repository, source, head).parents == (head.id, source.id)


# --- what the tests are written with --------------------------------------------------------------


@contextlib.contextmanager
def staged(store: LakeFSStore, repository: str, base: CommitInfo) -> Iterator[Stage]:
    """Yield a stage that is dropped in the end."""
    stage = store.stage(repository, base.id, f"perago-{uuid.uuid4().hex[:12]}")
    try:
        yield stage
    finally:
        store.drop_stage(repository, stage.name)


def put(stage: Stage, key: str, content: bytes) -> None:
    stage.write(key, io.BytesIO(content), len(content))


def get(store: LakeFSStore, repository: str, commit: CommitInfo, key: str) -> bytes:
    into = io.BytesIO()
    store.read(repository, commit.id, key, into)
    return into.getvalue()


def change(
    store: LakeFSStore, repository: str, base: CommitInfo, write: dict[str, bytes]
) -> CommitInfo:
    """Commit objects on top of a commit."""
    with staged(store, repository, base) as stage:
        for key, content in write.items():
            put(stage, key, content)
        return stage.commit("Change", {})


def publish(
    store: LakeFSStore, repository: str, source: CommitInfo, expected: CommitInfo
) -> CommitInfo:
    return store.publish(
        repository,
        "main",
        source=source,
        expected_head=expected.id,
        metadata={"perago-publication": "1"},
        message="Publish",
        timeout_s=30,
    )


def fill(path: Path, size: int) -> str:
    """Write a file that does not compress and return its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("wb") as file:
        for number in range(size // MIB):
            block = hashlib.shake_128(b"%d" % number).digest(MIB)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def refusal(call: Callable[[], object]) -> str | None:
    """Return what a call was refused with, or None when it was not."""
    try:
        call()
    except StoreRefused as error:
        return str(error)
    return None


def eventually(probe: Callable[[], T], *, within_s: float = 30.0) -> T:
    """Probe until the answer is true; settings reach a lakeFS branch after some seconds."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not (answer := probe()):
        assert time.monotonic() < deadline, "it did not come true in time"
        pause.wait(0.1)
    return answer
