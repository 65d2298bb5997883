"""How well publications from a commit are fenced: looked up per commit, proven per repository.

That a commit holds the action says nothing about whether the server runs it: an administrator can
turn actions off, and no call tells. The only proof is a merge that is refused, which is made on a
branch of its own. A later change of that setting is noticed where every merge is verified.
"""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial

import structlog

from perago_worker.adapters.lakefs.fence import ACTION, ACTION_PATH
from perago_worker.errors import (
    HeadMoved,
    PublishUnknown,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from perago_worker.models import CommitInfo, ObjectInfo
from perago_worker.models.probe_name import ProbeName
from perago_worker.ports import FenceLevel, WorkspaceStore

COMMITS_REMEMBERED = 1024
"""A worker meets few input commits at a time; each takes about 200 bytes."""

NO_COMMIT = "0" * 64
"""An expected head that no branch is at."""

_BYTES = ACTION.encode()
_DROP_TRIES = 2


@dataclass(frozen=True)
class SelfTest:
    """What came of a merge that the fence has to refuse.

    Attributes:
        passed: The fence refused it.
        detail: What happened, for people.
    """

    passed: bool
    detail: str


class FenceLevels:
    """The levels of one server's repositories. Safe to use from any thread."""

    def __init__(self, store: WorkspaceStore, *, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s
        # Commits never change, so that an answer is good for ever; errors are not kept.
        self._holds = lru_cache(maxsize=COMMITS_REMEMBERED)(partial(holds_action, store))
        self._lock = threading.Lock()
        self._proofs: dict[str, Future[bool]] = {}

    def level(self, repository: str, commit: str) -> FenceLevel:
        """Return the level for publications that start from `commit`; see the port.

        One call for a commit that was not asked about before, and five more for the first one of a
        repository that holds the action.
        """
        if not self._holds(repository, commit):
            return "verify"
        return "hook" if self._proven(repository, commit) else "verify"

    def _proven(self, repository: str, commit: str) -> bool:
        """Return what the self-test found; whoever asks meanwhile waits for the one that runs."""
        ours: Future[bool] = Future()
        with self._lock:
            proof = self._proofs.setdefault(repository, ours)
        if proof is ours:
            try:
                ours.set_result(self._prove(repository, commit))
            except BaseException as error:  # noqa: BLE001 -- raised below, here and to who waits
                with self._lock:
                    del self._proofs[repository]
                ours.set_exception(error)
        return proof.result()

    def _prove(self, repository: str, commit: str) -> bool:
        found = self_test(
            self._store, repository, self._store.resolve(repository, commit), self._timeout_s
        )
        if not found.passed:
            structlog.get_logger(__name__).warning(
                "fence.not_working",
                repository=repository,
                detail=found.detail,
                advice="publications are verified after the fact; restart the worker once mended",
            )
        return found.passed


def find_action(store: WorkspaceStore, repository: str, commit: str) -> ObjectInfo | None:
    """Return what is at the place of the action; None when nothing is."""
    listing = store.list(repository, commit, ACTION_PATH)
    first = next(listing, None)  # a key comes before those that it begins
    return first if first is not None and first.key == ACTION_PATH else None


def holds_action(store: WorkspaceStore, repository: str, commit: str) -> bool:
    """Tell whether a commit holds exactly our action."""
    found = find_action(store, repository, commit)
    return found is not None and is_action(store, repository, commit, found)


def is_action(store: WorkspaceStore, repository: str, commit: str, found: ObjectInfo) -> bool:
    """Tell whether an object is exactly our action."""
    if found.size != len(_BYTES):
        return False
    if found.verifiable:
        digest = store.new_digest(found.size)
        digest.update(_BYTES)
        return found.checksum == digest.hexdigest()
    content = io.BytesIO()  # it came by another way than an upload through lakeFS
    store.read(repository, commit, ACTION_PATH, content)
    return content.getvalue() == _BYTES


def self_test(
    store: WorkspaceStore, repository: str, commit: CommitInfo, timeout_s: float
) -> SelfTest:
    """Try a merge that the fence has to refuse, on a hidden branch that is dropped again.

    Args:
        store: A lakeFS.
        repository: Whose server is tested; its other branches are not touched.
        commit: Holds the action. Merging a commit into a branch that is at it changes nothing, yet
            the server asks its hooks.
        timeout_s: Request timeout of the merge.

    Raises:
        StoreUnavailable: Nothing was learnt.
        StoreRefused: We may not open a branch in this repository.
    """
    probe = probe_name()
    try:
        store.stage(repository, commit.id, probe)
        return _try_merge(store, repository, commit, probe=probe, timeout_s=timeout_s)
    finally:
        drop_probe(store, repository, probe)


def _try_merge(
    store: WorkspaceStore, repository: str, commit: CommitInfo, *, probe: str, timeout_s: float
) -> SelfTest:
    try:
        store.publish(
            repository,
            probe,
            source=commit,
            expected_head=NO_COMMIT,
            metadata={},
            message="Test the fence",
            timeout_s=timeout_s,
            allow_unchanged=True,
        )
    except HeadMoved as refusal:
        # Only the fence says where the branch is.
        passed = refusal.found == commit.id
        detail = "a merge on a head that has moved is refused" if passed else str(refusal)
        return SelfTest(passed, detail)
    except PublishUnknown as error:
        raise StoreUnavailable(f"testing the fence of {repository!r}: {error}") from error
    except StoreRefused as other:
        return SelfTest(
            passed=False, detail=f"the merge was refused, but not by the fence: {other}"
        )
    return SelfTest(
        passed=False,
        detail="the server made a merge that the fence has to refuse: it does not run the action; "
        "see actions.enabled in its configuration",
    )


def probe_name() -> str:
    """Return a new name for a hidden branch, which tells whoever finds it when it was made."""
    return str(ProbeName.new(created_at=time.time()))


def drop_probe(store: WorkspaceStore, repository: str, name: str) -> None:
    """Remove a hidden branch, best effort: one that stays is swept once it is old."""
    for _ in range(_DROP_TRIES):
        with suppress(StoreError):
            store.drop_stage(repository, name)
            return
    structlog.get_logger(__name__).warning("fence.probe_left", repository=repository, branch=name)
