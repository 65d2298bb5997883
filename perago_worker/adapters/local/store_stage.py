"""Stages of the embedded store: what an attempt writes before anybody sees it.

Contents go to git's object database at once; which key they belong to is kept in memory until the
commit. The stage's reference is outside of `refs/heads/`, so that no listing of branches shows it,
and keeps what it points at from git's garbage collector.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import pygit2

from perago_worker.adapters.local.store_git import Repository, commit_info, find_commit, signature
from perago_worker.adapters.local.store_loose import write_blob
from perago_worker.adapters.local.store_message import encode
from perago_worker.adapters.local.store_refs import turn
from perago_worker.adapters.local.store_tree import changed_tree, check_key
from perago_worker.errors import NotFound, NothingToCommit, StoreRefused
from perago_worker.models import CommitInfo, ObjectInfo

_STAGES = "refs/perago/stages/"
_NAME = re.compile(r"\w[-\w]*", re.ASCII)  # as lakeFS names branches; source: lakeFS 1.84.0


class LocalStage:
    """`Stage` over a bare git repository; made by `open_stage`."""

    def __init__(self, repository: Repository, *, base: str, name: str) -> None:
        self._repository = repository
        self._base = base
        self._name = name
        self._changes: dict[str, str | None] = {}
        self._committed: CommitInfo | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Name of the stage."""
        return self._name

    def write(self, key: str, source: BinaryIO, size: int) -> ObjectInfo:
        """Store an object's content; see the port."""
        check_key(key)
        with self._repository.translated("store an object"):
            blob = write_blob(self._repository.objects, source, size)
        self._change({key: blob})
        return ObjectInfo(key=key, size=size, checksum=blob)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; see the port. Touches nothing but memory."""
        self._change(dict.fromkeys(keys))

    def commit(self, message: str, metadata: Mapping[str, str]) -> CommitInfo:
        """Freeze the content; see the port.

        Raises:
            StoreRefused: An object would be below another one, as a file in a file.
        """
        with self._lock:
            changes = dict(self._changes)
        if self._committed:
            return self._committed
        with self._repository.translated("commit a stage"):
            repo = self._repository.open()
            base = find_commit(repo, self._base)
            tree = changed_tree(repo, base.tree, changes)
            if tree == base.tree_id:
                raise NothingToCommit(f"stage {self._name!r} holds what {self._base} holds")
            commit = add_commit(repo, tree, [base.id], message, metadata)
            self.point_at(repo, commit)
            self._committed = commit_info(commit)
            return self._committed

    def _change(self, changes: Mapping[str, str | None]) -> None:
        with self._lock:
            if self._committed:
                raise StoreRefused(f"stage {self._name!r} is committed and cannot be changed")
            self._changes.update(changes)

    def point_at(self, repo: pygit2.Repository, commit: pygit2.Commit) -> None:
        """Let the stage keep a commit from the garbage collector."""
        reference = _STAGES + self._name
        with turn(self._repository.directory):
            if reference not in repo.references:
                raise NotFound("branch", self._name)
            repo.references.create(reference, commit.id, force=True)


def open_stage(repository: Repository, base: str, name: str) -> LocalStage:
    """Create a stage on a commit.

    Raises:
        NotFound: There is no such repository or commit.
        StoreRefused: A stage of that name exists, or the name cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise StoreRefused(f"{name!r} cannot name a stage: use letters, digits, '-' and '_'")
    with repository.translated("open a stage"):
        repo = repository.open()
        commit = find_commit(repo, base)
        with turn(repository.directory):
            if _STAGES + name in repo.references:
                raise StoreRefused(f"stage {name!r} exists")
            repo.references.create(_STAGES + name, commit.id)
    return LocalStage(repository, base=str(commit.id), name=name)


def open_replacement(
    repository: Repository,
    *,
    on: str,
    content: str,
    name: str,
    message: str,
    metadata: Mapping[str, str],
) -> CommitInfo:
    """Create a stage on one commit and commit the content of another there.

    Raises:
        NotFound: There is no such repository or commit.
        StoreRefused: A stage of that name exists, or the name cannot be one.
    """
    stage = open_stage(repository, on, name)
    with repository.translated("commit a replacement"):
        repo = repository.open()
        tree = find_commit(repo, content).tree_id
        commit = add_commit(repo, tree, [find_commit(repo, on).id], message, metadata)
        stage.point_at(repo, commit)
        return commit_info(commit)


def remove_stage(repository: Repository, name: str) -> None:
    """Remove a stage, if there is one of that name."""
    references = repository.open().references
    with turn(repository.directory):
        if _NAME.fullmatch(name) and _STAGES + name in references:
            references.delete(_STAGES + name)


def stage_names(repo: pygit2.Repository) -> list[str]:
    """Return the names of the stages that exist."""
    references = repo.listall_references()
    return [each.removeprefix(_STAGES) for each in references if each.startswith(_STAGES)]


def add_commit(
    repo: pygit2.Repository,
    tree: pygit2.Oid,
    parents: Sequence[pygit2.Oid],
    message: str,
    metadata: Mapping[str, str],
) -> pygit2.Commit:
    """Write a commit that no reference points at yet."""
    who = signature()
    text = encode(message, metadata)
    commit = repo[repo.create_commit(None, who, who, text, tree, list(parents))]
    assert isinstance(commit, pygit2.Commit)  # noqa: S101 -- the type of what was just created
    return commit
