"""Where attempts work, and how what dead workers left is found and removed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perago_worker.attempt.directories import LOCK_NAME, AttemptDirectories
from perago_worker.attempt.removal import remove_tree
from perago_worker.errors import ConfigError
from tests.support import ROOT, nest

DEEP = 2_000
"""Levels: deeper than the interpreter calls, and with a path longer than the kernel takes."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def directories(root: Path) -> Iterator[AttemptDirectories]:
    directories = AttemptDirectories(root, owner="me")
    directories.open()
    yield directories
    directories.close()


class TestAttempt:
    def test_each_has_a_workspace_and_a_scratch_directory(
        self, root: Path, directories: AttemptDirectories
    ) -> None:
        with directories.attempt() as one, directories.attempt() as other:
            for each in (one, other):
                assert list(each.workspace.iterdir()) == list(each.scratch.iterdir()) == []
                assert each.workspace.stat().st_mode & 0o077 == 0
            assert one.workspace != other.workspace
            assert one.workspace.is_relative_to(root / "me")
        assert [path.name for path in (root / "me").iterdir()] == [LOCK_NAME]

    def test_it_is_removed_however_the_attempt_ends(
        self, root: Path, directories: AttemptDirectories
    ) -> None:
        with pytest.raises(FileNotFoundError), directories.attempt() as each:
            (each.workspace / "none").read_text()
        assert [path.name for path in (root / "me").iterdir()] == [LOCK_NAME]

    def test_it_is_removed_whatever_the_body_left(
        self, root: Path, directories: AttemptDirectories, tmp_path: Path
    ) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").touch()
        with directories.attempt() as each:
            nest(each.workspace, DEEP)
            (each.workspace / "link").symlink_to(outside)
            (each.workspace / "broken").symlink_to("nowhere")
            os.mkfifo(each.scratch / "pipe")
            locked = each.scratch / "locked"
            (locked / "inner").mkdir(parents=True)
            (locked / "inner" / "file").touch()
            locked.chmod(0)
        assert [path.name for path in (root / "me").iterdir()] == [LOCK_NAME]
        assert (outside / "kept").exists()

    def test_a_body_may_remove_its_directories_itself(
        self, root: Path, directories: AttemptDirectories
    ) -> None:
        with directories.attempt() as each:
            remove_tree(each.workspace.parent)
        assert [path.name for path in (root / "me").iterdir()] == [LOCK_NAME]


class TestScratch:
    def test_is_lent_again_when_nothing_was_put_into_it(
        self, directories: AttemptDirectories
    ) -> None:
        with directories.scratch() as one, directories.scratch() as other:
            assert list(one.scratch.iterdir()) == list(other.scratch.iterdir()) == []
            assert one.scratch.stat().st_mode & 0o077 == 0
            lent = {one.scratch, other.scratch}
        with directories.scratch() as third, directories.scratch() as fourth:
            assert {third.scratch, fourth.scratch} == lent

    @pytest.mark.parametrize(
        "left",
        [
            lambda scratch: (scratch / "file").touch(),
            lambda scratch: (scratch / "folder").mkdir(),
            lambda scratch: scratch.chmod(0o755),
            lambda scratch: scratch.rmdir(),
            lambda scratch: (scratch.rename(f"{scratch}-moved"), scratch.symlink_to("/")),
        ],
        ids=["file", "folder", "permissions", "nothing", "link"],
    )
    def test_is_not_lent_again_otherwise(
        self, directories: AttemptDirectories, left: Callable[[Path], object]
    ) -> None:
        with directories.scratch() as one:
            left(one.scratch)
        with directories.scratch() as other:
            assert other.scratch != one.scratch

    def test_is_made_anew_when_somebody_removed_it(self, directories: AttemptDirectories) -> None:
        with directories.scratch() as one:
            pass
        one.scratch.rmdir()
        with directories.scratch() as other:
            assert list(other.scratch.iterdir()) == []

    def test_is_not_lent_to_an_attempt_with_a_workspace(
        self, directories: AttemptDirectories
    ) -> None:
        with directories.scratch() as one:
            pass
        with directories.attempt() as other:
            assert not other.workspace.is_relative_to(one.scratch)


class TestOpen:
    def test_a_root_that_cannot_be_written_is_a_problem_of_the_configuration(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()

        with pytest.raises(ConfigError) as raised:
            AttemptDirectories(tmp_path / "file", owner="me").open()
        assert raised.value.problems[0].key == "workspace.root"
        assert "Not a directory" in raised.value.problems[0].message

    def test_two_workers_of_one_name_are_told_apart(
        self, root: Path, directories: AttemptDirectories
    ) -> None:
        with pytest.raises(ConfigError):
            AttemptDirectories(root, owner="me").open()

    def test_closing_removes_everything_and_is_safe_twice(self, root: Path) -> None:
        directories = AttemptDirectories(root, owner="me")
        directories.open()
        with directories.attempt():
            directories.close()
            assert list(root.iterdir()) == []
        directories.close()


class TestDead:
    def test_nothing_is_removed_of_those_who_live(
        self, root: Path, directories: AttemptDirectories
    ) -> None:
        other = AttemptDirectories(root, owner="other")
        other.open()
        with directories.attempt() as mine, other.attempt() as theirs:
            assert directories.remove_dead() == other.remove_dead() == []
            assert mine.workspace.is_dir()
            assert theirs.workspace.is_dir()
        other.close()

    def test_what_a_killed_worker_left_is_removed(
        self, root: Path, directories: AttemptDirectories
    ) -> None:
        script = (
            "import os, sys; from pathlib import Path\n"
            "from perago_worker.attempt.directories import AttemptDirectories\n"
            "d = AttemptDirectories(Path(sys.argv[1]), owner='dead'); d.open()\n"
            "with d.attempt() as a:\n"
            "    (a.workspace / 'file').touch(); os.kill(os.getpid(), 9)\n"
        )
        subprocess.run(
            [sys.executable, "-c", script, str(root)], env={"PYTHONPATH": str(ROOT)}, check=False
        )
        assert len(list((root / "dead").iterdir())) == 2

        assert directories.remove_dead() == ["dead"]
        assert [path.name for path in root.iterdir()] == ["me"]

    def test_what_is_not_a_workers_is_left_alone(
        self, root: Path, directories: AttemptDirectories, tmp_path: Path
    ) -> None:
        """A directory without a lock may belong to anybody, or is just being made."""
        (root / "somebody's").mkdir()
        (root / "file").touch()
        (root / "link").symlink_to(tmp_path)
        tricky = root / "tricky"
        tricky.mkdir()
        (tricky / LOCK_NAME).symlink_to(tmp_path / "target")
        (tmp_path / "target").touch()

        assert directories.remove_dead() == []
        assert len(list(root.iterdir())) == 5

    def test_a_root_that_does_not_exist_holds_no_dead(self, tmp_path: Path) -> None:
        assert AttemptDirectories(tmp_path / "none", owner="me").remove_dead() == []


class TestRemoveTree:
    def test_nothing_is_no_error(self, tmp_path: Path) -> None:
        remove_tree(tmp_path / "nothing")

    def test_wide_and_deep_trees_go_entirely(self, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        for branch in ("a", "b/c", "b/d"):
            (tree / branch).mkdir(parents=True)
            (tree / branch / "file").touch()
            nest(tree / branch, 30, name="a")
        nest(tree, DEEP)

        remove_tree(tree)

        assert list(tmp_path.iterdir()) == []
