"""What the worker's key may do in a repository, and whether publications there are fenced."""

from __future__ import annotations

import io
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from perago_worker.cli.diagnosis import Diagnosis
from perago_worker.cli.exits import Exit
from perago_worker.cli.fence import DEFAULT_BRANCH
from perago_worker.config import WorkerConfig
from perago_worker.errors import NotFound, StoreError, StoreRefused, StoreUnavailable
from perago_worker.models import CommitInfo
from perago_worker.models.probe_name import ProbeName

if TYPE_CHECKING:
    from perago_worker.ports import WorkspaceStore

NO_SUCH = "Tasks whose input names it fail."


def examine_repository(
    diagnosis: Diagnosis, config: WorkerConfig, place: str, *, write: bool
) -> None:
    """Read in a repository what an attempt reads; with `write`, make and drop a hidden branch."""
    from perago_worker.bootstrap.adapters import open_store

    repository, _, branch = place.partition("@")
    branch = branch or DEFAULT_BRANCH
    with closing(open_store(config)) as store:
        doing = "read the head"
        try:
            head = store.head(repository, branch)
            doing = "list objects"
            first = next(iter(store.list(repository, head.id, "")), None)
            doing = "read an object"
            if first is not None and first.size:
                store.read(repository, head.id, first.key, io.BytesIO(), size=1)
            doing = "list hidden branches"
            store.stages(repository)
            diagnosis.ok(f"{place} read", f"head {head.id[:12]}, listings and objects can be read")
            if write:
                doing = "make and drop a hidden branch"
                _try_a_stage(store, repository, head)
                diagnosis.ok(f"{place} write", "hidden branches can be made and dropped")
        except StoreError as error:
            _cannot(diagnosis, place, doing, error)
            return
        if config.store.kind == "lakefs":
            _fence(diagnosis, config, store, place, head)


def _try_a_stage(store: WorkspaceStore, repository: str, head: CommitInfo) -> None:
    name = str(ProbeName.new(created_at=time.time()))
    try:
        store.stage(repository, head.id, name)
    except StoreUnavailable:
        with suppress(StoreError):  # it may have been made all the same
            store.drop_stage(repository, name)
        raise
    store.drop_stage(repository, name)


def _cannot(diagnosis: Diagnosis, place: str, doing: str, error: StoreError) -> None:
    match error:
        case NotFound():
            why, code = NO_SUCH, Exit.UNEXPECTED
            todo = "correct the name, or make the repository or branch"
        case StoreRefused():
            why, code = "Attempts need that.", Exit.UNAUTHORISED
            todo = "give the worker's user the policy that the documentation of operations has"
        case _:
            why, code = "Nothing was learnt.", Exit.UNREACHABLE
            todo = "look at the server's log, and try again"
    diagnosis.fail(place, f"cannot {doing}: {error}", why=why, todo=todo, code=code)


def _fence(
    diagnosis: Diagnosis,
    config: WorkerConfig,
    store: WorkspaceStore,
    place: str,
    head: CommitInfo,
) -> None:
    from perago_worker.adapters.lakefs.fence_install import look
    from perago_worker.adapters.lakefs.store import LakeFSStore

    assert isinstance(store, LakeFSStore)  # noqa: S101 -- of the kind that is configured
    repository = place.partition("@")[0]
    state = look(store, repository, head.id).state
    if state == "installed":
        diagnosis.ok(f"{place} fence", "installed; perago-worker fence selftest proves it")
        return
    found = "is not there" if state == "absent" else "has another version"
    todo = f"perago-worker fence install {place.replace('@', ' ')}"
    if config.publish.require_fence == "hook":
        diagnosis.fail(
            f"{place} fence",
            found,
            why='publish.require_fence is "hook": inputs without it are refused.',
            todo=todo,
        )
        return
    diagnosis.warn(
        f"{place} fence",
        found,
        why="A commit that arrives within a merge is noticed only afterwards (lost_race).",
        todo=todo,
    )
