"""What the embedded store promises beyond the port: races, crashes, damage, git beside it."""

from __future__ import annotations

import fcntl
import hashlib
import io
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pygit2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perago_worker.adapters.local.store import LocalStore
from perago_worker.adapters.local.store_message import decode, encode
from perago_worker.adapters.local.store_refs import STALE_LOCK_S
from perago_worker.errors import (
    HeadMoved,
    NotFound,
    NothingToCommit,
    StoreRefused,
    StoreUnavailable,
)
from perago_worker.models import CommitInfo

NAME = "repository"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> LocalStore:
    """A store with one repository that holds nothing."""
    store = LocalStore(root)
    store.create_repository(NAME)
    return store


@pytest.fixture
def base(store: LocalStore) -> CommitInfo:
    return store.head(NAME, "main")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A local directory to import."""
    directory = tmp_path / "directory"
    directory.mkdir()
    return directory


# --- moving branches ------------------------------------------------------------------------------


def test_libgit2_moves_a_reference_only_from_where_it_was_looked_up(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    """The promise of libgit2 that publishing rests on, with loose and with packed references."""
    repo = pygit2.Repository(str(git_dir(root)))
    for pack in (False, True):
        reference = repo.references["refs/heads/main"]
        foreign = git_commit(root, {f"{pack}": b"x"})
        if pack:
            git(root, "pack-refs", "--all")
        with pytest.raises(pygit2.GitError, match="does not match"):
            reference.set_target(base.id)
        assert store.head(NAME, "main").id == foreign


@pytest.mark.long
def test_processes_that_publish_at_once_lose_nothing(store: LocalStore, root: Path) -> None:
    """Four processes make 15 publications each, on a branch that each of them sees moving."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, mp_context=spawn) as pool:
        published = [id_ for ids in pool.map(publish_many, [root] * 4, "abcd") for id_ in ids]
    history = store.history(NAME, "main", limit=1000)
    assert len(set(published)) == 60
    assert {commit.id for commit in history[:-1]} == set(published)
    assert len(list(store.list(NAME, history[0].id, ""))) == 60


def publish_many(root: Path, worker: str) -> list[str]:
    store = LocalStore(root)
    published: list[str] = []
    while len(published) < 15:
        head = store.head(NAME, "main")
        source = staged(store, head.id, {f"{worker}/{len(published)}": b"x"}, name=worker)
        try:
            published.append(publish(store, source, head.id).id)
        except HeadMoved as moved:
            assert moved.found != head.id  # noqa: PT017 -- not in a test, but in its child
    return published


def test_a_source_that_was_not_made_on_the_head_is_not_published(
    store: LocalStore, base: CommitInfo
) -> None:
    """There is no merging of contents: what was made for another commit does not fit this one."""
    late = staged(store, base.id, {"late": b"1"})
    head = publish(store, staged(store, base.id, {"early": b"2"}), base.id)
    for source in (late, head, base):
        with pytest.raises(HeadMoved) as caught:
            publish(store, source, head.id)
        assert caught.value.found == head.id
    assert store.head(NAME, "main") == head


def test_a_lock_that_git_holds_is_waited_for(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    source = staged(store, base.id, {"a": b"1"})
    lock = git_dir(root) / "refs/heads/main.lock"
    lock.touch()
    with ThreadPoolExecutor(1) as pool:
        publication = pool.submit(publish, store, source, base.id)
        lock.unlink()
        assert publication.result() == store.head(NAME, "main")


def test_a_lock_that_git_keeps_makes_the_branch_unavailable(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    source = staged(store, base.id, {"a": b"1"})
    (git_dir(root) / "refs/heads/main.lock").touch()
    with pytest.raises(StoreUnavailable, match="'main' is locked"):
        publish(store, source, base.id, timeout_s=0.05)
    assert store.head(NAME, "main") == base


def test_a_lock_that_a_killed_process_left_does_not_stay(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    source = staged(store, base.id, {"a": b"1"})
    lock = git_dir(root) / "refs/heads/main.lock"
    lock.touch()
    old = lock.stat().st_mtime - STALE_LOCK_S - 1
    os.utime(lock, (old, old))
    assert publish(store, source, base.id) == store.head(NAME, "main")
    assert not lock.exists()


def test_a_process_that_keeps_its_turn_makes_the_repository_unavailable(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    source = staged(store, base.id, {"a": b"1"})
    with (git_dir(root) / "perago.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="busy"):
            publish(store, source, base.id, timeout_s=0.05)
    assert publish(store, source, base.id).parents == (base.id, source.id)


@pytest.mark.long
def test_a_process_that_is_killed_at_work_leaves_a_whole_repository(
    store: LocalStore, root: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.unit.test_local_store import *\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "for number in range(1_000_000):\n"
        "    head = store.head(NAME, 'main')\n"
        "    stage = f'{sys.argv[2]}-{number}'\n"
        "    source = staged(store, head.id, {'key': stage.encode()}, name=stage)\n"
        "    print(publish(store, source, head.id).id, flush=True)\n"
    )
    for attempt in range(2):
        command = [sys.executable, "-c", program, str(root), str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            # By pipe, not by time: killed somewhere in the publication after the tenth.
            reported = [process.stdout.readline().decode().strip() for _ in range(10)]
            process.send_signal(signal.SIGKILL)
            reported += process.stdout.read().decode().split()
        head = store.head(NAME, "main")
        assert {each for each in reported if len(each) == 40} <= ancestors(root, head.id)
        git(root, "fsck", "--full", "--strict")
        age_locks(root)
        assert publish(store, staged(store, head.id, {"after": b"%d" % attempt}), head.id)


# --- commits that git shows -----------------------------------------------------------------------


@given(st.text(), st.dictionaries(st.text(), st.text()))
@example("Message\n\n[metadata]\n", {})
@example("Message\n\n[metadata]\na: b", {})
@example("[metadata]\na: b\n", {})
@example("", {"": "", '"': '"', "a: b": "c: d", "\n": "\ud800\u2028\x85\x00\r"})
def test_message_and_metadata_come_back_as_they_were(
    message: str, metadata: Mapping[str, str]
) -> None:
    assert decode(encode(message, metadata)) == (message, metadata)


@pytest.mark.parametrize(
    "text",
    [
        "Subject\n\nSigned-off-by: Somebody <else@localhost>\n",
        "Subject\n\n[metadata]\nnot a line of ours\n",
        "Subject\n\n[metadata]\nkey: value\n\nMore text.\n",
    ],
)
def test_messages_of_others_have_no_metadata(text: str) -> None:
    assert decode(text) == (text.removesuffix("\n"), {})


def test_git_log_tells_what_happened(store: LocalStore, root: Path, base: CommitInfo) -> None:
    source = staged(store, base.id, {"ws/words.csv": b"one,1\n"})
    metadata = {"perago-workflow-id": "5f1c", "note": "two\nlines", "result": '{"über": 1}'}
    publish(store, source, base.id, metadata=metadata)
    log = git(root, "log", "-1", "--format=%an <%ae>%n%B", "main")
    assert log == (
        "perago-worker <perago-worker@localhost>\n"
        "Publish\n\n[metadata]\nperago-workflow-id: 5f1c\n"
        'note: "two\\nlines"\nresult: {"über": 1}\n\n'
    )
    assert git(root, "log", "--format=%s", "--first-parent").splitlines() == [
        "Publish",
        "Create branch main",
    ]
    assert "ws/words.csv | 1 +" in git(root, "show", "--stat", "--first-parent", "main")
    assert git(root, "show", "main:ws/words.csv") == "one,1\n"


def test_stages_are_no_branches(store: LocalStore, root: Path, base: CommitInfo) -> None:
    store.stage(NAME, base.id, "perago-hidden")
    assert git(root, "branch", "--list", "--all", "--format=%(refname)") == "refs/heads/main\n"
    assert git(root, "symbolic-ref", "HEAD") == "refs/heads/main\n"


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.lock", "-x", "über", "a\nb"])
def test_a_stage_has_a_plain_name(store: LocalStore, base: CommitInfo, name: str) -> None:
    with pytest.raises(StoreRefused):
        store.stage(NAME, base.id, name)
    store.drop_stage(NAME, name)
    assert store.head(NAME, "main") == base


def test_a_committed_stage_cannot_be_changed(store: LocalStore, base: CommitInfo) -> None:
    stage = store.stage(NAME, base.id, "stage")
    stage.write("a", io.BytesIO(b"1"), 1)
    stage.commit("Commit", {})
    with pytest.raises(StoreRefused):
        stage.write("b", io.BytesIO(b"2"), 1)
    with pytest.raises(StoreRefused):
        stage.delete(["a"])


def test_a_stage_that_somebody_dropped_cannot_be_committed(
    store: LocalStore, base: CommitInfo
) -> None:
    stage = store.stage(NAME, base.id, "stage")
    stage.write("a", io.BytesIO(b"1"), 1)
    store.drop_stage(NAME, "stage")
    with pytest.raises(NotFound):
        stage.commit("Commit", {})
    assert store.stages(NAME) == []


# --- keys and files that git has its own ideas about ----------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/abs", "a//b", "a/", ".", "..", "a/../b", "./a", "a/."),
        *(".git/config", "a/.GIT/x", "a\0b", "\ud800", "a/\udcff"),
    ],
)
def test_keys_that_git_cannot_hold_are_refused(
    store: LocalStore, base: CommitInfo, key: str
) -> None:
    stage = store.stage(NAME, base.id, "stage")
    with pytest.raises(StoreRefused) as caught:
        stage.write(key, io.BytesIO(b"x"), 1)
    assert repr(key) in str(caught.value)
    stage.write("a", io.BytesIO(b"x"), 1)
    stage.delete([key])
    commit = stage.commit("One object", {})
    assert [each.key for each in store.list(NAME, commit.id, "")] == ["a"]
    with pytest.raises(NotFound):
        store.read(NAME, commit.id, key, io.BytesIO())


@pytest.mark.parametrize(("old", "new"), [("a", "a/b/c"), ("a/b/c", "a"), ("a/b", "a/b/c")])
def test_an_object_below_another_is_refused(
    store: LocalStore, base: CommitInfo, old: str, new: str
) -> None:
    before = staged(store, base.id, {old: b"1", "other": b"2"})
    stage = store.stage(NAME, before.id, "stage")
    stage.write(new, io.BytesIO(b"3"), 1)
    stage.delete(["other"])
    upper, lower = sorted([old, new])
    with pytest.raises(StoreRefused, match=f"'{lower}' cannot be below '{upper}'"):
        stage.commit("Both", {})


def test_two_new_objects_one_below_the_other_are_refused(
    store: LocalStore, base: CommitInfo
) -> None:
    stage = store.stage(NAME, base.id, "stage")
    for key in ("a/b", "a"):
        stage.write(key, io.BytesIO(b"x"), 1)
    with pytest.raises(StoreRefused, match="'a/b' cannot be below 'a'"):
        stage.commit("Both", {})


def test_an_executable_file_stays_one(store: LocalStore, root: Path) -> None:
    head = git_commit(root, {"run.sh": b"one"}, mode="100755")
    rewritten = store.stage(NAME, head, "rewritten")
    rewritten.write("run.sh", io.BytesIO(b"one"), 3)
    with pytest.raises(NothingToCommit):
        rewritten.commit("Nothing", {})
    changed = staged(store, head, {"run.sh": b"two"})
    assert git(root, "ls-tree", changed.id).startswith("100755 blob ")


def test_a_symbolic_link_is_no_object(store: LocalStore, root: Path) -> None:
    """It is refused where it would be read, by name, and kept where it is in nobody's way."""
    head = git_commit(root, {"ws/link": b"target"}, mode="120000")
    changed = staged(store, head, {"other/a": b"1"})
    assert [each.key for each in store.list(NAME, changed.id, "other/")] == ["other/a"]
    assert git(root, "ls-tree", "-r", changed.id, "ws/").startswith("120000 blob ")
    with pytest.raises(StoreRefused, match="'ws/link' is a symbolic link"):
        list(store.list(NAME, changed.id, "ws/"))
    with pytest.raises(StoreRefused, match="'ws/link' is a symbolic link"):
        store.read(NAME, changed.id, "ws/link", io.BytesIO())
    start = store.resolve(NAME, head).parents[0]
    with pytest.raises(StoreRefused, match="'ws/link' is a symbolic link"):
        list(store.changes(NAME, start, changed.id, "ws/"))
    assert [each.key for each in store.changes(NAME, start, changed.id, "other/")] == ["other/a"]
    replaced = staged(store, changed.id, {"ws/link": b"a file now"})
    assert read(store, replaced.id, "ws/link") == b"a file now"
    assert [each.key for each in store.changes(NAME, head, replaced.id, "ws/")] == ["ws/link"]


def test_a_name_that_is_not_unicode_is_listed_as_something_to_refuse(
    store: LocalStore, root: Path
) -> None:
    blob = git(root, "hash-object", "-w", "--stdin", stdin=b"x").strip()
    tree = git(root, "mktree", "-z", stdin=f"100644 blob {blob}\t".encode() + b"\xff\0").strip()
    commit = git(root, "commit-tree", "-m", "Latin", tree).strip()
    assert [each.key for each in store.list(NAME, commit, "")] == ["\ufffd"]


def test_a_prefix_that_a_commit_shares_with_other_objects_is_that_commit(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    """As `git show` has it; but where two commits share it, neither is meant."""

    def colliding(kinds: str) -> tuple[str, list[bytes], str]:
        seen: dict[str, tuple[str, bytes]] = {}
        for number in range(10_000_000):
            kind = kinds[number % 2]
            content = commit_content(number) if kind == "c" else b"%d" % number
            name = {"c": "commit", "b": "blob"}[kind]
            found = git_id(name, content)
            other = seen.setdefault(found[:7], (kind, content))
            if other[1] != content and sorted([other[0], kind]) == sorted(kinds):
                return found[:7], [other[1], content], found
        raise AssertionError("no collision")

    def commit_content(number: int) -> bytes:
        who = b"A <a@localhost> %d +0000" % number
        return b"tree %b\nauthor %b\ncommitter %b\n\nC\n" % (base.tree.encode(), who, who)

    prefix, contents, _ = colliding("cb")
    for content in contents:
        kind = "commit" if content.startswith(b"tree") else "blob"
        git(root, "hash-object", "-w", "-t", kind, "--stdin", stdin=content)
    assert store.resolve(NAME, prefix).message == "C"

    prefix, contents, full = colliding("cc")
    for content in contents:
        git(root, "hash-object", "-w", "-t", "commit", "--stdin", stdin=content)
    with pytest.raises(NotFound):
        store.resolve(NAME, prefix)
    assert store.resolve(NAME, full).id == full


def git_id(kind: str, content: bytes) -> str:
    return hashlib.sha1(b"%b %d\0%b" % (kind.encode(), len(content), content)).hexdigest()  # noqa: S324


# --- contents -------------------------------------------------------------------------------------


class Noise(io.RawIOBase):
    """A long source that is nowhere in memory."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._random = random.Random(size)  # noqa: S311

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        count = min(len(view), self._left)
        view[:count] = self._random.randbytes(count)
        self._left -= count
        return count


class Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return len(memoryview(data))  # type: ignore[arg-type]


@pytest.mark.parametrize("compressible", [True, False])
def test_memory_does_not_grow_with_the_size(
    store: LocalStore, base: CommitInfo, *, compressible: bool
) -> None:
    size = 32 * 1024 * 1024
    stage = store.stage(NAME, base.id, "stage")
    with Path("/dev/zero").open("rb") if compressible else io.BufferedReader(Noise(size)) as source:
        tracemalloc.start()
        try:
            stage.write("large", source, size)
            commit = stage.commit("Large", {})
            read = store.read(NAME, commit.id, "large", io.BufferedWriter(Nowhere()))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert read == size
    assert peak < 4 * 1024 * 1024


def test_what_git_has_packed_is_read_and_built_upon(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    source = staged(store, base.id, {"a": b"packed", "b": b""})
    merge = publish(store, source, base.id)
    stage = store.stage(NAME, merge.id, "stage")
    stage.write("c", io.BytesIO(b"pending"), 7)
    git(root, "gc", "--quiet")
    assert not (git_dir(root) / "refs/heads/main").exists()
    assert (read(store, merge.id, "a"), read(store, merge.id, "b")) == (b"packed", b"")
    after = publish(store, stage.commit("Onwards", {}), merge.id)
    assert [each.key for each in store.list(NAME, after.id, "")] == ["a", "b", "c"]
    assert store.resolve(NAME, source.id[:10]) == source


def test_git_finds_nothing_wrong_with_our_objects(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    noise = random.Random(1).randbytes(600_000)  # noqa: S311
    commit = staged(store, base.id, {"noise": noise, "text": b"abc\n" * 200_000, "empty": b""})
    publish(store, commit, base.id)
    assert git(root, "fsck", "--full", "--strict", "--no-dangling") == ""
    assert git(root, "cat-file", "-s", "main:noise") == "600000\n"


@pytest.mark.parametrize("damage", ["cut", "garbage", "shorter", "empty"])
def test_a_damaged_object_is_noticed(
    store: LocalStore, root: Path, base: CommitInfo, damage: str
) -> None:
    content = random.Random(2).randbytes(400_000)  # noqa: S311
    commit = staged(store, base.id, {"a": content})
    checksum = next(store.list(NAME, commit.id, "")).checksum
    file = git_dir(root) / "objects" / checksum[:2] / checksum[2:]
    damaged = {
        "cut": file.read_bytes()[:-5000],
        "garbage": b"garbage" * 100,
        "shorter": zlib.compress(b"blob 400000\0" + content[:-1]),
        "empty": b"",
    }[damage]
    file.chmod(0o644)
    file.write_bytes(damaged)
    with pytest.raises(StoreUnavailable):
        store.read(NAME, commit.id, "a", io.BytesIO())


def test_a_full_disk_is_unavailable_and_leaves_nothing(root: Path, store: LocalStore) -> None:
    """A limit on file sizes stands in for the disk; it is the child's own."""
    program = (
        "import io, resource, sys; from pathlib import Path\n"
        "from perago_worker.adapters.local.store import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "stage = store.stage('repository', store.head('repository', 'main').id, 'stage')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "noise = Path('/dev/urandom').open('rb')\n"
        "try:\n"
        "    stage.write('key', noise, 1_000_000)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(root)], capture_output=True, check=True, text=True
    )
    assert done.stdout.startswith("StoreUnavailable repository 'repository': could not store")
    assert str(root) not in done.stdout
    assert not list(git_dir(root).rglob("tmp_obj_*"))


def test_a_broken_repository_is_unavailable_and_its_place_not_told(
    store: LocalStore, root: Path, base: CommitInfo
) -> None:
    objects = git_dir(root) / "objects"
    objects.rename(objects.with_name("elsewhere"))
    calls: list[Callable[[], object]] = [
        lambda: store.head(NAME, "main"),
        lambda: store.resolve(NAME, base.id),
        lambda: list(store.list(NAME, base.id, "")),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert str(root) not in str(caught.value)


def test_configuration_of_machine_and_user_has_no_influence(tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text("[init]\n defaultBranch = other\n[core\n broken")
    program = (
        "import sys; from pathlib import Path\n"
        "from perago_worker.adapters.local.store import LocalStore\n"
        "store = LocalStore(Path(sys.argv[1]))\n"
        "print(store.create_repository('repository') == store.head('repository', 'main'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
    )
    assert done.stdout == "True\n"


# --- repositories ---------------------------------------------------------------------------------


def test_a_repository_is_created_once(store: LocalStore, root: Path) -> None:
    created = store.create_repository("another", branch="trunk")
    assert created == store.head("another", "trunk")
    assert created.parents == ()
    assert store.has_repository("another")
    with pytest.raises(StoreRefused, match="'another' exists"):
        store.create_repository("another")
    assert store.head("another", "trunk") == created
    assert sorted(path.name for path in root.iterdir()) == ["another.git", "repository.git"]


def test_threads_that_create_the_same_repository_make_one(store: LocalStore) -> None:
    together = threading.Barrier(4)

    def create(_: int) -> str | None:
        together.wait()
        try:
            return store.create_repository("wanted").id
        except StoreRefused:
            return None

    with ThreadPoolExecutor(4) as pool:
        created = [each for each in pool.map(create, range(4)) if each]
    assert created == [store.head("wanted", "main").id]


@pytest.mark.parametrize("name", ["", "ab", "-abc", "Abc", "a_b_c", "a/b/c", "../abc", "a" * 64])
def test_a_repository_has_a_plain_name(store: LocalStore, name: str) -> None:
    with pytest.raises(StoreRefused):
        store.create_repository(name)
    with pytest.raises(NotFound):
        store.head(name, "main")
    assert not store.has_repository(name)


def test_a_branch_git_has_no_name_for_creates_nothing(store: LocalStore, root: Path) -> None:
    for branch in ("", "two words", "a..b", "x.lock"):
        with pytest.raises(StoreRefused):
            store.create_repository("another", branch=branch)
        with pytest.raises(NotFound):
            store.head(NAME, branch)
    assert [path.name for path in root.iterdir()] == ["repository.git"]


def test_a_root_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "nowhere")
    with pytest.raises(StoreUnavailable):
        store.ping()
    with pytest.raises(NotFound):
        store.head(NAME, "main")
    store.create_repository(NAME)
    store.ping()


def test_an_import_adds_and_overwrites(store: LocalStore, root: Path, directory: Path) -> None:
    git_commit(root, {"kept": b"1", "a": b"old"})
    fill(directory, {"a": b"new", "dir/ü b": b"2", "dir/empty": b""})
    (directory / "no-files").mkdir()
    before = store.head(NAME, "main")
    head = store.import_directory(NAME, "main", directory, "Import")
    assert head == store.head(NAME, "main")
    assert (head.parents, head.message) == ((before.id,), "Import")
    keys = [each.key for each in store.list(NAME, head.id, "")]
    assert keys == ["a", "dir/empty", "dir/ü b", "kept"]
    assert read(store, head.id, "a") == b"new"
    assert store.import_directory(NAME, "main", directory, "Again") == head


def test_an_import_creates_what_is_missing(root: Path, directory: Path) -> None:
    store = LocalStore(root)
    fill(directory, {"a": b"1"})
    first = store.import_directory("fresh", "main", directory, "Import")
    assert [each.message for each in store.history("fresh", "main", limit=9)] == [
        "Import",
        "Create branch main",
    ]
    other = store.import_directory("fresh", "other", directory, "Import")
    assert other.tree == first.tree
    assert store.head("fresh", "main") == first


def test_an_import_takes_regular_files_only(store: LocalStore, directory: Path) -> None:
    before = store.head(NAME, "main")
    fill(directory, {"sub/a": b"1"})
    with unusual_files(directory / "sub") as kinds:
        for path, kind in kinds.items():
            parked = [each.rename(directory.parent / each.name) for each in kinds if each != path]
            with pytest.raises(StoreRefused, match=f"'sub/{path.name}' is a {kind}"):
                store.import_directory(NAME, "main", directory, "Import")
            for each in parked:
                each.rename(directory / "sub" / each.name)
    assert store.head(NAME, "main") == before


@pytest.mark.parametrize("name", [b"\xff", b".git"])
def test_an_import_names_the_file_that_git_cannot_hold(
    store: LocalStore, directory: Path, name: bytes
) -> None:
    Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).write_bytes(b"x")
    with pytest.raises(StoreRefused, match="cannot hold an object with the key '"):
        store.import_directory(NAME, "main", directory, "Import")


def test_an_import_from_nowhere_is_refused(store: LocalStore, directory: Path) -> None:
    fill(directory, {"file": b"1"})
    for missing in (directory / "nowhere", directory / "file"):
        with pytest.raises(StoreRefused, match="not a directory"):
            store.import_directory("fresh", "main", missing, "Import")
    assert not store.has_repository("fresh")


# --- what the tests are written with --------------------------------------------------------------


def staged(
    store: LocalStore, base: str, write: Mapping[str, bytes], *, name: str = "staged"
) -> CommitInfo:
    stage = store.stage(NAME, base, name)
    for key, content in write.items():
        stage.write(key, io.BytesIO(content), len(content))
    commit = stage.commit("Stage", {})
    store.drop_stage(NAME, name)
    return commit


def publish(
    store: LocalStore,
    source: CommitInfo,
    expected_head: str,
    *,
    metadata: Mapping[str, str] | None = None,
    timeout_s: float = 30,
) -> CommitInfo:
    return store.publish(
        NAME,
        "main",
        source=source,
        expected_head=expected_head,
        metadata=metadata or {},
        message="Publish",
        timeout_s=timeout_s,
    )


def read(store: LocalStore, commit: str, key: str) -> bytes:
    into = io.BytesIO()
    store.read(NAME, commit, key, into)
    return into.getvalue()


def git_dir(root: Path) -> Path:
    return root / f"{NAME}.git"


def git(root: Path, *args: str, stdin: bytes = b"") -> str:
    """Run plain git on the repository, without the configuration of whoever runs the tests."""
    who = {
        f"GIT_{role}_{part}": "else"
        for role in ("AUTHOR", "COMMITTER")
        for part in ("NAME", "EMAIL")
    }
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", f"--git-dir={git_dir(root)}", *args]
    done = subprocess.run(
        command, input=stdin, capture_output=True, check=False, env=os.environ | who | alone
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def git_commit(root: Path, write: Mapping[str, bytes], *, mode: str = "100644") -> str:
    """Commit on `main` as somebody else, by plain git; return the commit id."""
    head = git(root, "rev-parse", "main").strip()
    commands = [
        "commit refs/heads/main\n",
        "committer Else <else@localhost> now\n",
        f"data 5\nElse\n\nfrom {head}\n",
    ]
    for key, content in write.items():
        commands.append(f"M {mode} inline {key}\ndata {len(content)}\n{content.decode()}\n")
    git(root, "fast-import", "--quiet", "--date-format=now", stdin="".join(commands).encode())
    return git(root, "rev-parse", "main").strip()


def ancestors(root: Path, commit: str) -> set[str]:
    return set(git(root, "rev-list", commit).split())


def age_locks(root: Path) -> None:
    """Let a lock that a killed process may have left be an old one."""
    for lock in git_dir(root).joinpath("refs").rglob("*.lock"):
        os.utime(lock, (0, 0))


def fill(directory: Path, files: Mapping[str, bytes]) -> None:
    for key, content in files.items():
        path = directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def unusual_files(directory: Path) -> Iterator[dict[Path, str]]:
    """Make one file of every kind an import refuses, by path relative to where it is run."""
    link, pipe, endpoint = directory / "link", directory / "pipe", directory / "socket"
    link.symlink_to("a")
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(endpoint))
        yield {link: "symbolic link", pipe: "named pipe", endpoint: "socket"}
