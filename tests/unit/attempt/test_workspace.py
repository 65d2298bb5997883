"""The files of an attempt: brought whole, and told apart from what the body made of them."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from perago_worker.attempt.backoff import Retry
from perago_worker.attempt.codes import Code
from perago_worker.attempt.keys import show
from perago_worker.attempt.manifest import DOWNLOADED_MTIME_NS
from perago_worker.attempt.removal import remove_tree
from perago_worker.attempt.scan import open_regular, scan
from perago_worker.attempt.workspace import Changes, Limits, Workspace
from perago_worker.errors import (
    NotFound,
    RetryableAttemptError,
    StoreUnavailable,
    TerminalAttemptError,
)
from perago_worker.models import ObjectInfo
from perago_worker.ports import Digest, WorkspaceStore
from tests.support import (
    REPOSITORY,
    Faulty,
    HastyClock,
    Rig,
    contents,
    nest,
    put,
    raising,
    rig,
)

FILES: dict[str, str | bytes | None] = {
    "data/in.txt": "input",
    "data/sub/a.txt": "a",
    "data/sub/deeper/b.bin": b"\0\xff" * 1000,
    "data/empty": "",
    "database": "not below the prefix",
}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as opened:
        opened.start = put(opened.local_store, FILES)
        yield opened


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty workspace directory with a short way to it."""
    made = tmp_path / "ws"
    made.mkdir()
    return made


Open = Callable[..., Workspace]


@pytest.fixture
def download(here: Rig, directory: Path) -> Open:
    """Download the start commit's files, from the store or one with other objects."""

    def run(
        *,
        prefix: str = "data",
        limits: Limits | None = None,
        store: WorkspaceStore | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Workspace:
        workspace = Workspace(
            directory, store=store or here.store.as_store(), repository=REPOSITORY, prefix=prefix
        )
        workspace.download(
            here.start.id,
            limits=limits or Limits(objects=100),
            threads=4,
            retry=retry(),
            check=check,
        )
        return workspace

    return run


@pytest.fixture
def workspace(download: Open) -> Workspace:
    return download()


def retry(tries: int = 3) -> Retry:
    return Retry(
        StoreUnavailable,
        tries=tries,
        first_s=1,
        cap_s=4,
        factor=2,
        clock=HastyClock(),
        stop=threading.Event(),
        check=lambda: None,
    )


def local_files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


class Keys:
    """A store of objects with keys that no file system and no git tree would hold."""

    def __init__(self, beneath: WorkspaceStore, objects: Mapping[str, bytes]) -> None:
        self._beneath = beneath
        self._objects = objects

    def list(self, repository: str, commit: str, prefix: str) -> Iterator[ObjectInfo]:
        for key, data in self._objects.items():
            digest = self.new_digest(len(data))
            digest.update(data)
            yield ObjectInfo(key=key, size=len(data), checksum=digest.hexdigest())

    def read(
        self, repository: str, commit: str, key: str, into: io.BytesIO, **_: int | None
    ) -> int:
        return into.write(self._objects[key])

    def new_digest(self, size: int) -> Digest:
        return self._beneath.new_digest(size)

    @classmethod
    def over(cls, here: Rig, objects: Mapping[str, bytes]) -> WorkspaceStore:
        return cast("WorkspaceStore", cls(here.local_store, objects))


class TestDownload:
    def test_every_object_of_the_prefix_comes_and_nothing_else(
        self, workspace: Workspace, directory: Path
    ) -> None:
        assert local_files(directory) == {
            "in.txt": b"input",
            "sub/a.txt": b"a",
            "sub/deeper/b.bin": b"\0\xff" * 1000,
            "empty": b"",
        }
        assert set(workspace.manifest) == set(local_files(directory))

    def test_the_whole_repository_is_a_prefix_too(
        self, here: Rig, download: Open, directory: Path
    ) -> None:
        download(prefix="/")

        assert local_files(directory) == contents(here.local_store, here.start.id)

    def test_a_prefix_without_objects_is_an_empty_workspace(
        self, download: Open, directory: Path
    ) -> None:
        assert download(prefix="nothing").manifest == {}
        assert list(directory.iterdir()) == []

    def test_files_look_long_past(self, workspace: Workspace, directory: Path) -> None:
        assert (directory / "in.txt").stat().st_mtime_ns == DOWNLOADED_MTIME_NS

    def test_directory_markers_become_directories(
        self, here: Rig, download: Open, directory: Path
    ) -> None:
        download(store=Keys.over(here, {"data/": b"", "data/raw/": b"", "data/raw/in": b"x"}))

        assert local_files(directory) == {"raw/in": b"x"}

    def test_what_belongs_to_the_repository_stays_out(
        self, here: Rig, download: Open, directory: Path
    ) -> None:
        """A body that could change the fence could switch it off for its own publication."""
        keys = {"_lakefs_actions/fence.yaml": b"hook", "_perago/heads/main": b"x", "in": b"y"}
        workspace = download(store=Keys.over(here, keys), prefix="/")

        assert local_files(directory) == {"in": b"y"}
        assert not workspace.changes()
        (directory / "_lakefs_actions").mkdir()
        (directory / "_lakefs_actions/fence.yaml").write_text("another hook")
        with pytest.raises(RetryableAttemptError, match="is not for workspaces") as raised:
            workspace.changes()
        assert raised.value.code == Code.FILE_REFUSED

    @pytest.mark.parametrize(
        ("objects", "refused"),
        [
            ({"data/a": b"", "data/a/b": b""}, "data/a/b"),
            ({"data/a/b": b"", "data/a": b""}, "data/a"),
            ({"data/a": b"", "data/a/": b""}, "data/a/"),
            ({"data/a/": b"", "data/a": b""}, "data/a"),
            ({"data/a/b/c": b"", "data/a": b""}, "data/a"),
        ],
    )
    def test_one_name_cannot_be_a_file_and_a_directory(
        self, here: Rig, download: Open, objects: dict[str, bytes], refused: str
    ) -> None:
        with pytest.raises(TerminalAttemptError) as raised:
            download(store=Keys.over(here, objects))
        assert raised.value.code == Code.KEY_REFUSED
        assert f"object key '{refused}' cannot be a file" in raised.value.reason
        assert "'a' would be a file and a directory at once" in raised.value.reason

    @pytest.mark.parametrize(
        "key", ["data/../../escape", "data//x", "data/..", "data/nul\0", "data/\ufffd", "data/./x"]
    )
    def test_keys_that_cannot_be_files_are_refused_by_name(
        self, here: Rig, download: Open, tmp_path: Path, key: str
    ) -> None:
        before = sorted(tmp_path.iterdir())

        with pytest.raises(TerminalAttemptError) as raised:
            download(store=Keys.over(here, {"data/fine": b"1", key: b"2"}))
        assert raised.value.code == Code.KEY_REFUSED
        assert show(key) in raised.value.reason
        assert sorted(tmp_path.iterdir()) == before

    def test_a_marker_that_holds_something_is_refused(self, here: Rig, download: Open) -> None:
        with pytest.raises(TerminalAttemptError, match="ends in '/' and holds 3 bytes"):
            download(store=Keys.over(here, {"data/raw/": b"abc"}))

    def test_odd_names_come_as_they_are(self, here: Rig, download: Open, directory: Path) -> None:
        names = [
            "new\nline",
            "-rf",
            "\u202e",
            "e\u0301",
            "\u00e9",
            "Case",
            "case",
            "a\\b",
            "x" * 255,
        ]
        objects = {f"data/{name}": name.encode() for name in names}

        workspace = download(store=Keys.over(here, objects))

        assert local_files(directory) == {name: name.encode() for name in names}
        assert {workspace.key(name) for name in names} == set(objects)

    def test_directories_may_be_as_deep_as_a_key_is_long(
        self, here: Rig, download: Open, directory: Path
    ) -> None:
        key = "data/" + "d/" * 500 + "file"

        download(store=Keys.over(here, {key: b"deep"}))

        assert local_files(directory) == {key.removeprefix("data/"): b"deep"}

    @pytest.mark.parametrize(
        "limits", [Limits(objects=3), Limits(objects=4, bytes=2005), Limits(objects=0)]
    )
    def test_a_workspace_over_its_limits_is_refused(self, download: Open, limits: Limits) -> None:
        with pytest.raises(TerminalAttemptError) as raised:
            download(limits=limits)
        assert raised.value.code == Code.WORKSPACE_TOO_LARGE

    def test_a_workspace_at_its_limits_is_not(self, download: Open) -> None:
        assert len(download(limits=Limits(objects=4, bytes=2006)).manifest) == 4

    def test_it_stops_when_it_is_told_to(self, download: Open) -> None:
        with pytest.raises(InterruptedError):
            download(check=raising(InterruptedError()))

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_an_object_is_read_again_when_the_store_does_not_answer(
        self, here: Rig, download: Open, directory: Path, when: str
    ) -> None:
        """Also when the answer broke off after some bytes."""
        put_fault: Callable[..., None] = getattr(here.store, when)
        put_fault("read", raising(StoreUnavailable("away")), nth=1)
        put_fault("read", raising(StoreUnavailable("away")), nth=2)

        download()

        assert (directory / "in.txt").read_bytes() == b"input"
        assert here.store.calls("read") == 6

    def test_an_object_that_cannot_be_read_leaves_nothing(
        self, here: Rig, download: Open, directory: Path
    ) -> None:
        here.store.before("read", raising(StoreUnavailable("away")))

        with pytest.raises(StoreUnavailable):
            download()
        assert local_files(directory) == {}

    def test_an_object_that_is_gone_is_not_asked_for_again(self, here: Rig, download: Open) -> None:
        here.store.before("read", raising(NotFound("object", "x")))

        with pytest.raises(NotFound):
            download()
        assert here.store.calls("read") <= 4


class Damaging(Keys):
    """Every reading of an object holds what `readings` says, the last of them for ever."""

    def __init__(self, beneath: WorkspaceStore, readings: list[bytes], checksum_of: bytes) -> None:
        super().__init__(beneath, {"data/file": checksum_of})
        self.readings = readings

    def read(
        self, repository: str, commit: str, key: str, into: io.BytesIO, **_: int | None
    ) -> int:
        return into.write(self.readings.pop(0) if len(self.readings) > 1 else self.readings[0])


class TestDamage:
    def run(self, here: Rig, download: Open, readings: list[bytes]) -> Workspace:
        store = Damaging(here.local_store, readings, b"good")
        return download(store=cast("WorkspaceStore", store))

    def test_bytes_damaged_once_are_read_again(
        self, here: Rig, download: Open, directory: Path
    ) -> None:
        self.run(here, download, [b"bad!", b"good"])

        assert (directory / "file").read_bytes() == b"good"

    def test_bytes_that_are_the_same_twice_are_taken_with_their_own_checksum(
        self, here: Rig, download: Open, directory: Path
    ) -> None:
        """Objects that were imported keep a checksum that is not of their content."""
        workspace = self.run(here, download, [b"own!"])

        assert (directory / "file").read_bytes() == b"own!"
        assert not workspace.changes()

    def test_bytes_that_differ_from_reading_to_reading_are_damaged(
        self, here: Rig, download: Open, directory: Path
    ) -> None:
        readings = [bytes([number]) * 4 for number in range(100)]

        with pytest.raises(StoreUnavailable, match="'data/file' arrived damaged: checksums"):
            self.run(here, download, readings)
        assert list(directory.iterdir()) == []

    def test_too_few_bytes_are_damage(self, here: Rig, download: Open) -> None:
        with pytest.raises(StoreUnavailable, match="3 bytes, listed 4"):
            self.run(here, download, [b"goo"])


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


class TestChanges:
    def test_an_untouched_workspace_has_none(self, workspace: Workspace) -> None:
        changes = workspace.changes()

        assert not changes
        assert changes == Changes(written={}, deleted=(), kept_bytes=2006)

    def test_unchanged_files_are_not_read(self, workspace: Workspace, directory: Path) -> None:
        """What is no longer readable as what it was would be noticed."""
        before = {path: path.stat().st_atime_ns for path in directory.rglob("*")}
        assert before
        for path in before:
            os.utime(path, ns=(1, path.stat().st_mtime_ns))
        state = {
            p: workspace.manifest[str(p.relative_to(directory))] for p in before if p.is_file()
        }
        for path, was in state.items():
            # utime moved the change time; put what lstat says now into the manifest instead.
            found = path.lstat()
            fields = {"ctime_ns": found.st_ctime_ns, "checksum": "never computed"}
            workspace.manifest[str(path.relative_to(directory))] = type(was)(
                **{**was._asdict(), **fields}
            )

        assert not workspace.changes()

    def test_new_changed_and_deleted_files_are_told_apart(
        self, workspace: Workspace, directory: Path
    ) -> None:
        (directory / "new").mkdir()
        (directory / "new/file").write_bytes(b"123")
        (directory / "in.txt").write_text("other")
        (directory / "sub/a.txt").unlink()

        changes = workspace.changes()

        assert changes == Changes(
            written={"new/file": 3, "in.txt": 5}, deleted=("sub/a.txt",), kept_bytes=2000
        )
        assert changes

    def test_a_file_written_with_what_it_held_is_no_change(
        self, workspace: Workspace, directory: Path
    ) -> None:
        for rewrite in (self.in_place, self.replaced):
            rewrite(directory / "in.txt", b"input")
            assert not workspace.changes()

    @staticmethod
    def in_place(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    @staticmethod
    def replaced(path: Path, data: bytes) -> None:
        other = path.with_name("temporary")
        other.write_bytes(data)
        other.rename(path)

    @pytest.mark.parametrize("how", ["in_place", "replaced"])
    def test_a_change_is_noticed_though_size_and_time_are_as_before(
        self, workspace: Workspace, directory: Path, how: str
    ) -> None:
        """As with `rsync --times` or an archive that is unpacked."""
        path = directory / "in.txt"
        getattr(self, how)(path, b"INPUT")
        os.utime(path, ns=(DOWNLOADED_MTIME_NS, DOWNLOADED_MTIME_NS))

        assert workspace.changes().written == {"in.txt": 5}

    def test_files_that_swapped_names_have_changed(
        self, workspace: Workspace, directory: Path
    ) -> None:
        (directory / "other").write_bytes(b"other")
        (directory / "in.txt").rename(directory / "aside")
        (directory / "other").rename(directory / "in.txt")

        assert workspace.changes().written == {"in.txt": 5, "aside": 5}

    def test_a_file_may_become_a_directory_and_the_other_way_round(
        self, workspace: Workspace, directory: Path
    ) -> None:
        (directory / "in.txt").unlink()
        (directory / "in.txt").mkdir()
        (directory / "in.txt/inner").write_bytes(b"1")
        (directory / "sub/a.txt").unlink()
        (directory / "sub/deeper/b.bin").unlink()
        (directory / "sub/deeper").rmdir()
        (directory / "sub").rmdir()
        (directory / "sub").write_bytes(b"22")

        changes = workspace.changes()

        assert changes.written == {"in.txt/inner": 1, "sub": 2}
        assert changes.deleted == ("in.txt", "sub/a.txt", "sub/deeper/b.bin")

    def test_empty_directories_are_nothing(self, workspace: Workspace, directory: Path) -> None:
        (directory / "empty folder/in one").mkdir(parents=True)

        assert not workspace.changes()

    def test_the_mode_of_a_file_is_not_published(
        self, workspace: Workspace, directory: Path
    ) -> None:
        (directory / "in.txt").chmod(0o755)

        assert not workspace.changes()

    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (lambda path: path.symlink_to("in.txt"), "symbolic link; write a regular file instead"),
            (lambda path: path.symlink_to("/etc/passwd"), "symbolic link"),
            (lambda path: path.symlink_to("sub"), "symbolic link"),
            (lambda path: path.symlink_to("nowhere"), "symbolic link"),
            (os.mkfifo, "named pipe"),
            (bind, "socket"),
        ],
        ids=[
            "link to a file",
            "link outside",
            "link to a directory",
            "broken link",
            "fifo",
            "socket",
        ],
    )
    def test_what_is_no_regular_file_is_refused_by_name(
        self, workspace: Workspace, directory: Path, make: Callable[[Path], object], why: str
    ) -> None:
        make(directory / "odd")

        with pytest.raises(RetryableAttemptError) as raised:
            workspace.changes()
        assert raised.value.code == Code.FILE_REFUSED
        assert f"file 'odd' cannot be published: it is a {why}" in raised.value.reason

    def test_a_downloaded_file_that_became_a_link_is_refused(
        self, workspace: Workspace, directory: Path
    ) -> None:
        (directory / "in.txt").rename(directory / "aside")
        (directory / "in.txt").symlink_to("aside")

        with pytest.raises(RetryableAttemptError, match=r"in\.txt"):
            workspace.changes()

    def test_a_hard_link_to_outside_is_refused_by_name(
        self, workspace: Workspace, directory: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "outside").write_text("outside")
        (directory / "hard").hardlink_to(tmp_path / "outside")

        with pytest.raises(
            RetryableAttemptError, match="file 'hard' cannot be published: it is a hard"
        ):
            workspace.changes()

    def test_two_inside_and_one_outside_is_outside(
        self, workspace: Workspace, directory: Path, tmp_path: Path
    ) -> None:
        (directory / "one").write_text("x")
        (directory / "two").hardlink_to(directory / "one")
        (tmp_path / "outside").hardlink_to(directory / "one")

        with pytest.raises(RetryableAttemptError, match="hard link"):
            workspace.changes()

    def test_hard_links_inside_are_files_like_others(
        self, workspace: Workspace, directory: Path
    ) -> None:
        (directory / "sub/again").hardlink_to(directory / "in.txt")

        assert workspace.changes().written == {"sub/again": 5}

    @pytest.mark.parametrize("where", ["", "folder "])
    def test_a_name_that_is_not_utf8_is_refused(
        self, workspace: Workspace, directory: Path, where: str
    ) -> None:
        name = f"{where}bytes\udcff"
        if where:
            (directory / name).mkdir()
            (directory / name / "file").touch()
        else:
            (directory / name).touch()

        with pytest.raises(RetryableAttemptError) as raised:
            workspace.changes()
        assert raised.value.code == Code.FILE_REFUSED
        assert "bytes\\udcff" in raised.value.reason
        assert raised.value.reason.endswith("it is not valid UTF-8")
        raised.value.reason.encode()

    def test_two_thousand_directories_within_each_other_are_refused(
        self, workspace: Workspace, directory: Path
    ) -> None:
        nest(directory, 2_000)
        try:
            with pytest.raises(RetryableAttemptError) as raised:
                workspace.changes()
        finally:
            remove_tree(directory)  # pytest's own clearing away does not reach that deep
        assert raised.value.code == Code.FILE_REFUSED
        assert "path is too long" in raised.value.reason

    def test_a_key_that_would_be_too_long_is_refused(
        self, workspace: Workspace, directory: Path
    ) -> None:
        folder = directory / "/".join(["x" * 200] * 5)
        folder.mkdir(parents=True)
        (folder / "file").touch()
        (folder / ("y" * 20)).touch()

        with pytest.raises(RetryableAttemptError, match="longer than 1024 bytes"):
            workspace.changes()

    def test_a_file_that_vanishes_during_the_scan_is_a_change_meanwhile(
        self, here: Rig, workspace: Workspace, directory: Path
    ) -> None:
        """It was rewritten, so it is to be read; by then it is gone."""
        (directory / "in.txt").write_text("INPUT")
        faulty = Faulty(here.local_store)
        faulty.before("new_digest", (directory / "in.txt").unlink)
        workspace._store = faulty.as_store()

        with pytest.raises(RetryableAttemptError) as raised:
            workspace.changes()
        assert raised.value.code == Code.WORKSPACE_CHANGED
        assert str(directory) not in raised.value.reason


class TestOpenRegular:
    def test_a_file_is_opened(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"data")

        with open_regular(tmp_path / "file") as file:
            assert file.read() == b"data"

    @pytest.mark.parametrize("kind", ["gone", "link", "fifo", "directory"])
    def test_nothing_else_is(self, tmp_path: Path, kind: str) -> None:
        """And a pipe that nobody writes to holds nobody."""
        path = tmp_path / "file"
        match kind:
            case "link":
                path.symlink_to("/etc/passwd")
            case "fifo":
                os.mkfifo(path)
            case "directory":
                path.mkdir()

        with pytest.raises(RetryableAttemptError) as raised:
            open_regular(path)
        assert raised.value.code == Code.WORKSPACE_CHANGED
        assert str(tmp_path) not in raised.value.reason


def test_a_scan_yields_every_regular_file_once(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d/e"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert sorted(scan(tmp_path, "", {}).others) == ["a", "b/c", "b/d/e"]
