"""Making repositories and filling them from local directories, for the embedded store."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pygit2

from perago_worker.adapters.local.store_git import REPOSITORY_NAME, Repository, commit_info
from perago_worker.adapters.local.store_loose import flush_directory, write_blob
from perago_worker.adapters.local.store_refs import (
    LOCK_WAIT_S,
    branch_head,
    create_branch,
    move_branch,
    turn,
)
from perago_worker.adapters.local.store_stage import add_commit
from perago_worker.adapters.local.store_tree import changed_tree, check_key
from perago_worker.errors import NotFound, StoreRefused
from perago_worker.models import CommitInfo


def create(repository: Repository, branch: str) -> CommitInfo:
    """Create a repository with one empty commit on one branch: whole, or not at all.

    Raises:
        StoreRefused: It exists, or one of the names cannot be used.
    """
    if not REPOSITORY_NAME.fullmatch(repository.name):
        raise StoreRefused(
            f"{repository.name!r} cannot name a repository: use 3 to 63 lower-case letters, digits "
            "and '-', and begin with a letter or digit"
        )
    root = repository.directory.parent
    root.mkdir(parents=True, exist_ok=True)
    # Made under a name no repository has, because a rename is the only step that cannot be halved.
    making = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        repo = pygit2.init_repository(str(making), bare=True, initial_head=branch)
        commit = _add_empty_branch(repo, branch)
        making.chmod(0o755)
        _rename(making, repository)
        flush_directory(root)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return commit_info(commit)


def find_files(directory: Path) -> dict[str, Path]:
    """Return key and path of every regular file below a directory.

    Raises:
        StoreRefused: Something there is no regular file, or git cannot hold its name. The message
            gives its path below the directory.
    """
    if not directory.is_dir():
        raise StoreRefused(f"{str(directory)!r} is not a directory")
    files = dict(_below(directory))
    for key in files:
        check_key(key)
    return files


def add_files(
    repository: Repository, branch: str, files: Mapping[str, Path], message: str
) -> CommitInfo:
    """Commit local files on top of a branch, which is made when it is missing.

    Returns:
        The new head, or the old one when it holds all of the files already.

    Raises:
        StoreRefused: The branch cannot have that name, or an object would be below another one.
        HeadMoved: A program other than this store moved the branch meanwhile; nothing was imported.
    """
    blobs = {key: _add_file(repository, path) for key, path in files.items()}
    with turn(repository.directory):
        repo = repository.open()
        head = _head_or_new_branch(repo, branch)
        tree = changed_tree(repo, head.tree, blobs)
        if tree == head.tree_id:
            return commit_info(head)
        commit = add_commit(repo, tree, [head.id], message, {})
        move_branch(repo, branch, expected=head.id, to=commit.id, wait_s=LOCK_WAIT_S)
    return commit_info(commit)


def _add_empty_branch(repo: pygit2.Repository, branch: str) -> pygit2.Commit:
    empty = repo.TreeBuilder().write()
    commit = add_commit(repo, empty, [], f"Create branch {branch}", {})
    create_branch(repo, branch, commit.id)
    return commit


def _rename(making: Path, repository: Repository) -> None:
    try:
        making.rename(repository.directory)
    except OSError as error:
        if repository.directory.exists():
            raise StoreRefused(f"repository {repository.name!r} exists") from error
        raise


def _head_or_new_branch(repo: pygit2.Repository, branch: str) -> pygit2.Commit:
    with suppress(NotFound):
        return branch_head(repo, branch)
    return _add_empty_branch(repo, branch)


def _add_file(repository: Repository, path: Path) -> str:
    # The file was no link when it was listed; it must not have become one since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return write_blob(repository.objects, file, os.fstat(descriptor).st_size)


def _below(directory: Path, above: str = "") -> Iterator[tuple[str, Path]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            key = above + entry.name
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _below(Path(entry.path), f"{key}/")
            elif stat.S_ISREG(mode):
                yield key, Path(entry.path)
            else:
                raise StoreRefused(f"{key!r} is a {_kind(mode)}; only regular files are imported")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "symbolic link",
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFBLK: "block device",
        stat.S_IFCHR: "character device",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")
