"""What must hold of a branch and of the tasks that publish on it, at every moment.

A judge knows what every run of a body changed and what everybody else committed, and replays the
branch's first-parent history against that: it trusts no metadata about contents, only about who.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from perago_worker.adapters.local.queue_records import TaskRecord
from perago_worker.attempt.codes import Code
from perago_worker.events import AttemptFinished
from perago_worker.models import CommitInfo, Publication, Token
from perago_worker.models.publication import EXPECTED_HEAD
from tests.rig.bodies import Run
from tests.rig.world import World, checksum
from tests.support import REPOSITORY

Tree = Mapping[str, str]
"""Key -> checksum."""


NEVER = frozenset(
    {Code.WORKER_ERROR, Code.STORE_REFUSED, Code.NOT_FOUND}
    | {Code.LOST_RACE, Code.REPORT_REFUSED, Code.WORKSPACE_CHANGED, Code.FILE_REFUSED}
)
"""How an attempt ends only when the worker, the store or the body is not as it is here."""


class Violation(AssertionError):
    """A promise was broken."""


def applied(base: Tree, changes: Mapping[str, bytes | None]) -> Tree:
    """Return what changes make of a tree."""
    deleted = {key for key, content in changes.items() if content is None}
    written = {key: checksum(content) for key, content in changes.items() if content is not None}
    return {**{key: found for key, found in base.items() if key not in deleted}, **written}


def age(token: Token) -> tuple[int, int, int]:
    """Return what grows with every delivery; the product's own order is what is being checked."""
    return token.start_time_ms, token.retry_count, token.poll_count


class Judge:
    """Checks one world again and again; looks only at what is new."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._trees: dict[str, Tree] = {}
        self._seen: list[CommitInfo] = [world.start]
        self._newest: dict[str, tuple[int, int, int]] = {}
        self._uuids: set[str] = set()
        self._heard = 0
        self._judged: set[tuple[str, str]] = set()

    def check(self, tasks: Sequence[TaskRecord]) -> None:
        """Check everything.

        Args:
            tasks: What the queue says of every task now.

        Raises:
            Violation: It says what was broken, and where.
        """
        self._check_branch()
        self._check_tasks(tasks)
        self._check_outcomes()
        if self._world.complaints:
            raise Violation("; ".join(sorted(set(self._world.complaints))))

    def tree(self, commit: str) -> Tree:
        """Return everything a commit holds."""
        if commit not in self._trees:
            listed = self._world.store.list(REPOSITORY, commit, "")
            self._trees[commit] = {info.key: info.checksum for info in listed}
        return self._trees[commit]

    def _check_branch(self) -> None:
        if self._world.head_id() == self._seen[-1].id:
            return
        history = self._world.history()
        if [commit.id for commit in history[: len(self._seen)]] != [c.id for c in self._seen]:
            raise Violation("the branch was reset: commits are gone from its history")
        for position in range(len(self._seen), len(history)):
            self._check_commit(history[: position + 1])
        self._seen = history
        chain = {commit.id for commit in history}
        lost = [each.commit for each in self._world.foreign if each.commit not in chain]
        if lost:
            raise Violation(f"somebody's commits {lost} are gone from the branch's history")
        self._check_visible(history[-1])

    def _check_commit(self, history: list[CommitInfo]) -> None:
        """Check the last commit of a history against what is known of its maker."""
        commit, parent = history[-1], history[-2]
        for foreign in self._world.foreign:
            if foreign.commit == commit.id:
                if self.tree(commit.id) != applied(self.tree(parent.id), foreign.changes):
                    raise Violation(f"somebody's commit {commit.id} was not merged as it is")
                return
        publication = Publication.from_metadata(commit.metadata)
        if publication is None:
            raise Violation(f"nobody made commit {commit.id}")
        self._check_publication(history, publication)

    def _check_publication(self, history: list[CommitInfo], publication: Publication) -> None:
        commit, parent = history[-1], history[-2]
        run = self._run_of(publication.result or "")
        if (run.lineage, run.lease.task_id) != (publication.lineage, publication.task_id):
            raise Violation(f"{commit.id} was published by {publication.task_id}, not by its run")
        if publication.uuid in self._uuids:
            raise Violation(f"publication {publication.uuid} is on the branch twice")
        self._uuids.add(publication.uuid)
        if commit.metadata.get(EXPECTED_HEAD) != parent.id:
            raise Violation(f"{commit.id} was decided on another head than it was published on")
        if self.tree(commit.id) != self.expected(run):
            raise Violation(f"{commit.id} is not its input with what run {run.number} changed")
        self._check_below(history[:-1], publication, run)
        newest, token = self._newest.get(publication.lineage), age(publication.token)
        if newest is not None and not newest < token:
            raise Violation(f"delivery {token} of {publication.lineage} published after {newest}")
        self._newest[publication.lineage] = token

    def _check_below(self, below: list[CommitInfo], publication: Publication, run: Run) -> None:
        """Check that only this workflow's own work is between a publication and its input."""
        ids = [commit.id for commit in below]
        if run.input_ref not in ids:
            raise Violation(f"{publication.lineage} published on a branch without its input")
        between = below[ids.index(run.input_ref) + 1 :]
        makers = [Publication.from_metadata(commit.metadata) for commit in between]
        if any(each is None or each.workflow_id != publication.workflow_id for each in makers):
            raise Violation(f"{publication.lineage} published over somebody else's work")
        if makers and makers[0] is not None and makers[0].lineage != publication.lineage:
            raise Violation(f"{publication.lineage} published over a parallel task's work")

    def _check_visible(self, head: CommitInfo) -> None:
        visible = [key.rpartition("/")[2] for key in self.tree(head.id) if "/runs/" in key]
        lineages = Counter(self._world.bodies.runs[int(number)].lineage for number in visible)
        twice = [lineage for lineage, count in lineages.items() if count > 1]
        if twice:
            raise Violation(f"the head shows more than one publication of {twice}")

    def _check_tasks(self, tasks: Sequence[TaskRecord]) -> None:
        for task in tasks:
            if task.status != "COMPLETED":
                continue
            ref = str(task.output["workspace"]["ref"])
            found = (f"{task.task_id} {json.dumps(task.output['result'])}", ref)
            if found in self._judged:
                continue
            self._judged.add(found)
            run = self._run_of(json.dumps(task.output["result"]))
            lineage = f"{task.workflow_id}/{task.reference_name}/0"
            if run.lineage != lineage or run.input_ref != task.input["workspace"]["ref"]:
                raise Violation(f"{task.task_id} reports the result of {run.lineage}")
            if run.deed in {"fail", "terminal"}:
                raise Violation(f"{task.task_id} completed although its body failed")
            if run.lease.input["params"] != task.input["params"]:
                raise Violation(f"{task.task_id} reports a result of other parameters")
            if ref not in {commit.id for commit in self._seen}:
                raise Violation(f"{task.task_id} completed with {ref}, which is not on the branch")
            if self.tree(ref) != self.expected(run):
                raise Violation(f"{task.task_id} completed with {ref}, which is not what it made")

    def _check_outcomes(self) -> None:
        """Check that no attempt ended in a way that nothing in these worlds can be a reason for."""
        events = self._world.recorder.events
        for event in events[self._heard :]:
            if isinstance(event, AttemptFinished) and event.outcome.code in NEVER:
                raise Violation(f"an attempt ended as {event.outcome.code}: {event.outcome.reason}")
        self._heard = len(events)
        for worker in self._world.workers.values():
            for running in worker.attempts:
                if running.stepper.failure is not None:
                    raise Violation("an attempt raised") from running.stepper.failure

    def expected(self, run: Run) -> Tree:
        """Return what the branch holds when a run's result is published."""
        return applied(self.tree(run.input_ref), run.changes)

    def _run_of(self, result: str) -> Run:
        try:
            return self._world.bodies.runs[int(json.loads(result)["run"])]
        except (ValueError, KeyError, IndexError) as error:
            raise Violation(f"no body made {result!r}") from error

    def check_end(self) -> None:
        """Check that a settled world is at rest and tidy."""
        self.check(self._world.tasks())
        if waiting := self._world.unfinished():
            raise Violation(f"tasks never end: {[(t.task_id, t.status) for t in waiting]}")
        if left := self._world.what_is_left():
            raise Violation(f"left behind: {left}")
