"""Several workers over one embedded pair, in one process, under one clock that only a test moves.

Every attempt runs the product's `run_attempt` in a `Stepper`. What surrounds attempts in a worker
is played here: the poller's dealing with tasks that come twice, heartbeats, the death of a process
with all it had in memory, and the sweeping of what it left on the disk and in the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import FileMode

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.queue_operator import record
from perago_worker.adapters.local.queue_records import COLUMNS, UNFINISHED, TaskRecord, TaskRow
from perago_worker.adapters.local.store import LocalStore
from perago_worker.attempt.directories import SHELF_NAME, SPARE_NAME
from perago_worker.definition import TaskDefinition
from perago_worker.errors import PeragoError
from perago_worker.models import CommitInfo, Lease
from perago_worker.ports import WorkspaceStore
from perago_worker.runtime.janitor import StageSurvey
from tests.clocks import ManualClock
from tests.rig.bodies import KINDS, Bodies, Deed
from tests.rig.crew import Running, Worker
from tests.rig.template import Template
from tests.support import BRANCH, REPOSITORY, Recorder

STEP_S = 61
"""Longer than a lease and than any wait for a retry."""

MAX_ROUNDS = 40

BRANCH_REFERENCE = f"refs/heads/{BRANCH}"
TASKS = (
    f"SELECT workflow.status, {', '.join(f'task.{name}' for name in COLUMNS)}"  # noqa: S608
    " FROM task JOIN workflow ON workflow.id = task.workflow_id ORDER BY task.seq"
)
SOMEBODY = pygit2.Signature("somebody", "somebody@example.com")


class PassingClock(ManualClock):
    """A clock that a wait moves: all attempts are in one thread's hand, so nobody else could."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Let the time pass for everybody, unless the event is set."""
        if not event.is_set():
            self.advance(seconds)
        return event.is_set()


def checksum(content: bytes) -> str:
    """Return git's id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _record(workflow_status: Any, *columns: Any) -> TaskRecord:
    return record(TaskRow(*columns), workflow_status, log=())


@dataclass(frozen=True)
class Foreign:
    """A commit of somebody who knows nothing of us."""

    commit: str
    changes: dict[str, bytes | None]


class World:
    """The pair, its workers, and everything that has happened.

    Attributes:
        held: Calls that were sent and have not arrived yet.
        foreign: Somebody else's commits, in their order.
        complaints: What attempts did that they must never do.
        adopt: The setting of that name of all workers.
        warm: How many workspaces a worker keeps.
    """

    store: WorkspaceStore

    def __init__(self, template: Template, root: Path) -> None:
        template.copy(root)
        self.root = root
        self.clock = PassingClock()
        self.recorder = Recorder()
        self.bodies = Bodies()
        self.store = LocalStore(root / "store")
        self._repository = root / "store" / f"{REPOSITORY}.git"
        self._branch_file = str(self._repository / BRANCH_REFERENCE)
        self.operator = LocalQueue(root / "queue.db", clock=self.clock, worker_id="operator")
        self._began_at = self.clock.now()
        self._db = sqlite3.connect(
            root / "queue.db", timeout=10, isolation_level=None, check_same_thread=False
        )
        self._known: dict[tuple[Any, ...], TaskRecord] = {}
        self.start = self.head()
        self.workers: dict[int, Worker] = {}
        self.held: list[Any] = []
        self.foreign: list[Foreign] = []
        self.leftovers: list[ExitStack] = []
        self.complaints: list[str] = []
        self.adopt = True
        self.warm = 2
        self._inputs: dict[tuple[str, str], dict[str, str]] = {}
        self._names = 0

    # --- what happens outside of workers ---

    def head(self) -> CommitInfo:
        """Return where the branch is."""
        return self.store.head(REPOSITORY, BRANCH)

    def head_id(self) -> str:
        """Return the id of the commit the branch is at, quicker than the store does."""
        with open(self._branch_file) as file:  # noqa: PTH123 -- every step comes here
            return file.read().strip()

    @property
    def passed_s(self) -> float:
        """Seconds since the beginning."""
        return self.clock.now() - self._began_at

    def is_holder(self, lease: Lease) -> bool:
        """Tell whether a lease is the delivery that holds its task, by the record alone."""
        (task,) = [task for task in self.tasks() if task.task_id == lease.task_id]
        return task.status == "IN_PROGRESS" and (
            (task.retry_count, task.poll_count, task.worker_id, task.start_time_ms)
            == (lease.retry_count, lease.poll_count, lease.worker_id, lease.start_time_ms)
        )

    def history(self) -> list[CommitInfo]:
        """Return the branch's commits since the start, oldest first, the start included."""
        chain = self.store.history(REPOSITORY, BRANCH, limit=10_000)
        ids = [commit.id for commit in chain]
        return chain[: ids.index(self.start.id) + 1][::-1]

    def tasks(self) -> list[TaskRecord]:
        """Return every task, the first scheduled first."""
        self.operator.ended("")  # which lets happen what is due by now
        found = self._db.execute(TASKS).fetchall()
        # Most moves change one task at the most, and reading a record takes longer than its row.
        self._known = {row: self._known.get(row) or _record(*row) for row in found}
        return list(self._known.values())

    def submit(
        self,
        kind: TaskDefinition,
        deeds: list[Deed],
        *,
        ref: str | None = None,
        workflow_id: str | None = None,
        name: str = "first",
    ) -> str:
        """Schedule a task, in a workflow of its own or in one that exists; return the task's id."""
        order = {
            "workspace": {
                "repository": REPOSITORY,
                "branch": BRANCH,
                "ref_type": "commit",
                "ref": ref or self.head().id,
            },
            "params": {"deeds": deeds},
        }
        submitted = self.operator.submit(kind.name, order, reference_name=name)
        if workflow_id is not None:
            self._write(
                "UPDATE task SET workflow_id = :workflow WHERE id = :id",
                workflow=workflow_id,
                id=submitted.task_id,
            )
        return submitted.task_id

    def redeliver(self, kind: TaskDefinition) -> None:
        """Put the leased tasks of a kind in the queue once more."""
        self._write(
            "UPDATE task SET queued = 1 WHERE task_type = :type AND status = 'IN_PROGRESS'",
            type=kind.name,
        )

    def rerun(self, task: TaskRecord) -> None:
        """Run a task that has ended again: same id, same retry count, no deliveries yet."""
        self.operator.terminate_workflow(task.workflow_id, "rerun")
        self._write(
            "UPDATE workflow SET status = 'RUNNING', reason = '' WHERE id = :id",
            id=task.workflow_id,
        )
        self._write(
            "UPDATE task SET status = 'SCHEDULED', poll_count = 0, worker_id = NULL, start_ms = 0,"
            " end_ms = 0, scheduled_ms = :now, deliver_ms = :now, queued = 1, output = '{}',"
            " reason = '' WHERE id = :id",
            id=task.task_id,
            now=int(self.clock.time() * 1000),
        )

    def change_orders(self, task_id: str, deeds: list[Deed]) -> None:
        """Give a task other params, as somebody does who restarts it with another input."""
        (task,) = [task for task in self.tasks() if task.task_id == task_id]
        changed = {**task.input, "params": {"deeds": deeds}}
        self._write(
            "UPDATE task SET input = :text WHERE id = :id", text=json.dumps(changed), id=task_id
        )

    def _write(self, statement: str, **values: Any) -> None:
        # Behind the adapter's back: what only happens to a queue is no method of it.
        self._db.execute(statement, values)

    def look_at_input(self, lease: Lease, workspace: Path, prefix: str) -> None:
        """Complain when a body does not find what its input commit holds, and nothing else."""
        ref = str(lease.input["workspace"]["ref"])
        if (ref, prefix) not in self._inputs:
            listed = self.store.list(REPOSITORY, ref, f"{prefix}/")
            self._inputs[ref, prefix] = {each.key: each.checksum for each in listed}
        found = {}
        for folder, _, names in os.walk(workspace):
            for path in (Path(folder, name) for name in names):
                key = f"{prefix}/{path.relative_to(workspace)}"
                found[key] = checksum(path.read_bytes())
        if found != self._inputs[ref, prefix]:
            self.complaints.append(f"a body found {found}, and not what {ref} holds")

    def commit_foreign(self, folder: str) -> None:
        """Let somebody else commit a file, and change one that is there."""
        mark = str(len(self.foreign))
        files = {
            f"{folder}/foreign/{mark}": mark.encode(),
            f"{folder}/in.txt": b"foreign " + mark.encode(),
        }
        repo = pygit2.Repository(str(self._repository))
        head, index = repo.references[BRANCH_REFERENCE].peel(pygit2.Commit), pygit2.Index()
        index.read_tree(head.tree)
        for key, content in files.items():
            index.add(pygit2.IndexEntry(key, repo.create_blob(content), FileMode.BLOB))
        tree = index.write_tree(repo)
        commit = repo.create_commit(
            BRANCH_REFERENCE, SOMEBODY, SOMEBODY, "Change by hand", tree, [head.id]
        )
        self.foreign.append(Foreign(str(commit), dict(files)))

    def release(self, index: int) -> None:
        """Let a call that was held arrive; nobody waits for its answer any more."""
        with suppress(PeragoError):
            self.held.pop(index)()

    # --- workers ---

    def worker(self, index: int, *, name: str | None = None) -> Worker:
        """Return a worker, started when it is needed; one that died is followed by another.

        Args:
            name: The id under which it polls; unique unless given.
        """
        if index not in self.workers:
            self._names += 1
            self.workers[index] = Worker(self, f"host:{self._names}:nonce", name)
        return self.workers[index]

    def running(self) -> list[Running]:
        """Return the attempts that have not ended."""
        found = [run for _, each in sorted(self.workers.items()) for run in each.attempts]
        return [run for run in found if not run.stepper.done]

    def crash(self, worker: Worker) -> None:
        """Kill a worker."""
        self.workers = {index: each for index, each in self.workers.items() if each is not worker}
        worker.die()

    def sweep(self) -> None:
        """Remove what belongs to nobody, as workers do when they start and now and then."""
        survey = StageSurvey(queue=self.operator, store=self.store, clock=self.clock, min_age_s=0.0)
        for stage in survey.of(REPOSITORY):
            if stage.keep is None:
                self.store.drop_stage(REPOSITORY, stage.name)
        self.worker(0).directories.remove_dead()

    def settle(self) -> bool:
        """End all faults and let every task end; return whether they did."""
        while self.held:
            self.release(0)
        for running in self.running():
            running.stepper.finish()
        for _ in range(MAX_ROUNDS):
            if self.operator.idle([kind.name for kind in KINDS]):
                return True
            begun = [run for kind in KINDS for run in self.worker(0).poll(kind)]
            for running in begun:
                running.stepper.finish()
            if not begun:
                self.clock.advance(STEP_S)
        return False

    def what_is_left(self) -> list[str]:
        """Return the stages and directories that are still there after a sweep."""
        self.sweep()
        home = self.root / "work"
        directories = [each.name for owner in home.iterdir() for each in owner.iterdir()]
        kept = [len(list(shelf.iterdir())) for shelf in home.glob(f"*/{SHELF_NAME}")]
        too_many = [f"{count} workspaces" for count in kept if count > self.warm]
        expected = {"owner.lock", SHELF_NAME, SPARE_NAME}
        return [*self.store.stages(REPOSITORY), *(set(directories) - expected), *too_many]

    def kept(self) -> list[Path]:
        """Return the workspaces that workers have kept."""
        return [kept for _, each in sorted(self.workers.items()) for kept in each.kept()]

    def unfinished(self) -> list[TaskRecord]:
        """Return the tasks that have not ended."""
        return [task for task in self.tasks() if task.status in UNFINISHED]

    def close(self) -> None:
        """End every thread, close what is open, remove all files."""
        for worker in list(self.workers.values()):
            worker.die()
        self.operator.close()
        self._db.close()
        shutil.rmtree(self.root, ignore_errors=True)
        self.leftovers.clear()
