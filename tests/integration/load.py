"""A steady load of workspace tasks, and the judgement of what became of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from perago_worker import build_taskdef
from perago_worker.task import load_module_tasks
from tests.integration.platform import DEADLINE_S, ENDED, Platform

T = TypeVar("T")

# Bodies of every length: some end before anybody looks, some outlive a restart's first seconds.
BODY_SECONDS = (0.0, 0.4, 1.5, 0.1, 3.0, 0.7)


@dataclass
class Verdict:
    """What became of all workflows of a load.

    Attributes:
        workflows: How many were run to their end.
        publications: Commits of workers on their branches.
        attempts: The last attempt of every task, as the queue tells it.
        lost: Workflows that did not complete, or completed without both of their publications.
        doubled: Workflows with more publications than tasks.
        retried: Workflows with a task that used a retry.
        given_back: Tasks that were polled more than once without using a retry.
    """

    workflows: int = 0
    publications: int = 0
    attempts: list[dict[str, Any]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    given_back: int = 0

    def __str__(self) -> str:
        return (
            f"{self.workflows} workflows, {self.publications} publications, "
            f"{len(self.lost)} lost, {len(self.doubled)} doubled, {len(self.retried)} retried, "
            f"{self.given_back} tasks given back"
        )


class SteadyLoad:
    """Keeps a number of workflows on their way, each two tasks one after the other on a branch.

    Nothing happens but while somebody waits with `wait_for`: every look at what is waited for also
    replaces the workflows that have ended.
    """

    def __init__(self, platform: Platform, *, at_once: int = 6) -> None:
        self._platform = platform
        self._at_once = at_once
        self._numbers = itertools.count()
        self._running: dict[str, str] = {}  # workflow id -> branch
        self._ended: dict[str, tuple[str, dict[str, Any]]] = {}
        taskdefs = [build_taskdef(d) for d in load_module_tasks("tests.tasks.steady")]
        platform.conductor.post("/metadata/taskdefs", json=taskdefs).raise_for_status()
        self._repository, self._ref = platform.repository({"texts/in.txt": b"input"})
        self._workflow = platform.workflow(
            [
                _task("first", "${workflow.input.workspace}"),
                _task("second", "${first.output.workspace}"),
            ]
        )

    @property
    def ended(self) -> int:
        """How many workflows have come to their end so far."""
        return len(self._ended)

    def wait_for(
        self, probe: Callable[[], T | None], what: str, *, timeout_s: float = DEADLINE_S
    ) -> T:
        """Keep the load up until `probe` answers with something true."""
        give_up_at = time.monotonic() + timeout_s
        while not (found := probe()):
            assert time.monotonic() < give_up_at, f"waited {timeout_s:.0f} s in vain for {what}"
            self._look()
            while len(self._running) < self._at_once:
                self.start()
            time.sleep(0.1)
        return found

    def go_on(self, workflows: int) -> None:
        """Keep the load up until this many more workflows have ended."""
        enough = self.ended + workflows
        self.wait_for(lambda: self.ended >= enough, f"{workflows} workflows")

    def finish(self, *, timeout_s: float = DEADLINE_S) -> Verdict:
        """Start nothing more, wait for the end of what runs, and judge."""
        give_up_at = time.monotonic() + timeout_s
        while self._running:
            assert time.monotonic() < give_up_at, f"never ended: {sorted(self._running)}"
            self._look()
            time.sleep(0.1)
        verdict = Verdict(workflows=len(self._ended))
        for workflow_id, (branch, state) in self._ended.items():
            self._judge(verdict, workflow_id, branch, state)
        return verdict

    def start(self, *, seconds: float | None = None) -> str:
        """Start one more workflow and return its id.

        Args:
            seconds: How long its bodies write; the next of the usual lengths unless given.
        """
        number = next(self._numbers)
        branch = f"load-{number}"
        self._platform.lakefs.add_branch(self._repository, branch, self._ref)
        place = {"branch": branch, "ref_type": "commit", "ref": self._ref}
        if seconds is None:
            seconds = BODY_SECONDS[number % len(BODY_SECONDS)]
        inputs = {"workspace": {"repository": self._repository, **place}, "seconds": seconds}
        workflow_id = self._platform.start(self._workflow, inputs)
        self._running[workflow_id] = branch
        return workflow_id

    def _look(self) -> None:
        for workflow_id in list(self._running):
            state = self._platform.state(workflow_id)
            if state["status"] in ENDED:
                self._ended[workflow_id] = (self._running.pop(workflow_id), state)

    def _judge(
        self, verdict: Verdict, workflow_id: str, branch: str, state: dict[str, Any]
    ) -> None:
        tasks = state["tasks"]
        history = self._platform.history(self._repository, branch)
        published = [c["metadata"] for c in history if "perago-publication" in c["metadata"]]
        verdict.publications += len(published)
        verdict.attempts += tasks
        verdict.given_back += sum(task["pollCount"] > 1 for task in tasks)
        lineages = {metadata["perago-lineage"] for metadata in published}
        if state["status"] != "COMPLETED" or len(lineages) < 2:
            verdict.lost.append(f"{workflow_id}: {state.get('reasonForIncompletion')}")
        if len(published) > 2:
            verdict.doubled.append(workflow_id)
        if len(tasks) > 2 or any(task["retryCount"] for task in tasks):
            verdict.retried.append(workflow_id)


def _task(reference: str, place: str) -> dict[str, Any]:
    params = {"path": f"{reference}.txt", "seconds": "${workflow.input.seconds}"}
    return {
        "name": "steady.write",
        "taskReferenceName": reference,
        "inputParameters": {"workspace": place, "params": params},
    }
