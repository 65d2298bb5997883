"""How the embedded store opens git repositories, and how git's errors leave it.

libgit2's objects must not be used by two threads at once, so every operation opens the repository
anew. That costs under 0.1 ms, and it sees at once what other processes packed, pruned or moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import ConfigLevel, RepositoryOpenFlag

from perago_worker.adapters.local.store_message import decode
from perago_worker.errors import NotFound, StoreError, StoreRefused, StoreUnavailable
from perago_worker.models import CommitInfo

REPOSITORY_NAME = re.compile(r"[a-z0-9][a-z0-9-]{2,62}")
"""The names lakeFS takes, so that what works embedded works there. Source: lakeFS 1.84.0."""

_COMMIT_PREFIX = re.compile(r"[0-9a-f]{7,40}")

_OUTSIDE_CONFIG = (
    ConfigLevel.SYSTEM,
    ConfigLevel.XDG,
    ConfigLevel.GLOBAL,
    ConfigLevel.PROGRAMDATA,
)


def isolate_libgit2() -> None:
    """Make libgit2 durable, and deaf to the configuration of machine and user. Idempotent.

    These settings hold for the whole process; libgit2 has them nowhere else. Objects and references
    are flushed to the disk before they count. A repository may belong to another user, as it does
    on a mounted volume: the check against that protects git's hooks and filters, which libgit2 does
    not run here.
    """
    pygit2.settings.enable_fsync_gitdir(True)
    pygit2.settings.owner_validation = False
    for level in _OUTSIDE_CONFIG:
        pygit2.settings.search_path[level] = ""


def signature() -> pygit2.Signature:
    """Return who made a commit of this store, and when: now."""
    return pygit2.Signature("perago-worker", "perago-worker@localhost")


@dataclass(frozen=True)
class Repository:
    """Where one repository is.

    Attributes:
        name: The name callers know it by.
        directory: The bare git directory.
    """

    name: str
    directory: Path

    @property
    def objects(self) -> Path:
        """Directory of git's object database."""
        return self.directory / "objects"

    def open(self) -> pygit2.Repository:
        """Open for one operation in one thread.

        Raises:
            NotFound: There is no such repository.
        """
        if not REPOSITORY_NAME.fullmatch(self.name) or not self.directory.is_dir():
            raise NotFound("repository", self.name)
        flags = RepositoryOpenFlag.BARE | RepositoryOpenFlag.NO_SEARCH
        return pygit2.Repository(str(self.directory), flags)

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn what git and the file system raise into the port's errors, without local paths.

        Args:
            doing: What was tried, to follow "could not".
        """
        try:
            yield
        except StoreError:
            raise
        except ValueError as error:  # names and text that git cannot hold
            raise StoreRefused(self._say(doing, error)) from error
        except (pygit2.GitError, KeyError, OSError) as error:  # full disk, damage, a missing object
            raise StoreUnavailable(self._say(doing, error)) from error

    def _say(self, doing: str, error: Exception) -> str:
        root = f"{self.directory.parent}/"
        return f"repository {self.name!r}: could not {doing}: {error}".replace(root, "")


def commit_info(commit: pygit2.Commit) -> CommitInfo:
    """Describe a commit, ours or anybody's."""
    message, metadata = decode(commit.raw_message.decode("utf-8", "replace"))
    return CommitInfo(
        id=str(commit.id),
        parents=tuple(str(parent) for parent in commit.parent_ids),
        metadata=metadata,
        tree=str(commit.tree_id),
        message=message,
    )


def find_commit(repo: pygit2.Repository, ref: str) -> pygit2.Commit:
    """Return the commit whose id is `ref`, or the only one whose id begins with it (7 digits up).

    Raises:
        NotFound: There is none, or several. Names of branches and tags are not looked up.
    """
    if not _COMMIT_PREFIX.fullmatch(ref):
        raise NotFound("commit", ref)
    found: object
    try:
        found = repo.get(ref)
    except ValueError:  # several objects begin like this; only commits count
        found = _only_commit(repo, ref)
    if not isinstance(found, pygit2.Commit):
        raise NotFound("commit", ref)
    return found


def _only_commit(repo: pygit2.Repository, prefix: str) -> pygit2.Commit | None:
    objects: Iterator[object] = (repo[oid] for oid in repo.odb if str(oid).startswith(prefix))
    commits = [each for each in objects if isinstance(each, pygit2.Commit)]
    return commits[0] if len(commits) == 1 else None
