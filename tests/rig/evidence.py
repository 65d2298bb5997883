"""Collects what the oracle judges by, from a store, a queue and a journal; tidies up before."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.queue_records import TaskRecord
from perago_worker.attempt.directories import CACHE_NAME, SHELF_NAME, SPARE_NAME, worker_directories
from perago_worker.models import CommitInfo, Publication
from perago_worker.ports import Clock, TaskQueue, WorkspaceStore
from perago_worker.runtime.janitor import StageSurvey
from tests.rig.history import Child, Entry
from tests.rig.oracle import Commit, Evidence, Files, Task
from tests.support import BRANCH, REPOSITORY, is_running

CHAIN_LIMIT = 1000


def sweep(
    store: WorkspaceStore, queue: TaskQueue, *, clock: Clock, repository: str = REPOSITORY
) -> None:
    """Drop the stages of tasks that have ended, as `perago-worker gc` does."""
    survey = StageSurvey(queue=queue, store=store, clock=clock, min_age_s=0)
    for stage in list(survey.of(repository)):
        if stage.keep is None:
            store.drop_stage(repository, stage.name)


def branch_of(
    store: WorkspaceStore, *, repository: str = REPOSITORY, branch: str = BRANCH
) -> list[Commit]:
    """Return a branch's first-parent history with what its commits hold, newest first."""
    trees: dict[str, Files] = {}
    commits = []
    for info in store.history(repository, branch, limit=CHAIN_LIMIT):
        if info.tree not in trees:
            trees[info.tree] = _files(store, repository, info)
        commits.append(
            Commit(
                id=info.id,
                parent=info.parents[0] if info.parents else None,
                files=trees[info.tree],
                publication=Publication.from_metadata(info.metadata),
            )
        )
    return commits


def _files(store: WorkspaceStore, repository: str, commit: CommitInfo) -> Files:
    found = {}
    for info in store.list(repository, commit.id, ""):
        into = io.BytesIO()
        store.read(repository, commit.id, info.key, into)
        found[info.key] = hashlib.sha256(into.getvalue()).hexdigest()
    return found


def local_tasks(queue: LocalQueue) -> list[Task]:
    """Return the embedded queue's tasks, in the order they were scheduled in."""
    return [_task(record) for record in reversed(queue.tasks(limit=CHAIN_LIMIT))]


def _task(record: TaskRecord) -> Task:
    return task_from(
        record.input,
        record.output,
        task_id=record.task_id,
        lineage=f"{record.workflow_id}/{record.reference_name}/0",
        status=record.status,
        reason=record.reason,
    )


def task_from(
    given: Mapping[str, Any],
    output: Mapping[str, Any],
    *,
    task_id: str,
    lineage: str,
    status: str,
    reason: str,
) -> Task:
    """Return a task by its input and output as the queue shows them."""
    return Task(
        task_id=task_id,
        lineage=lineage,
        status=status,
        input_ref=given["workspace"]["ref"],
        output_ref=(output.get("workspace") or {}).get("ref"),
        run=(output.get("result") or {}).get("run"),
        reason=reason,
    )


def left_in(
    store: WorkspaceStore,
    work: Path,
    history: Sequence[Entry],
    *,
    repository: str = REPOSITORY,
) -> list[str]:
    """Return what workers that have ended left behind: stages, directories, bodies' processes."""
    stages = [f"stage {name}" for name in store.stages(repository)]
    living = [each.path for each in worker_directories(work) if not each.dead]
    kept = {path / name for path in living for name in (SHELF_NAME, SPARE_NAME)}
    directories = [
        f"directory {path.relative_to(work)}"
        for path in work.glob("*/*")
        if path.is_dir() and path not in kept and path.parent.name != CACHE_NAME
    ]
    bodies = [
        f"process {entry.pid}"
        for entry in history
        if isinstance(entry, Child) and is_running(entry.pid)
    ]
    return [*stages, *directories, *bodies]


def of_local(
    store: WorkspaceStore, queue: LocalQueue, work: Path, history: Sequence[Entry]
) -> Evidence:
    """Return the evidence of a case on the embedded pair."""
    return Evidence(
        branch=branch_of(store),
        tasks=local_tasks(queue),
        history=history,
        left=left_in(store, work, history),
    )
