"""What the store contract needs beside the port: repositories to work in, and somebody else.

Each adapter brings a harness. The embedded one is here; the one for lakeFS is
`tests.contract.lakefs_harness`, whose `open_harness(server)` is a context manager that takes what
the session fixture `lakefs` yields. A harness acts on the store behind the adapter's back, by other
means than the code under test, because it plays the people and programs that share a repository.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from perago_worker.adapters.local.store import LocalStore
from perago_worker.ports import WorkspaceStore

_NO_CONFIG = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


class StoreHarness(Protocol):
    """One store under test and the means to act beside it."""

    @property
    def store(self) -> WorkspaceStore:
        """The adapter under test, connected; shared by all tests of a module."""

    def repository(self) -> str:
        """Create a repository no other test uses; return its name.

        It has a branch `main` with at least one commit and no objects on it.
        """

    def foreign_commit(
        self, repository: str, branch: str, *, write: Mapping[str, bytes], message: str
    ) -> str:
        """Commit objects directly on a branch, as somebody else would; return the commit id.

        Retried by the harness until it took effect: a foreign commit that races a publication must
        not fail the test that made it.
        """

    def add_branch(self, repository: str, name: str, commit: str) -> None:
        """Create a branch at a commit."""

    def add_tag(self, repository: str, name: str, commit: str) -> None:
        """Create a tag at a commit."""


class LocalHarness:
    """The embedded store; the somebody else is plain git on the same directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._store = LocalStore(root)

    @property
    def store(self) -> LocalStore:
        return self._store

    def repository(self) -> str:
        name = f"contract-{uuid.uuid4().hex[:12]}"
        self._store.create_repository(name)
        return name

    def foreign_commit(
        self, repository: str, branch: str, *, write: Mapping[str, bytes], message: str
    ) -> str:
        """Commit with git's fast-import, which takes the same reference locks as a push."""
        for _ in range(100):
            head = self.git(repository, "rev-parse", f"refs/heads/{branch}").decode().strip()
            script = _fast_import_script(branch, head, write, message)
            done = self._run(
                repository, "fast-import", "--quiet", "--date-format=now", stdin=script
            )
            if done.returncode == 0:
                return done.stdout.decode().strip()
        raise AssertionError(done.stderr.decode())

    def add_branch(self, repository: str, name: str, commit: str) -> None:
        self.git(repository, "branch", name, commit)

    def add_tag(self, repository: str, name: str, commit: str) -> None:
        self.git(repository, "tag", name, commit)

    def git(self, repository: str, *args: str) -> bytes:
        """Run git on a repository and return what it prints; raises when git fails."""
        done = self._run(repository, *args)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def _run(
        self, repository: str, *args: str, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["git", f"--git-dir={self._git_dir(repository)}", *args]
        return subprocess.run(
            command, input=stdin, capture_output=True, check=False, env=os.environ | _NO_CONFIG
        )

    def _git_dir(self, repository: str) -> Path:
        return self._root / f"{repository}.git"


@contextmanager
def open_local(root: Path) -> Iterator[LocalHarness]:
    """Yield a harness over an embedded store in `root`."""
    harness = LocalHarness(root)
    try:
        yield harness
    finally:
        harness.store.close()


def _fast_import_script(branch: str, head: str, write: Mapping[str, bytes], message: str) -> bytes:
    text = message.encode()
    parts = [
        f"commit refs/heads/{branch}\nmark :1\n".encode(),
        b"committer Somebody Else <else@localhost> now\n",
        b"data %d\n%b\n" % (len(text), text),
        f"from {head}\n".encode(),
    ]
    for key, content in write.items():
        quoted = key.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        parts.append(f'M 100644 inline "{quoted}"\n'.encode())
        parts.append(b"data %d\n%b\n" % (len(content), content))
    parts.append(b"\nget-mark :1\ndone\n")
    return b"".join(parts)
