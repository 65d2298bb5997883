"""Kept workspaces: the body finds what a download would have made, or a download is made."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from perago_worker import WorkspaceSpec
from perago_worker.adapters.local.store_stage import LocalStage
from perago_worker.attempt.codes import Code
from perago_worker.attempt.directories import SHELF_NAME
from perago_worker.attempt.manifest import DOWNLOADED_MTIME_NS, FileState
from perago_worker.attempt.pipeline import run_attempt
from perago_worker.attempt.refresh import UnfitError
from perago_worker.attempt.seal import Seal
from perago_worker.attempt.shelf import Kept, Shelf, first_open_for_writing
from perago_worker.attempt.workspace import Limits, Workspace
from perago_worker.errors import NotFound, StoreUnavailable
from perago_worker.events import Transferred, WorkspaceBrought, WorkspaceNotKept
from perago_worker.models import Change, CommitInfo, ObjectInfo, Outcome
from perago_worker.ports import WorkspaceStore
from perago_worker.task import TaskDefinition
from perago_worker.task import task as declare
from tests.support import REPOSITORY, HastyClock, Rig, contents, put, raising, rig
from tests.unit.attempt.test_workspace import Keys, retry

FILES: dict[str, str | bytes | None] = {
    "data/in.txt": "input",
    "data/sub/a.txt": "a",
    "data/sub/deeper/b.bin": b"\0\xff" * 1000,
    "data/empty": "",
    "elsewhere": "not below the prefix",
}


class Nothing(BaseModel):
    """No params, no result."""


Act = Callable[[Path], object]


class Body:
    """A task whose body does what it is told next."""

    def __init__(self) -> None:
        self.act: Act = lambda _: None

    def define(self, *, prefix: str = "data", read_only: bool = False) -> TaskDefinition:
        def fn(workspace: Path, params: Nothing) -> Nothing:
            self.act(workspace)
            return Nothing()

        fn.__annotations__ = {"workspace": Path, "params": Nothing, "return": Nothing}
        spec = WorkspaceSpec(prefix=prefix, read_only=read_only)
        name = "test.reader" if read_only else "test.writer"
        return TaskDefinition.of(declare(name=name, owner_email="a@b.c", workspace=spec)(fn))


class Place:
    """One worker whose attempts come one after the other, each from the branch's head."""

    def __init__(self, here: Rig) -> None:
        self.here = here
        self.body = Body()
        self.writer = self.body.define()
        self.reader = self.body.define(read_only=True)
        self.seen: Tree = {}

    def run(self, act: Act = lambda _: None, definition: TaskDefinition | None = None) -> Outcome:
        """Carry out an attempt that completes; remember what its body found."""
        outcome = self.end(act, definition)
        assert outcome.kind == "completed", outcome.reason
        return outcome

    def end(self, act: Act, definition: TaskDefinition | None = None) -> Outcome:
        """Carry out an attempt, however it ends."""

        def look_and_act(workspace: Path) -> None:
            self.seen = tree(workspace)
            act(workspace)

        self.body.act = look_and_act
        definition = definition or self.writer
        ref = {"workspace": self.here.workspace_input(ref=self.here.head().id)}
        self.here.submit(definition, **ref)
        return run_attempt(self.here.attempt(definition, self.here.poll(definition)))

    def source(self) -> str:
        return self.here.recorder.of(WorkspaceBrought)[-1].source

    def fetched(self) -> tuple[int, int]:
        last = [e for e in self.here.recorder.of(Transferred) if e.direction == "download"][-1]
        return last.objects, last.skipped_bytes

    def kept(self) -> list[Path]:
        shelf = self.here.root / "work" / "owner" / SHELF_NAME
        return sorted(shelf.iterdir()) if shelf.is_dir() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with rig(tmp_path / "rig", clock=HastyClock()) as here:
        here.start = put(here.local_store, FILES)
        yield Place(here)


class Entry(NamedTuple):
    mode: int
    mtime_ns: int
    content: bytes


Tree = dict[str, Entry]


def tree(root: Path) -> Tree:
    """Return everything about a directory that a body could tell."""
    found: Tree = {}
    for path in root.rglob("*"):
        state = path.lstat()
        is_file = stat.S_ISREG(state.st_mode)
        found[str(path.relative_to(root))] = Entry(
            state.st_mode,
            state.st_mtime_ns if is_file else 0,
            path.read_bytes() if is_file else b"",
        )
    return found


def cold(here: Rig, commit: str, at: Path, prefix: str = "data") -> Tree:
    """Return what a download makes."""
    shutil.rmtree(at, ignore_errors=True)
    at.mkdir()
    workspace = Workspace(at, store=here.local_store, repository=REPOSITORY, prefix=prefix)
    workspace.download(
        commit, limits=Limits(objects=1000), threads=2, retry=retry(), check=lambda: None
    )
    return tree(at)


class TestAttempts:
    def test_the_second_one_brings_only_what_has_changed(self, place: Place) -> None:
        place.run(lambda ws: (ws / "out").write_text("made"))
        put(place.here.local_store, {"data/in.txt": "other"})
        listings = place.here.store.calls("list")

        place.run(lambda ws: (ws / "sub/a.txt").write_text("A"))

        assert place.source() == "warm"
        assert place.fetched() == (1, 2001 + 4)
        assert place.here.store.calls("list") == listings
        assert place.seen["in.txt"].content == b"other"
        assert place.seen["out"] == Entry(0o100644, DOWNLOADED_MTIME_NS, b"made")
        assert contents(place.here.local_store, place.here.head().id)["data/sub/a.txt"] == b"A"

    def test_the_same_commit_costs_no_question(self, place: Place) -> None:
        place.run()
        place.run()

        assert place.source() == "warm"
        assert place.here.store.calls("changes") == 0
        assert place.here.store.calls("read") == 4

    def test_what_was_written_in_the_prior_attempt_is_no_change_of_the_next(
        self, place: Place
    ) -> None:
        place.run(lambda ws: (ws / "in.txt").write_text("mine"))
        assert place.run().code == Code.NO_OP

    def test_a_reader_and_a_writer_share(self, place: Place) -> None:
        place.run(definition=place.reader)
        place.run(lambda ws: (ws / "in.txt").write_text("mine"))
        assert place.source() == "warm"
        place.run(definition=place.reader)
        assert place.source() == "warm"

    def test_what_a_reader_wrote_is_gone(self, place: Place) -> None:
        before = cold(place.here, place.here.head().id, place.here.root / "cold")

        def spoil(ws: Path) -> None:
            (ws / "in.txt").write_text("INPUT")
            (ws / "extra/folder").mkdir(parents=True)
            (ws / "extra/file").touch()
            shutil.rmtree(ws / "sub")

        place.run(spoil, place.reader)
        place.run()

        assert place.source() == "warm"
        assert place.seen == before

    def test_an_attempt_that_fails_leaves_nothing(self, place: Place) -> None:
        outcome = place.end(lambda _: raising(ValueError("no"))())

        assert outcome.code == Code.TASK_EXCEPTION
        assert place.kept() == []

    @pytest.mark.parametrize(
        ("act", "why"),
        [
            (lambda ws: (ws / "link").symlink_to("in.txt"), "a link or a special file"),
            (lambda ws: os.mkfifo(ws / "pipe"), "a link or a special file"),
            (lambda ws: (ws / "sub/again").hardlink_to(ws / "in.txt"), "a link or a special file"),
            (lambda ws: (ws / "sub").chmod(0o700), "the permissions of a directory"),
        ],
        ids=["symbolic link", "pipe", "hard link", "permissions"],
    )
    def test_what_is_odd_is_not_used(self, place: Place, act: Act, why: str) -> None:
        before = cold(place.here, place.here.head().id, place.here.root / "cold")
        place.run(act, place.reader)
        place.run()

        brought = place.here.recorder.of(WorkspaceBrought)[-1]
        assert brought.source == "unfit"
        assert why in brought.detail
        assert place.seen == before

    def test_a_file_that_is_still_open_for_writing_is_not_handed_on(self, place: Place) -> None:
        """What is written to it later would be taken for the next attempt's work."""
        left = []
        place.run(lambda ws: left.append((ws / "log").open("w")))

        (told,) = place.here.recorder.of(WorkspaceNotKept)
        assert told.reason == "file 'log' is still open for writing"
        assert place.kept() == []
        left[0].close()

    def test_a_change_that_breaks_no_seal_is_not_published(
        self, place: Place, tmp_path: Path
    ) -> None:
        """By a name elsewhere: nothing in the watched directories was opened or changed."""
        place.run()
        before = place.here.head()
        (kept,) = place.kept()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.hardlink_to(kept / "in.txt")
        elsewhere.write_text("INPUT")
        elsewhere.unlink()
        wait_for_a_later_time(tmp_path / "clock")

        outcome = place.end(lambda ws: (ws / "out").touch())

        assert place.seen["in.txt"].content == b"INPUT"
        assert outcome.code == Code.WORKSPACE_CHANGED
        assert "file 'in.txt' was changed before the body began" in outcome.reason
        assert place.here.head() == before
        assert place.kept() == []

    @pytest.mark.parametrize(
        "act",
        [
            lambda kept: (kept / "in.txt").write_text("INPUT"),
            lambda kept: (kept / "in.txt").unlink(),
            lambda kept: (kept / "extra").touch(),
        ],
        ids=["written", "deleted", "made"],
    )
    def test_what_was_done_to_it_meanwhile_is_undone(self, place: Place, act: Act) -> None:
        before = cold(place.here, place.here.head().id, place.here.root / "cold")
        place.run()
        (kept,) = place.kept()
        act(kept)

        assert place.run().code == Code.NO_OP
        assert place.source() == "warm"
        assert place.seen == before

    def test_one_that_is_as_it_was_is_not_looked_at(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place.run(lambda ws: (ws / "sub/out").write_text("made"))
        put(place.here.local_store, {"data/in.txt": "other", "data/new/file": "1"})
        monkeypatch.setattr("perago_worker.attempt.refresh.look", refusing(AssertionError()))
        before = cold(place.here, place.here.head().id, place.here.root / "cold")
        place.run(lambda ws: (ws / "sub/out").unlink())

        assert place.source() == "warm"
        assert place.seen == before

    @pytest.mark.parametrize("error", [NotFound("commit", "x"), OSError(5, "broken")])
    def test_a_difference_that_cannot_be_told_is_a_download(
        self, place: Place, error: Exception
    ) -> None:
        place.run(lambda ws: (ws / "in.txt").write_text("1"))
        put(place.here.local_store, {"data/in.txt": "2"})
        place.here.store.before("changes", raising(error))
        place.run()

        assert place.source() == "unfit"
        assert place.seen["in.txt"].content == b"2"

    def test_a_difference_is_asked_for_again(self, place: Place) -> None:
        place.run()
        put(place.here.local_store, {"data/in.txt": "2"})
        place.here.store.before("changes", raising(StoreUnavailable("away")), nth=1)
        place.run()

        assert place.source() == "warm"

    def test_a_full_disk_is_made_room_on(self, place: Place) -> None:
        place.run()
        place.here.store.before("read", raising(OSError(28, "No space left on device")), nth=1)
        place.run(definition=place.body.define(prefix="other"))

        assert place.kept() != []
        assert place.source() == "cold"

    def test_closing_removes_what_is_kept(self, place: Place) -> None:
        place.run()
        assert len(place.kept()) == 1
        place.here.directories.close()
        assert not (place.here.root / "work" / "owner").exists()


def wait_for_a_later_time(probe: Path) -> None:
    """Wait until files get another time than one that is changed now."""
    probe.touch()
    first = probe.stat().st_ctime_ns
    give_up_at = time.monotonic() + 10
    while probe.stat().st_ctime_ns == first:
        assert time.monotonic() < give_up_at
        os.utime(probe)


@pytest.mark.parametrize("written", [False, True], ids=["alone", "beside a file"])
def test_a_deletion_without_effect_is_not_published(
    place: Place, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """A store answers alike whether it did anything."""
    monkeypatch.setattr(LocalStage, "delete", lambda *_: None)
    before = place.here.head()

    def act(workspace: Path) -> None:
        (workspace / "in.txt").unlink()
        if written:
            (workspace / "out").touch()

    outcome = place.end(act)

    assert outcome.code == Code.STAGE_FAILED
    assert "object 'data/in.txt' was deleted and is still there" in outcome.reason
    assert place.here.head() == before


# --- the same as a download -----------------------------------------------------------------------

names = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a", "c"])
texts = st.sampled_from(["", "1", "2", "x" * 3000])


class Write(NamedTuple):
    path: str
    text: str


class Delete(NamedTuple):
    path: str


class Touch(NamedTuple):
    path: str


class Folder(NamedTuple):
    path: str


moves = st.one_of(
    st.builds(Write, names, texts),
    st.builds(Delete, names),
    st.builds(Touch, names),
    st.builds(Folder, names),
)
Move = Write | Delete | Touch | Folder


def carry_out(workspace: Path, move: Move) -> None:
    """Do what a body might, making room for it first."""
    path = workspace / move.path
    match move:
        case Delete() | Write() if path.is_dir():
            shutil.rmtree(path)
        case Delete() if path.is_file():
            path.unlink()
        case Touch() if path.exists():
            os.utime(path)
        case _:
            pass
    if isinstance(move, Write | Folder):
        for parent in path.relative_to(workspace).parents:
            if (workspace / parent).is_file():
                (workspace / parent).unlink()
        if isinstance(move, Write):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(move.text)
        elif not path.is_file():
            path.mkdir(parents=True, exist_ok=True)


def carry_out_all(moves: list[Move], workspace: Path) -> None:
    for move in moves:
        carry_out(workspace, move)


def by_others(here: Rig, move: Move) -> None:
    """Do the same on the branch, where it can be."""
    keys = contents(here.local_store, here.head().id)
    key = f"data/{move.path}"
    inner = {each: None for each in keys if each.startswith(f"{key}/")}
    outer = {each: None for each in keys if each.startswith("data/") and key.startswith(f"{each}/")}
    match move:
        case Write(_, text) if keys.get(key) != text.encode():
            put(here.local_store, {**inner, **outer, key: text})
        case Delete() if key in keys:
            put(here.local_store, {key: None})


steps = st.lists(
    st.tuples(st.sampled_from(["body", "reader", "others"]), st.lists(moves, max_size=4)),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=steps)
def test_a_body_finds_what_a_download_makes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[Move]]]
) -> None:
    root = tmp_path_factory.mktemp("warm")
    with rig(root / "rig") as here:
        place = Place(here)
        sources: list[str] = []
        for who, todo in steps:
            if who == "others":
                for move in todo:
                    by_others(here, move)
                continue
            expected = cold(here, here.head().id, root / "cold")
            definition = place.reader if who == "reader" else place.writer
            place.run(partial(carry_out_all, todo), definition)
            assert place.seen == expected
            sources.append(place.source())
        assert sources == ["cold", *["warm"] * (len(sources) - 1)][: len(sources)]
    shutil.rmtree(root)


# --- keys no git tree holds -----------------------------------------------------------------------


class Versions(Keys):
    """A store of commits `0`, `1`, ... each with any keys."""

    def __init__(self, beneath: WorkspaceStore, commits: list[Mapping[str, bytes]]) -> None:
        super().__init__(beneath, {})
        self._commits = commits

    def at(self, commit: str) -> dict[str, ObjectInfo]:
        self._objects = self._commits[int(commit)]
        return {info.key: info for info in super().list(REPOSITORY, commit, "")}

    def list(self, repository: str, commit: str, prefix: str) -> Iterator[ObjectInfo]:
        yield from (info for key, info in sorted(self.at(commit).items()) if key.startswith(prefix))

    def changes(self, repository: str, base: str, commit: str, prefix: str) -> Iterator[Change]:
        before, after = self.at(base), self.at(commit)
        for key in sorted(before.keys() | after.keys()):
            if key.startswith(prefix) and before.get(key) != after.get(key):
                yield Change(key=key, now=after.get(key))

    def read(
        self, repository: str, commit: str, key: str, into: io.BytesIO, **_: int | None
    ) -> int:
        return into.write(self._commits[int(commit)][key])


class TestKeys:
    @pytest.fixture
    def bring(
        self, place: Place, tmp_path: Path
    ) -> Callable[[Mapping[str, bytes], Mapping[str, bytes]], Workspace]:
        """Download one commit, then make of its workspace the other."""

        def run(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> Workspace:
            store = cast("WorkspaceStore", Versions(place.here.local_store, [first, second]))
            (tmp_path / "ws").mkdir()
            workspace = Workspace(
                tmp_path / "ws", store=store, repository=REPOSITORY, prefix="data"
            )
            how = {"threads": 2, "retry": retry(), "check": lambda: None}
            workspace.download("0", limits=Limits(objects=5), **how)  # type: ignore[arg-type]
            kept = Kept(
                tmp_path / "ws",
                REPOSITORY,
                "data",
                "0",
                workspace.manifest,
                frozenset(workspace.markers),
            )
            workspace.refresh(kept, "1", limits=Limits(objects=5), **how)  # type: ignore[arg-type]
            return workspace

        return run

    def test_markers_come_and_go(self, bring: Callable[..., Workspace]) -> None:
        workspace = bring(
            {"data/": b"", "data/a/": b"", "data/b/": b"", "data/b/file": b""},
            {"data/b/": b"", "data/c/d/": b""},
        )

        assert sorted(tree(workspace.directory)) == ["b", "c", "c/d"]

    @pytest.mark.parametrize(
        "objects",
        [
            {"data/../../escape": b"1"},
            {"data//x": b"1"},
            {"data/nul\0": b"1"},
            {"data/marker/": b"holds something"},
            {"data/a": b"1", "data/a/b": b"2"},
            {"data/a": b"1", "data/a/": b""},
            {f"data/{number}": b"" for number in range(6)},
        ],
    )
    def test_what_a_download_refuses_is_left_to_it(
        self, bring: Callable[..., Workspace], tmp_path: Path, objects: Mapping[str, bytes]
    ) -> None:
        before = {path for path in tmp_path.iterdir() if path.name != "ws"}

        with pytest.raises(UnfitError):
            bring({"data/first": b""}, objects)
        assert {path for path in tmp_path.iterdir() if path.name != "ws"} == before

    def test_what_belongs_to_the_repository_stays_out(
        self, place: Place, bring: Callable[..., Workspace]
    ) -> None:
        workspace = bring({"data/a": b"1"}, {"data/a": b"2", "_perago/heads/main": b"x"})

        assert sorted(tree(workspace.directory)) == ["a"]


# --- the shelf ------------------------------------------------------------------------------------


def refusing(error: Exception) -> Callable[..., object]:
    """Return a function that raises, whatever it is called with."""

    def refuse(*_: object) -> object:
        raise error

    return refuse


def sealed(kept: Kept) -> Seal:
    assert kept.seal is not None
    return kept.seal


class TestShelf:
    def kept(self, tmp_path: Path, commit: CommitInfo | str, prefix: str = "data") -> Kept:
        directory = tmp_path / f"{prefix}-{commit}"
        directory.mkdir()
        (directory / "file").touch()
        return self.state_of(directory, str(commit), prefix)

    def state_of(self, directory: Path, commit: str, prefix: str = "data") -> Kept:
        state = FileState.of((directory / "file").lstat(), "x")
        return Kept(directory, REPOSITORY, prefix, commit, {"file": state}, frozenset())

    def test_the_one_at_the_same_commit_is_the_best(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path / "shelf", size=3)
        for commit in ("1", "2", "3"):
            assert shelf.put(self.kept(tmp_path, commit)) == ""

        wanted = ("2", "2", "2")
        taken = [shelf.take(repository=REPOSITORY, prefix="data", commit=c) for c in wanted]
        assert [kept and kept.commit for kept in taken] == ["2", "3", "1"]
        assert shelf.take(repository=REPOSITORY, prefix="data", commit="2") is None

    def test_others_are_not_handed_out(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path / "shelf", size=3)
        shelf.put(self.kept(tmp_path, "1"))

        assert shelf.take(repository=REPOSITORY, prefix="dat", commit="1") is None
        assert shelf.take(repository="another", prefix="data", commit="1") is None

    def test_the_oldest_makes_room(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path / "shelf", size=2)
        for commit in ("1", "2", "3"):
            shelf.put(self.kept(tmp_path, commit))

        assert len(list((tmp_path / "shelf").iterdir())) == 2
        taken = shelf.take(repository=REPOSITORY, prefix="data", commit="1")
        assert taken is not None
        assert taken.commit == "3"

    def test_none_keeps_nothing(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path / "shelf", size=0)
        kept = self.kept(tmp_path, "1")

        assert shelf.put(kept) == ""
        assert kept.directory.is_dir()
        assert not (tmp_path / "shelf").exists()

    def test_where_there_are_no_leases_it_is_said_once_and_nothing_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        no_leases = refusing(OSError(errno.EINVAL, "Invalid argument"))
        monkeypatch.setattr("perago_worker.attempt.shelf.first_open_for_writing", no_leases)
        shelf = Shelf(tmp_path / "shelf", size=3)

        assert shelf.put(self.kept(tmp_path, "1")).endswith(
            "Invalid argument; the file system has no leases, and no workspace will be kept"
        )
        assert shelf.put(self.kept(tmp_path, "2")) == ""
        assert list((tmp_path / "shelf").iterdir()) == []

    def test_one_that_cannot_be_checked_is_no_reason_not_to_keep_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shelf = Shelf(tmp_path / "shelf", size=3)
        with monkeypatch.context() as meanwhile:
            failure = refusing(OSError(errno.ENOLCK, "No locks available"))
            meanwhile.setattr("perago_worker.attempt.shelf.first_open_for_writing", failure)
            assert "No locks available" in shelf.put(self.kept(tmp_path, "1"))

        assert shelf.put(self.kept(tmp_path, "2")) == ""
        assert len(list((tmp_path / "shelf").iterdir())) == 1

    def test_what_was_put_away_and_left_alone_is_sealed(self, tmp_path: Path) -> None:
        assert sealed(self.shelved(tmp_path)).holds()

    @pytest.mark.parametrize(
        "act",
        [
            lambda kept: (kept / "file").read_bytes(),
            lambda kept: (kept / "file").write_bytes(b"1"),
            lambda kept: os.utime(kept / "file"),
            lambda kept: os.truncate(kept / "file", 1),
            lambda kept: (kept / "file").chmod(0o600),
            lambda kept: (kept / "file").unlink(),
            lambda kept: (kept / "file").rename(kept / "other"),
            lambda kept: (kept / "folder").mkdir(),
            lambda kept: (kept / "link").symlink_to("file"),
            lambda kept: list(kept.iterdir()),
        ],
        ids=["read", "write", "touch", "cut", "mode", "delete", "move", "folder", "link", "list"],
    )
    def test_any_touch_breaks_a_seal(self, tmp_path: Path, act: Act) -> None:
        kept = self.shelved(tmp_path)
        act(kept.directory)

        assert not sealed(kept).holds()

    def test_moving_all_of_it_does_not(self, tmp_path: Path) -> None:
        kept = self.shelved(tmp_path)
        kept.directory.rename(tmp_path / "taken")

        assert sealed(kept).holds()
        (tmp_path / "taken/file").touch()
        assert not sealed(kept).holds()

    def test_one_that_is_touched_leaves_others_sealed(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path / "shelf", size=2)
        first, second = (self.shelved(tmp_path, shelf, commit) for commit in "12")
        (first.directory / "file").touch()

        assert (sealed(first).holds(), sealed(second).holds()) == (False, True)
        sealed(first).end()
        first.directory.rename(tmp_path / "data-1")
        assert shelf.put(self.state_of(tmp_path / "data-1", "1")) == ""
        again = shelf.take(repository=REPOSITORY, prefix="data", commit="1")
        assert again is not None
        assert (sealed(again).holds(), sealed(second).holds()) == (True, True)

    @pytest.mark.parametrize(
        "act",
        [
            lambda kept: (kept / "more").touch(),
            lambda kept: (kept / "folder").mkdir(),
            lambda kept: (kept / "file").write_bytes(b"1"),
            lambda kept: (kept / "file").unlink(),
        ],
        ids=["file", "folder", "write", "delete"],
    )
    def test_what_is_not_as_its_manifest_says_is_kept_without_one(
        self, tmp_path: Path, act: Act
    ) -> None:
        assert self.shelved(tmp_path, act=act).seal is None

    def test_too_many_directories_are_kept_without_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("perago_worker.attempt.seal.MAX_FOLDERS", 0)

        assert self.shelved(tmp_path).seal is None

    def test_where_nothing_can_be_watched_it_is_kept_without_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("perago_worker.attempt.seal.Watcher", refusing(OSError(24, "too many")))

        assert self.shelved(tmp_path).seal is None

    def test_no_seal_holds_when_the_shelf_is_closed(self, tmp_path: Path) -> None:
        shelf = Shelf(tmp_path / "shelf", size=1)
        kept = self.shelved(tmp_path, shelf)
        shelf.close()

        assert not sealed(kept).holds()
        sealed(kept).end()

    def shelved(
        self,
        tmp_path: Path,
        shelf: Shelf | None = None,
        commit: str = "1",
        *,
        act: Act = lambda _: None,
    ) -> Kept:
        """Put one away and take it again."""
        shelf = shelf or Shelf(tmp_path / "shelf", size=1)
        kept = self.kept(tmp_path, commit)
        act(kept.directory)
        assert shelf.put(kept) == ""
        taken = shelf.take(repository=REPOSITORY, prefix="data", commit=commit)
        assert taken is not None
        return taken

    def test_open_files_are_found_whoever_has_them_and_however(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("x")
        assert first_open_for_writing(tmp_path, ["missing", "file"]) is None
        with path.open("r+"):
            assert first_open_for_writing(tmp_path, ["missing", "file"]) == "file"
        with path.open("r"):
            assert first_open_for_writing(tmp_path, ["file"]) is None
