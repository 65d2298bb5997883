"""A workspace store in a directory: one bare git repository each, nothing to install or to start.

It keeps the port's promises with what git has: a commit is a commit, a publication is a merge
commit, its metadata ends the commit message, and a branch moves by compare-and-swap, also against a
`git push` from elsewhere. There is no merging of contents: a branch that moved is `HeadMoved`.

Whatever ends a process, a repository stays whole: objects are on the disk before a reference
points at them, and what a killed process leaves behind is garbage that `git gc` collects.
"""

from __future__ import annotations

import builtins
import os
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pygit2

from perago_worker.adapters.local.store_git import (
    REPOSITORY_NAME,
    Repository,
    commit_info,
    find_commit,
    isolate_libgit2,
)
from perago_worker.adapters.local.store_import import add_files, create, find_files
from perago_worker.adapters.local.store_loose import (
    Part,
    SinkError,
    blob_digest,
    read_loose_blob,
)
from perago_worker.adapters.local.store_refs import LOCK_WAIT_S, branch_head, move_branch, turn
from perago_worker.adapters.local.store_stage import (
    LocalStage,
    add_commit,
    open_replacement,
    open_stage,
    remove_stage,
    stage_names,
)
from perago_worker.adapters.local.store_tree import compare, find_blob, walk
from perago_worker.errors import HeadMoved, StoreUnavailable
from perago_worker.models import Change, CommitInfo, ObjectInfo
from perago_worker.ports import Digest, FenceLevel


class LocalStore:
    """`WorkspaceStore` over the bare git repositories `<root>/<name>.git`.

    Any number of processes on one machine may use a root at once, and plain git beside them.
    """

    def __init__(self, root: Path) -> None:
        isolate_libgit2()
        self._root = root.absolute()

    def ping(self) -> None:
        """Check that the root is a directory this process may write to; see the port."""
        if not self._root.is_dir() or not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise StoreUnavailable("the directory of the local store is missing or not writable")

    def resolve(self, repository: str, ref: str) -> CommitInfo:
        """Return a commit by its id or at least 7 first digits of it; see the port."""
        where = self._repository(repository)
        with where.translated("look up a commit"):
            return commit_info(find_commit(where.open(), ref))

    def head(self, repository: str, branch: str) -> CommitInfo:
        """Return the commit a branch is at; see the port."""
        where = self._repository(repository)
        with where.translated("read a branch"):
            return commit_info(branch_head(where.open(), branch))

    def history(
        self, repository: str, branch: str, *, limit: int, until: str | None = None
    ) -> list[CommitInfo]:
        """Return the first-parent chain of a branch, newest first; see the port."""
        where = self._repository(repository)
        chain: list[CommitInfo] = []
        with where.translated("read a branch's history"):
            head = branch_head(where.open(), branch)
            for commit in islice(_first_parents(head), limit):
                chain.append(commit_info(commit))
                if chain[-1].id == until:
                    break
        return chain

    def list(self, repository: str, commit: str, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects in byte order of their keys; see the port.

        Raises:
            StoreRefused: There is a symbolic link or a submodule among them.
        """
        where = self._repository(repository)
        with where.translated("list objects"):
            repo = where.open()
            yield from walk(repo, find_commit(repo, commit).tree, prefix)

    def changes(self, repository: str, base: str, commit: str, prefix: str) -> Iterator[Change]:
        """Yield changes in byte order of their keys; see the port.

        Raises:
            StoreRefused: There is a symbolic link or a submodule among them.
        """
        where = self._repository(repository)
        with where.translated("compare commits"):
            repo = where.open()
            before, after = (find_commit(repo, each).tree for each in (base, commit))
            yield from compare(repo, before, after, prefix)

    def read(
        self,
        repository: str,
        commit: str,
        key: str,
        into: BinaryIO,
        *,
        start: int = 0,
        size: int | None = None,
        listed_size: int | None = None,  # noqa: ARG002 -- all are read alike
    ) -> int:
        """Write an object's bytes to `into`; see the port.

        Only what `git gc` has packed passes through memory as a whole. What is before a range is
        read with it, to no other effect.
        """
        where = self._repository(repository)
        part = Part(into, start, size)
        try:
            with where.translated("read an object"):
                repo = where.open()
                blob = find_blob(find_commit(repo, commit).tree, key)
                if read_loose_blob(where.objects, str(blob), part) is None:
                    _read_packed(repo, blob, part)
        except SinkError as failed:
            raise failed.error from None
        return part.written

    @property
    def seeks(self) -> bool:
        """Return False: git's objects are compressed as a whole; see the port."""
        return False

    def new_digest(self, size: int) -> Digest:
        """Return a digest that yields git's id of a blob; see the port."""
        return blob_digest(size)

    def stage(self, repository: str, base: str, name: str) -> LocalStage:
        """Open a new stage; see the port."""
        return open_stage(self._repository(repository), base, name)

    def replacement(
        self,
        repository: str,
        *,
        on: CommitInfo,
        content: CommitInfo,
        name: str,
        message: str,
        metadata: Mapping[str, str],
    ) -> CommitInfo:
        """Commit the content of one commit on top of another; see the port."""
        return open_replacement(
            self._repository(repository),
            on=on.id,
            content=content.id,
            name=name,
            message=message,
            metadata=metadata,
        )

    def fence_level(self, repository: str, commit: str) -> FenceLevel:  # noqa: ARG002 -- always so
        """Return `swap`: every move of a branch is a compare-and-swap; see the port."""
        return "swap"

    def drop_stage(self, repository: str, name: str) -> None:
        """Remove a stage; see the port."""
        where = self._repository(repository)
        with where.translated("drop a stage"):
            remove_stage(where, name)

    def stages(self, repository: str) -> builtins.list[str]:
        """Return the names of the stages that exist; see the port."""
        where = self._repository(repository)
        with where.translated("list stages"):
            return stage_names(where.open())

    def publish(
        self,
        repository: str,
        branch: str,
        *,
        source: CommitInfo,
        expected_head: str,
        metadata: Mapping[str, str],
        message: str,
        timeout_s: float,
        allow_unchanged: bool = False,  # noqa: ARG002 -- a merge commit needs no change to be one
    ) -> CommitInfo:
        """Move a branch from `expected_head` to a merge of `source`; see the port.

        The merge has the source's tree, which is what git would merge, because `source` must
        descend from `expected_head`. `StoreUnavailable` is raised, too, when others hold the
        repository or the branch for all of the timeout.

        Raises:
            HeadMoved: The branch is elsewhere, or `source` was not made on top of it.
        """
        where = self._repository(repository)
        deadline = time.monotonic() + timeout_s
        with where.translated("publish"):
            repo = where.open()
            with turn(where.directory, wait_s=min(timeout_s, LOCK_WAIT_S)):
                head = branch_head(repo, branch)
                if str(head.id) != expected_head:
                    raise HeadMoved(branch, expected_head, str(head.id))
                staged = find_commit(repo, source.id)
                if not repo.descendant_of(staged.id, head.id):
                    raise HeadMoved(branch, " ".join(source.parents), str(head.id))
                parents = [head.id, staged.id]
                merge = add_commit(repo, staged.tree_id, parents, message, metadata)
                wait_s = min(deadline - time.monotonic(), LOCK_WAIT_S)
                move_branch(repo, branch, expected=head.id, to=merge.id, wait_s=wait_s)
                return commit_info(merge)

    def close(self) -> None:
        """Release nothing: no operation leaves anything open."""

    def create_repository(self, name: str, *, branch: str = "main") -> CommitInfo:
        """Create a repository with one empty commit and return that.

        Raises:
            StoreRefused: It exists, or one of the names cannot be used.
        """
        where = self._repository(name)
        with where.translated("create the repository"):
            return create(where, branch)

    def has_repository(self, name: str) -> bool:
        """Tell whether a repository exists."""
        where = self._repository(name)
        return REPOSITORY_NAME.fullmatch(name) is not None and where.directory.is_dir()

    def import_directory(
        self, repository: str, branch: str, directory: Path, message: str
    ) -> CommitInfo:
        """Add the regular files below a local directory to a branch, in one commit.

        Files that are on the branch and not in the directory stay. A repository or branch that is
        missing is created.

        Returns:
            The branch's head afterwards; no commit is made when it holds all of the files already.

        Raises:
            StoreRefused: Something below the directory is no regular file, or git cannot hold its
                name; the message gives its path below the directory.
            HeadMoved: A program other than this store moved the branch meanwhile.
        """
        where = self._repository(repository)
        with where.translated("import files"):
            files = find_files(directory)
            if not self.has_repository(repository):
                create(where, branch)
            return add_files(where, branch, files, message)

    def _repository(self, name: str) -> Repository:
        return Repository(name, self._root / f"{name}.git")


def _first_parents(commit: pygit2.Commit) -> Iterator[pygit2.Commit]:
    yield commit
    while commit.parent_ids:
        commit = commit.parents[0]
        yield commit


def _read_packed(repo: pygit2.Repository, blob: pygit2.Oid, into: Part) -> None:
    into.write(memoryview(repo[blob]))  # type: ignore[arg-type]
