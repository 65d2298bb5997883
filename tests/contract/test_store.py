"""The promises of `ports.WorkspaceStore` and `ports.Stage`, once, over every adapter."""

from __future__ import annotations

import errno
import io
import random
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import TypeVar

import pytest

from perago_worker.errors import (
    HeadMoved,
    NotFound,
    NothingToCommit,
    StoreRefused,
    StoreUnavailable,
)
from perago_worker.models import Change, CommitInfo, ObjectInfo
from perago_worker.ports import Stage, WorkspaceStore
from tests.contract.store_harness import StoreHarness, open_local

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

STORES = [
    "local",
    pytest.param("lakefs", marks=pytest.mark.servers),
    pytest.param("lakefs-presigned", marks=pytest.mark.servers),
]

METADATA = {
    "perago-publication": "5f1c",
    "expected_head": "0123456789abcdef",
    "result": '{"rows": 3, "name": "Zürich"}',
    "lines": "first\nsecond: not a key\n\n[metadata]\nx: y\n",
    "spaces": "  leading and trailing  ",
    "quoted": '"already quoted"',
    "unicode": "naïve 数据 🙂 \u2028 \u00a0 \x7f",
    "empty": "",
}


@pytest.fixture(scope="module", params=STORES)
def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StoreHarness]:
    """One store for the whole module; every test works in a repository of its own."""
    if request.param == "local":
        with open_local(tmp_path_factory.mktemp("store")) as local:
            yield local
        return
    # Imported here, so that the suite over one adapter does not load the other one.
    from tests.contract.lakefs_harness import open_harness, open_presigned

    if request.param == "lakefs":
        with open_harness(request.getfixturevalue("lakefs")) as lakefs:
            yield lakefs
        return
    with open_presigned(request.getfixturevalue("lakefs_on_object_store")) as presigned:
        yield presigned


@pytest.fixture
def store(harness: StoreHarness) -> WorkspaceStore:
    return harness.store


@pytest.fixture
def repository(harness: StoreHarness) -> str:
    return harness.repository()


@pytest.fixture
def base(store: WorkspaceStore, repository: str) -> CommitInfo:
    """The commit `main` is at, with nothing in it."""
    return store.head(repository, "main")


@pytest.fixture(scope="module")
def crowd(harness: StoreHarness) -> tuple[str, CommitInfo]:
    """A repository and a commit of 2,100 objects, more than two pages of any listing."""
    repository = harness.repository()
    stage = open_stage(harness.store, repository, harness.store.head(repository, "main").id)

    def write(number: int) -> None:
        put(stage, {f"crowd/{number % 7}/{number:04}": b"%d" % number})

    in_threads(write, range(2100))
    commit = stage.commit("A crowd", {})
    harness.store.drop_stage(repository, stage.name)
    return repository, commit


# --- finding commits ------------------------------------------------------------------------------


def test_ping_answers(store: WorkspaceStore) -> None:
    store.ping()


def test_resolves_a_commit_by_its_id_and_by_a_prefix(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    commit = staged(store, repository, base.id, {"a": b"1"})
    assert store.resolve(repository, commit.id) == commit
    assert store.resolve(repository, commit.id[:12]) == commit


@pytest.mark.parametrize(
    "ref", ["f" * 64, "f" * 40, "0123456", "main", "a-branch", "a-tag", "", "~"]
)
def test_resolves_nothing_else(
    harness: StoreHarness, repository: str, base: CommitInfo, ref: str
) -> None:
    harness.add_branch(repository, "a-branch", base.id)
    harness.add_tag(repository, "a-tag", base.id)
    with pytest.raises(NotFound) as caught:
        harness.store.resolve(repository, ref)
    assert (caught.value.what, caught.value.name) == ("commit", ref)


def test_names_of_branches_are_not_found_even_if_they_look_like_commits(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    harness.add_branch(repository, "feed123", base.id)
    with pytest.raises(NotFound):
        harness.store.resolve(repository, "feed123")


def test_head_follows_the_branch(harness: StoreHarness, repository: str, base: CommitInfo) -> None:
    foreign = harness.foreign_commit(repository, "main", write={"a": b"1"}, message="Foreign")
    head = harness.store.head(repository, "main")
    assert (head.id, head.parents) == (foreign, (base.id,))
    assert head.message == "Foreign"
    assert head == harness.store.resolve(repository, foreign)


def test_history_is_the_first_parent_chain_newest_first(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    chain = [base.id]
    for number in range(3):
        source = staged(store, repository, chain[0], {f"k{number}": b"x"})
        chain.insert(0, publish(store, repository, source, chain[0]).id)
    history = store.history(repository, "main", limit=100)
    assert [commit.id for commit in history][:4] == chain
    assert all(a.parents[0] == b.id for a, b in pairwise(history))
    assert store.history(repository, "main", limit=2) == history[:2]


def test_history_leads_to_the_commit_that_is_searched_for(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    """However far it is below the head, and where it is not there the chain is whole."""
    chain = [base.id]
    for number in range(6):
        source = staged(store, repository, chain[0], {f"k{number}": b"x"})
        chain.insert(0, publish(store, repository, source, chain[0]).id)
    history = store.history(repository, "main", limit=100)
    for wanted in chain:
        found = store.history(repository, "main", limit=100, until=wanted)
        assert found == history[: len(found)]
        assert wanted in [commit.id for commit in found]
    assert store.history(repository, "main", limit=100, until="f" * len(base.id)) == history
    assert store.history(repository, "main", limit=5, until=base.id) == history[:5]


def test_a_missing_repository_is_not_found(store: WorkspaceStore, base: CommitInfo) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.resolve("no-such-repository", base.id),
        lambda: store.head("no-such-repository", "main"),
        lambda: store.history("no-such-repository", "main", limit=1),
        lambda: list(store.list("no-such-repository", base.id, "")),
        lambda: list(store.changes("no-such-repository", base.id, base.id, "")),
        lambda: store.read("no-such-repository", base.id, "a", io.BytesIO()),
        lambda: open_stage(store, "no-such-repository", base.id),
        lambda: store.stages("no-such-repository"),
        lambda: store.drop_stage("no-such-repository", "perago-stage"),
        lambda: publish(store, "no-such-repository", base, base.id),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()
    for call in calls[:2]:
        with pytest.raises(NotFound, match="repository 'no-such-repository' does not exist"):
            call()


def test_a_missing_branch_is_not_found(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    source = staged(store, repository, base.id, {"a": b"1"})
    calls: list[Callable[[], object]] = [
        lambda: store.head(repository, "no-such-branch"),
        lambda: store.history(repository, "no-such-branch", limit=1),
        lambda: publish(store, repository, source, base.id, branch="no-such-branch"),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()
    with pytest.raises(NotFound) as caught:
        calls[0]()
    assert (caught.value.what, caught.value.name) == ("branch", "no-such-branch")


def test_a_missing_commit_is_not_found(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    gone = "f" * len(base.id)
    with pytest.raises(NotFound):
        list(store.list(repository, gone, ""))
    with pytest.raises(NotFound):
        store.read(repository, gone, "a", io.BytesIO())
    for pair in [(base.id, gone), (gone, base.id)]:
        with pytest.raises(NotFound) as caught:
            list(store.changes(repository, *pair, ""))
        assert (caught.value.what, caught.value.name) == ("commit", gone)
    with pytest.raises(NotFound):
        open_stage(store, repository, gone)
    with pytest.raises(NotFound):
        publish(store, repository, base.model_copy(update={"id": gone}), base.id)
    assert store.head(repository, "main") == base


@pytest.mark.parametrize("key", ["b", "dir", "dir/", "a/b", "A", ""])
def test_a_missing_object_is_not_found(
    store: WorkspaceStore, repository: str, base: CommitInfo, key: str
) -> None:
    commit = staged(store, repository, base.id, {"a": b"1", "dir/c": b"2"})
    with pytest.raises(NotFound) as caught:
        store.read(repository, commit.id, key, io.BytesIO())
    assert (caught.value.what, caught.value.name) == ("object", key)


# --- listing and reading --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("", ["other", "ws", "ws-1", "ws.txt", "ws2/x", "wsa", "z/ws/a"]),
        ("ws", ["ws", "ws-1", "ws.txt", "ws2/x", "wsa"]),
        ("ws2/", ["ws2/x"]),
        ("z/w", ["z/ws/a"]),
        ("z/ws/a", ["z/ws/a"]),
        ("nothing", []),
    ],
)
def test_a_prefix_is_a_plain_string(
    store: WorkspaceStore, repository: str, base: CommitInfo, prefix: str, keys: list[str]
) -> None:
    everything = ["z/ws/a", "wsa", "ws2/x", "ws.txt", "ws-1", "ws", "other"]
    commit = staged(store, repository, base.id, dict.fromkeys(everything, b"x"))
    assert [each.key for each in store.list(repository, commit.id, prefix)] == keys


def test_keys_come_in_byte_order_across_directories(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    keys = [
        "a-b",
        "a.b",
        "a/b",
        "a/b-c/d",
        "a/b.c",
        "a0",
        "aé",
        "a\U0001f642",
        "a\uffe6",
        "b",
        "B/c",
    ]
    commit = staged(store, repository, base.id, dict.fromkeys(keys, b"x"))
    listed = [each.key for each in store.list(repository, commit.id, "")]
    assert listed == sorted(keys, key=str.encode)


def test_lists_more_objects_than_fit_on_a_page(
    store: WorkspaceStore, crowd: tuple[str, CommitInfo]
) -> None:
    repository, commit = crowd
    listed = list(store.list(repository, commit.id, "crowd/"))
    wanted = sorted(f"crowd/{number % 7}/{number:04}" for number in range(2100))
    assert [each.key for each in listed] == wanted
    assert sum(each.size for each in listed) == sum(len(str(number)) for number in range(2100))
    assert len(list(store.list(repository, commit.id, "crowd/3/"))) == 300


def test_deletes_more_objects_than_fit_in_a_request(
    store: WorkspaceStore, crowd: tuple[str, CommitInfo]
) -> None:
    repository, commit = crowd
    keys = [each.key for each in store.list(repository, commit.id, "")]
    left = staged(store, repository, commit.id, {}, delete=keys[:2000])
    assert [each.key for each in store.list(repository, left.id, "")] == keys[2000:]


@pytest.mark.parametrize("size", [0, 1, 5 * 1024 * 1024])
def test_reads_what_was_written(
    store: WorkspaceStore, repository: str, base: CommitInfo, size: int
) -> None:
    """What `write` returns, what listings show and what a fresh digest yields are one thing."""
    content = random.Random(size).randbytes(size)  # noqa: S311
    stage = open_stage(store, repository, base.id)
    written = stage.write("some/object", io.BytesIO(content), size)
    commit = stage.commit("One object", {})
    store.drop_stage(repository, stage.name)

    into = io.BytesIO()
    assert store.read(repository, commit.id, "some/object", into) == size
    assert into.getvalue() == content

    digest = store.new_digest(size)
    for start in range(0, size, 1_000_000):
        digest.update(content[start : start + 1_000_000])
    wanted = ObjectInfo(key="some/object", size=size, checksum=digest.hexdigest(), verifiable=True)
    assert written == wanted
    assert list(store.list(repository, commit.id, "")) == [wanted]


@pytest.mark.parametrize(
    "key",
    [
        "with space/and  two",
        "ends with space ",
        "line\nbreak",
        "tab\tand\x01control",
        "percent%2Fplus+amp&hash#question?semi;eq=",
        "quote\"apostrophe'back\\slash",
        "e\u0301 as two",
        "\u00e9 as one",
        "数据/🙂",
        "\u202e reversed",
        "n" * 255,
        "/".join("deep" for _ in range(100)),
        ".hidden/..dots.../-dash",
        "*?[a-z]{x}",
    ],
)
def test_keys_are_kept_as_they_are(
    store: WorkspaceStore, repository: str, base: CommitInfo, key: str
) -> None:
    commit = staged(store, repository, base.id, {key: b"content", "other": b"x"})
    assert contents(store, repository, commit.id) == {key: b"content", "other": b"x"}
    assert [each.key for each in store.list(repository, commit.id, key)] == [key]
    assert contents(store, repository, staged(store, repository, commit.id, {}, [key]).id) == {
        "other": b"x"
    }


@pytest.mark.parametrize(
    ("start", "size"),
    [
        *[(0, 1), (0, 10), (3, 4), (9, 1), (3, None), (0, None), (9, None)],
        *[(4, 100), (0, 11), (10, 1), (10, None), (11, 5), (5000, None)],  # beyond the end
    ],
)
def test_a_range_is_what_there_is_of_it(
    store: WorkspaceStore, repository: str, base: CommitInfo, start: int, size: int | None
) -> None:
    content = b"0123456789"
    commit = staged(store, repository, base.id, {"a": content})
    into = io.BytesIO()
    wanted = content[start:] if size is None else content[start : start + size]
    read = store.read(repository, commit.id, "a", into, start=start, size=size)
    assert (read, into.getvalue()) == (len(wanted), wanted)


def test_no_range_of_an_empty_object_holds_anything(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    commit = staged(store, repository, base.id, {"empty": b""})
    for start, size in [(0, 1), (1, 1), (1, None)]:
        assert store.read(repository, commit.id, "empty", io.BytesIO(), start=start, size=size) == 0


def test_a_range_of_a_missing_object_is_not_found(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    commit = staged(store, repository, base.id, {"a": b"1"})
    with pytest.raises(NotFound):
        store.read(repository, commit.id, "b", io.BytesIO(), start=5, size=1)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_what_the_receiving_file_raises_is_passed_on(
    store: WorkspaceStore, repository: str, base: CommitInfo, size: int
) -> None:
    """A full disk is not the store's fault, and not a reason to read again."""

    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    commit = staged(store, repository, base.id, {"a": bytes(size)})
    for part in ({}, {"start": 1, "size": 5}):
        with pytest.raises(OSError, match="No space left"):
            store.read(repository, commit.id, "a", Full(), **part)


def test_the_ranges_of_an_object_are_its_bytes(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    """In any order, several at once, across the chunks that stores stream by."""
    size = 3 * 1024 * 1024 + 7
    content = random.Random(7).randbytes(size)  # noqa: S311
    commit = staged(store, repository, base.id, {"big": content})

    def part(start: int) -> tuple[int, bytes]:
        into = io.BytesIO()
        store.read(repository, commit.id, "big", into, start=start, size=700_001)
        return start, into.getvalue()

    parts = in_threads(part, reversed(range(0, size, 700_001)))
    assert b"".join(data for _, data in sorted(parts)) == content


# --- comparing commits ----------------------------------------------------------------------------


def test_changes_tell_what_was_added_changed_and_removed(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    """Both ways round, and between commits neither of which descends from the other."""
    older = staged(store, repository, base.id, {"ws/a": b"1", "ws/b": b"22", "ws/same": b"s"})
    newer = staged(store, repository, older.id, {"ws/a": b"111", "ws/c": b"4444"}, ["ws/b"])
    aside = staged(store, repository, base.id, {"ws/a": b"1", "ws/d": b""})

    assert changed(store, repository, older, newer) == {"ws/a": 3, "ws/b": None, "ws/c": 4}
    assert changed(store, repository, newer, older) == {"ws/a": 1, "ws/b": 2, "ws/c": None}
    assert changed(store, repository, newer, aside) == {
        "ws/a": 1,
        "ws/c": None,
        "ws/d": 0,
        "ws/same": None,
    }
    assert changed(store, repository, aside, newer) == {
        "ws/a": 3,
        "ws/c": 4,
        "ws/d": None,
        "ws/same": 1,
    }
    assert changed(store, repository, newer, newer) == {}


def test_a_change_shows_what_the_listing_shows(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    commit = staged(store, repository, base.id, {"z": b"1", "a/b": b"", "a-b": b"x" * 3_000_000})
    listed = list(store.list(repository, commit.id, ""))
    changes = list(store.changes(repository, base.id, commit.id, ""))
    assert changes == [Change(key=info.key, now=info) for info in listed]


@pytest.mark.parametrize("prefix", ["", "ws", "ws/", "ws2/", "ws/de", "nothing"])
def test_changes_are_those_under_a_prefix(
    store: WorkspaceStore, repository: str, base: CommitInfo, prefix: str
) -> None:
    keys = ["other", "ws", "ws-1", "ws2/x", "wsa", "z/ws/a"]
    more = ["ws/deep/er", "ws/deep-er", "ws/déjà", "ws/\n", "ws0"]
    older = staged(store, repository, base.id, dict.fromkeys(keys, b"1"))
    gone = ["ws", "ws2/x"]
    newer = staged(store, repository, older.id, dict.fromkeys(more, b"2"), gone)
    expected = sorted(
        (key for key in [*more, *gone] if key.startswith(prefix)), key=lambda key: key.encode()
    )
    assert list(changed(store, repository, older, newer, prefix)) == expected
    assert list(changed(store, repository, newer, older, prefix)) == expected


def test_an_object_that_gave_way_to_objects_below_it_is_gone(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    file = staged(store, repository, base.id, {"a": b"file"})
    folder = staged(store, repository, file.id, {"a/b": b"1", "a/c": b"2"}, ["a"])
    assert changed(store, repository, file, folder) == {"a": None, "a/b": 1, "a/c": 1}
    assert changed(store, repository, folder, file) == {"a": 4, "a/b": None, "a/c": None}


def test_compares_more_objects_than_fit_on_a_page(
    store: WorkspaceStore, crowd: tuple[str, CommitInfo]
) -> None:
    repository, commit = crowd
    keys = [each.key for each in store.list(repository, commit.id, "")]
    base = store.resolve(repository, commit.parents[0])
    assert list(changed(store, repository, base, commit)) == keys
    assert changed(store, repository, commit, base) == dict.fromkeys(keys)
    assert len(changed(store, repository, base, commit, "crowd/3/")) == 300


# --- stages ---------------------------------------------------------------------------------------


def test_nobody_sees_what_is_staged(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    store = harness.store
    first, second = (open_stage(store, repository, base.id) for _ in range(2))
    put(first, {"a": b"first"})
    put(second, {"a": b"second", "b": b"second"})
    one, two = first.commit("First", {}), second.commit("Second", {})
    assert contents(store, repository, one.id) == {"a": b"first"}
    assert contents(store, repository, two.id) == {"a": b"second", "b": b"second"}
    assert store.head(repository, "main") == base
    assert contents(store, repository, base.id) == {}
    for stage in (first, second):
        store.drop_stage(repository, stage.name)


def test_a_stage_starts_as_its_base_even_when_the_branch_is_elsewhere(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    old = staged(harness.store, repository, base.id, {"a": b"1", "b": b"2"})
    harness.foreign_commit(repository, "main", write={"foreign": b"x"}, message="Foreign")
    new = staged(harness.store, repository, old.id, {"c": b"3"}, delete=["a"])
    assert contents(harness.store, repository, new.id) == {"b": b"2", "c": b"3"}


def test_writes_from_several_threads(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    objects = {f"{number % 5}/{number}": b"%d" % number * number for number in range(64)}
    stage = open_stage(store, repository, base.id)
    in_threads(lambda key: put(stage, {key: objects[key]}), objects)
    commit = stage.commit("Many", {})
    store.drop_stage(repository, stage.name)
    assert contents(store, repository, commit.id) == objects


def test_the_last_call_for_a_key_counts(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    old = staged(store, repository, base.id, {"kept": b"1", "gone": b"2"})
    stage = open_stage(store, repository, old.id)
    put(stage, {"new": b"one"})
    put(stage, {"new": b"two", "fleeting": b"3"})
    stage.delete(["kept", "gone", "fleeting"])
    stage.delete(["kept"])
    put(stage, {"kept": b"again"})
    commit = stage.commit("Changes", {})
    store.drop_stage(repository, stage.name)
    assert contents(store, repository, commit.id) == {"kept": b"again", "new": b"two"}


def test_deleting_what_is_not_there_is_no_error(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    old = staged(store, repository, base.id, {"a": b"1", "dir/b": b"2"})
    new = staged(
        store, repository, old.id, {"c": b"3"}, delete=["never", "dir", "dir/b/c", "a", "a"]
    )
    assert contents(store, repository, new.id) == {"c": b"3", "dir/b": b"2"}
    stage = open_stage(store, repository, new.id)
    stage.delete([])
    store.drop_stage(repository, stage.name)


@pytest.mark.parametrize("delete_first", [True, False])
def test_an_object_gives_way_to_objects_below_it_and_back(
    store: WorkspaceStore, repository: str, base: CommitInfo, *, delete_first: bool
) -> None:
    def exchanged(commit: CommitInfo, old: str, new: str) -> CommitInfo:
        stage = open_stage(store, repository, commit.id)
        if delete_first:
            stage.delete([old])
        put(stage, {new: b"x"})
        if not delete_first:
            stage.delete([old])
        after = stage.commit("Replace", {})
        store.drop_stage(repository, stage.name)
        return after

    file = staged(store, repository, base.id, {"a": b"1"})
    directory = exchanged(file, "a", "a/b")
    assert contents(store, repository, directory.id) == {"a/b": b"x"}
    assert contents(store, repository, exchanged(directory, "a/b", "a").id) == {"a": b"x"}


def test_a_source_that_ends_early_stores_nothing(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    stage = open_stage(store, repository, base.id)
    with pytest.raises(StoreUnavailable):
        stage.write("short", io.BytesIO(b"abc"), 10)
    put(stage, {"whole": b"1"})
    commit = stage.commit("One of two", {})
    store.drop_stage(repository, stage.name)
    assert contents(store, repository, commit.id) == {"whole": b"1"}


def test_a_source_that_goes_on_is_never_stored_beyond_its_size(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    stage = open_stage(store, repository, base.id)
    try:
        written = stage.write("long", io.BytesIO(b"0123456789"), 4)
    except StoreUnavailable:
        put(stage, {"long": b"0123"})
    else:
        assert written.size == 4
    commit = stage.commit("Four bytes", {})
    store.drop_stage(repository, stage.name)
    assert contents(store, repository, commit.id) == {"long": b"0123"}


def test_a_write_that_failed_can_be_made_again(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    stage = open_stage(store, repository, base.id)
    with pytest.raises(StoreUnavailable):
        stage.write("key", io.BytesIO(b"abc"), 4)
    stage.write("key", io.BytesIO(b"abcd"), 4)
    commit = stage.commit("At last", {})
    store.drop_stage(repository, stage.name)
    assert contents(store, repository, commit.id) == {"key": b"abcd"}


def test_a_commit_says_what_was_given(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    stage = open_stage(store, repository, base.id)
    put(stage, {"a": b"1"})
    commit = stage.commit("Add a\n\nBecause it was missing.", METADATA)
    store.drop_stage(repository, stage.name)
    assert commit.parents == (base.id,)
    assert commit.message == "Add a\n\nBecause it was missing."
    assert recorded(commit) == METADATA
    assert commit.tree != base.tree
    assert store.resolve(repository, commit.id) == commit


def test_a_commit_asked_for_again_is_the_same_one(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    stage = open_stage(store, repository, base.id)
    put(stage, {"a": b"1"})
    commit = stage.commit("Add a", METADATA)
    assert stage.commit("Add a", METADATA) == commit
    store.drop_stage(repository, stage.name)


def test_a_stage_that_changes_nothing_commits_nothing(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    old = staged(store, repository, base.id, {"a": b"1"})
    untouched, rewritten, deleted = (open_stage(store, repository, old.id) for _ in range(3))
    put(rewritten, {"a": b"1"})
    put(deleted, {"b": b"2"})
    deleted.delete(["b", "never"])
    for stage in (untouched, rewritten, deleted):
        with pytest.raises(NothingToCommit):
            stage.commit("Nothing", {})
        store.drop_stage(repository, stage.name)


def test_stages_are_listed_until_they_are_dropped(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    assert store.stages(repository) == []
    names = [f"perago-{letter}" for letter in "abc"]
    stages = [store.stage(repository, base.id, name) for name in names]
    assert [stage.name for stage in stages] == names
    assert sorted(store.stages(repository)) == names
    store.drop_stage(repository, names[1])
    store.drop_stage(repository, names[1])
    assert sorted(store.stages(repository)) == [names[0], names[2]]
    put(stages[0], {"a": b"1"})
    stages[0].commit("Committed stages are stages", {})
    assert sorted(store.stages(repository)) == [names[0], names[2]]
    for stage in stages:
        store.drop_stage(repository, stage.name)
    assert store.stages(repository) == []


def test_dropping_a_stage_that_never_was_is_no_error(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    stage = open_stage(store, repository, base.id)
    store.drop_stage(repository, unique("perago-never"))
    assert store.stages(repository) == [stage.name]
    store.drop_stage(repository, stage.name)


def test_a_stage_s_name_is_taken_once(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    stage = store.stage(repository, base.id, "perago-name")
    with pytest.raises(StoreRefused):
        store.stage(repository, base.id, "perago-name")
    put(stage, {"a": b"1"})
    assert stage.commit("Undisturbed", {}).parents == (base.id,)
    store.drop_stage(repository, stage.name)


# --- publishing -----------------------------------------------------------------------------------


def test_a_publication_is_a_merge_of_exactly_the_source(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    source = staged(store, repository, base.id, {"a": b"1"})
    merge = publish(store, repository, source, base.id, metadata=METADATA)
    assert merge.parents == (base.id, source.id)
    assert merge.tree == source.tree
    assert merge.message == "Publish"
    assert recorded(merge) == METADATA
    assert store.head(repository, "main") == merge
    assert contents(store, repository, merge.id) == {"a": b"1"}


def test_publications_follow_each_other(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    first = publish(store, repository, staged(store, repository, base.id, {"a": b"1"}), base.id)
    source = staged(store, repository, first.id, {"b": b"2"}, delete=["a"])
    second = publish(store, repository, source, first.id)
    assert second.parents == (first.id, source.id)
    assert contents(store, repository, second.id) == {"b": b"2"}
    assert contents(store, repository, first.id) == {"a": b"1"}


def test_a_commit_can_be_published_when_its_stage_is_gone(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    stage = open_stage(store, repository, base.id)
    put(stage, {"a": b"1"})
    commit = stage.commit("Add a", {})
    store.drop_stage(repository, stage.name)
    assert store.stages(repository) == []
    assert publish(store, repository, commit, base.id).parents == (base.id, commit.id)


def test_a_foreign_commit_in_between_is_never_lost(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    """The head has moved: refused, or merged on top of what is there and visible as such."""
    store = harness.store
    source = staged(store, repository, base.id, {"ours": b"1"})
    foreign = harness.foreign_commit(repository, "main", write={"theirs": b"2"}, message="Theirs")
    merge = outcome_of(lambda: publish(store, repository, source, base.id))
    head = store.head(repository, "main")
    if merge is None:
        assert head.id == foreign
    else:
        assert merge == head
        assert merge.parents == (foreign, source.id)
    assert contents(store, repository, head.id)["theirs"] == b"2"


def test_a_conflict_with_a_foreign_commit_is_a_moved_head(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    store = harness.store
    source = staged(store, repository, base.id, {"same": b"ours"})
    foreign = harness.foreign_commit(
        repository, "main", write={"same": b"theirs"}, message="Theirs"
    )
    with pytest.raises(HeadMoved) as caught:
        publish(store, repository, source, base.id)
    assert caught.value.expected == base.id
    assert caught.value.found in {foreign, None}
    assert store.head(repository, "main").id == foreign
    assert contents(store, repository, foreign) == {"same": b"theirs"}


def test_a_foreign_commit_during_a_publication_is_never_lost(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    store = harness.store
    for number in range(5):
        head = store.head(repository, "main")
        source = staged(store, repository, head.id, {f"ours-{number}": b"1"})
        with ThreadPoolExecutor(1) as other:
            foreign = other.submit(
                harness.foreign_commit,
                repository,
                "main",
                write={f"theirs-{number}": b"2"},
                message="Theirs",
            )
            merge = outcome_of(lambda: publish(store, repository, source, head.id))  # noqa: B023
        history = [commit.id for commit in store.history(repository, "main", limit=100)]
        now = contents(store, repository, history[0])
        assert foreign.result() in history
        assert now[f"theirs-{number}"] == b"2"
        assert (f"ours-{number}" in now) == (merge is not None)
        assert merge is None or merge.id in history


def test_a_repeated_publication_changes_nothing(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    source = staged(store, repository, base.id, {"a": b"1"})
    merge = publish(store, repository, source, base.id)
    again = outcome_of(lambda: publish(store, repository, source, base.id))
    head = store.head(repository, "main")
    assert head.tree == merge.tree
    assert head.id == (merge if again is None else again).id
    assert again is None or again.parents[0] != base.id


def test_a_repeated_publication_does_not_undo_what_came_after(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    store = harness.store
    source = staged(store, repository, base.id, {"a": b"1"})
    publish(store, repository, source, base.id)
    harness.foreign_commit(repository, "main", write={"a": b"corrected"}, message="Correct a")
    outcome_of(lambda: publish(store, repository, source, base.id))
    assert contents(store, repository, store.head(repository, "main").id) == {"a": b"corrected"}


def test_two_publications_never_replace_the_same_head(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    for _ in range(5):
        head = store.head(repository, "main")
        sources = [staged(store, repository, head.id, {unique("key"): b"x"}) for _ in range(2)]
        together = threading.Barrier(2)

        def race(source: CommitInfo, head: CommitInfo = head) -> CommitInfo | None:
            together.wait()  # noqa: B023
            return outcome_of(lambda: publish(store, repository, source, head.id))

        merges = [each for each in in_threads(race, sources) if each is not None]
        history = [commit.id for commit in store.history(repository, "main", limit=100)]
        assert merges
        assert sum(merge.parents[0] == head.id for merge in merges) == 1
        assert {merge.id for merge in merges} <= set(history)


def test_other_branches_stay_where_they_are(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    harness.add_branch(repository, "other", base.id)
    source = staged(harness.store, repository, base.id, {"a": b"1"})
    merge = publish(harness.store, repository, source, base.id, branch="other")
    assert harness.store.head(repository, "other") == merge
    assert harness.store.head(repository, "main") == base


# --- replacing ------------------------------------------------------------------------------------


def test_a_replacement_has_exactly_the_content_on_top_of_another_commit(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    old = staged(store, repository, base.id, {"kept": b"1", "abandoned": b"2", "both": b"old"})
    on = publish(store, repository, old, base.id)
    content = staged(store, repository, base.id, {"both": b"new", "mine": b"3"})
    made = replaced(store, repository, on=on, content=content, metadata=METADATA)
    assert made.parents == (on.id,)
    assert made.tree == content.tree
    assert made.message == "Replace"
    assert recorded(made) == METADATA
    assert made == store.resolve(repository, made.id)
    assert store.head(repository, "main") == on
    merge = publish(store, repository, made, on.id)
    assert (merge.parents, merge.tree) == ((on.id, made.id), content.tree)
    assert contents(store, repository, merge.id) == {"both": b"new", "mine": b"3"}


def test_a_replacement_brings_an_older_commit_s_content_back(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    """What a retry that changes nothing makes of what the attempt before it published."""
    first = publish(store, repository, staged(store, repository, base.id, {"a": b"1"}), base.id)
    source = staged(store, repository, first.id, {"b": b"2"}, delete=["a"])
    second = publish(store, repository, source, first.id)
    made = replaced(store, repository, on=second, content=first)
    merge = publish(store, repository, made, second.id)
    assert (merge.parents, merge.tree) == ((second.id, made.id), first.tree)
    assert contents(store, repository, merge.id) == {"a": b"1"}


def test_a_replacement_by_the_same_content_is_a_commit_and_can_be_published(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    on = publish(store, repository, staged(store, repository, base.id, {"a": b"1"}), base.id)
    same = staged(store, repository, base.id, {"a": b"1"})
    for content in (on, same):
        head = store.head(repository, "main")
        made = replaced(store, repository, on=head, content=content)
        assert (made.parents, made.tree) == ((head.id,), content.tree)
        merge = publish(store, repository, made, head.id, metadata=METADATA, allow_unchanged=True)
        assert (merge.parents, merge.tree) == ((head.id, made.id), content.tree)
        assert recorded(merge) == METADATA
        assert store.head(repository, "main") == merge
    assert contents(store, repository, store.head(repository, "main").id) == {"a": b"1"}


def test_publishing_a_change_may_allow_that_there_is_none(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    source = staged(store, repository, base.id, {"a": b"1"})
    merge = publish(store, repository, source, base.id, allow_unchanged=True)
    assert (merge.parents, merge.tree) == ((base.id, source.id), source.tree)


def test_a_replacement_is_never_published_over_a_foreign_commit(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    store = harness.store
    on = publish(store, repository, staged(store, repository, base.id, {"a": b"1"}), base.id)
    content = staged(store, repository, base.id, {"b": b"2"})
    made = replaced(store, repository, on=on, content=content)
    foreign = harness.foreign_commit(repository, "main", write={"theirs": b"3"}, message="Theirs")
    merge = outcome_of(lambda: publish(store, repository, made, on.id, allow_unchanged=True))
    head = store.head(repository, "main")
    assert head.id == foreign if merge is None else head == merge
    assert merge is None or merge.parents == (foreign, made.id)
    assert contents(store, repository, head.id)["theirs"] == b"3"


def test_a_replacement_s_stage_is_like_any_other(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    on = staged(store, repository, base.id, {"a": b"1"})
    content = staged(store, repository, base.id, {"b": b"2"})
    name = unique("perago-stage")

    def replace() -> CommitInfo:
        return store.replacement(
            repository, on=on, content=content, name=name, message="Replace", metadata={}
        )

    made = replace()
    assert store.stages(repository) == [name]
    with pytest.raises(StoreRefused):
        replace()
    with pytest.raises(StoreRefused):
        store.stage(repository, base.id, name)
    store.drop_stage(repository, name)
    assert store.stages(repository) == []
    assert contents(store, repository, made.id) == {"b": b"2"}


def test_a_replacement_leaves_another_stage_of_its_name_alone(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    content = staged(store, repository, base.id, {"b": b"2"})
    stage = open_stage(store, repository, base.id)
    put(stage, {"a": b"1"})
    with pytest.raises(StoreRefused):
        store.replacement(
            repository, on=base, content=content, name=stage.name, message="", metadata={}
        )
    assert contents(store, repository, stage.commit("Undisturbed", {}).id) == {"a": b"1"}
    store.drop_stage(repository, stage.name)


def test_a_replacement_of_what_does_not_exist_is_not_found(
    store: WorkspaceStore, repository: str, base: CommitInfo
) -> None:
    gone = base.model_copy(update={"id": "f" * len(base.id)})
    for on, content in ((gone, base), (base, gone)):
        with pytest.raises(NotFound) as caught:
            replaced(store, repository, on=on, content=content)
        assert (caught.value.what, caught.value.name) == ("commit", gone.id)
    with pytest.raises(NotFound):
        replaced(store, "no-such-repository", on=base, content=base)
    assert store.head(repository, "main") == base


# --- the fence ------------------------------------------------------------------------------------


def test_the_fence_level_tells_what_becomes_of_a_publication_whose_head_moved(
    harness: StoreHarness, repository: str, base: CommitInfo
) -> None:
    store = harness.store
    level = store.fence_level(repository, base.id)
    source = staged(store, repository, base.id, {"ours": b"1"})
    harness.foreign_commit(repository, "main", write={"theirs": b"2"}, message="Theirs")
    merge = outcome_of(lambda: publish(store, repository, source, base.id))
    assert level in {"swap", "verify"}
    assert (merge is None) == (level == "swap")
    assert store.fence_level(repository, base.id) == level
    assert store.stages(repository) == []


# --- what the tests are written with --------------------------------------------------------------


def unique(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:12]}"


def open_stage(store: WorkspaceStore, repository: str, base: str) -> Stage:
    return store.stage(repository, base, unique("perago-stage"))


def put(stage: Stage, objects: Mapping[str, bytes]) -> None:
    for key, content in objects.items():
        stage.write(key, io.BytesIO(content), len(content))


def staged(
    store: WorkspaceStore,
    repository: str,
    base: str,
    write: Mapping[str, bytes],
    delete: Iterable[str] = (),
) -> CommitInfo:
    """Commit changes on top of a commit, by a stage that is dropped again."""
    stage = open_stage(store, repository, base)
    put(stage, write)
    stage.delete(list(delete))
    commit = stage.commit("Stage", {})
    store.drop_stage(repository, stage.name)
    return commit


def publish(
    store: WorkspaceStore,
    repository: str,
    source: CommitInfo,
    expected_head: str,
    *,
    branch: str = "main",
    metadata: Mapping[str, str] | None = None,
    allow_unchanged: bool = False,
) -> CommitInfo:
    return store.publish(
        repository,
        branch,
        source=source,
        expected_head=expected_head,
        metadata=metadata or {"expected_head": expected_head},
        message="Publish",
        timeout_s=30,
        allow_unchanged=allow_unchanged,
    )


def replaced(
    store: WorkspaceStore,
    repository: str,
    *,
    on: CommitInfo,
    content: CommitInfo,
    metadata: Mapping[str, str] | None = None,
) -> CommitInfo:
    """Commit one commit's content on top of another, by a stage that is dropped again."""
    name = unique("perago-stage")
    try:
        return store.replacement(
            repository,
            on=on,
            content=content,
            name=name,
            message="Replace",
            metadata=metadata or {},
        )
    finally:
        with suppress(NotFound):
            store.drop_stage(repository, name)


def outcome_of(publication: Callable[[], CommitInfo]) -> CommitInfo | None:
    """Return the merge, or None when the head had moved."""
    try:
        return publication()
    except HeadMoved:
        return None


def contents(store: WorkspaceStore, repository: str, commit: str) -> dict[str, bytes]:
    found = {}
    for each in store.list(repository, commit, ""):
        into = io.BytesIO()
        assert store.read(repository, commit, each.key, into) == each.size
        found[each.key] = into.getvalue()
    return found


def changed(
    store: WorkspaceStore, repository: str, base: CommitInfo, commit: CommitInfo, prefix: str = ""
) -> dict[str, int | None]:
    """Return key -> size now of what differs, in the order it was told."""
    changes = store.changes(repository, base.id, commit.id, prefix)
    return {change.key: change.now.size if change.now else None for change in changes}


def recorded(commit: CommitInfo) -> dict[str, str]:
    """Return the metadata of a commit without what a server adds under its own prefix."""
    return {key: value for key, value in commit.metadata.items() if not key.startswith(".")}


def in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(work, items))
