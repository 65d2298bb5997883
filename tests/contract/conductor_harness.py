"""A real Conductor for the contract suite of `TaskQueue`: operator and engine by its REST API.

Time is real here, and the server's: `pass_time` waits, and `eventually` asks until it is answered.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from perago_worker.adapters.conductor import ConductorQueue, ConductorSettings
from perago_worker.adapters.system import SystemClock
from perago_worker.models import Lease
from perago_worker.ports import Clock
from tests.contract.queue_harness import TASKDEF, Submitted, TaskView

T = TypeVar("T")

_ASK_AGAIN_S = 0.2
_GIVE_UP_S = 120.0


class WatchedQueue(ConductorQueue):
    """A queue that tells when a poll of its begins."""

    poll_begun: threading.Event

    def poll(
        self, task_type: str, *, count: int, wait_s: float, domain: str | None = None
    ) -> list[Lease]:
        self.poll_begun.set()
        return super().poll(task_type, count=count, wait_s=wait_s, domain=domain)


class ConductorHarness:
    """`QueueHarness` over the Conductor at `url`, which others may use at the same time."""

    def __init__(self, url: str) -> None:
        self.clock: Clock = SystemClock()
        self._settings = ConductorSettings(url, request_timeout_s=30)
        self._api = httpx.Client(base_url=self._settings.api_url, timeout=30)
        self._queues: list[ConductorQueue] = []
        self._poll_begun = threading.Event()

    def queue(self, worker_id: str | None = None) -> ConductorQueue:
        queue = WatchedQueue.open(
            self._settings,
            clock=self.clock,
            worker_id=worker_id or f"contract:{uuid.uuid4().hex}",
        )
        queue.poll_begun = self._poll_begun
        self._queues.append(queue)
        return queue

    def define(self, **fields: Any) -> str:
        name = f"contract.{uuid.uuid4().hex}"
        self._call("POST", "/metadata/taskdefs", json=[{**TASKDEF, "name": name, **fields}])
        return name

    def submit(
        self,
        task_type: str,
        task_input: Mapping[str, Any] | None = None,
        *,
        domain: str | None = None,
    ) -> Submitted:
        workflow_id = self._call(
            "POST", "/workflow", json=start_request(task_type, task_input, domain)
        ).text
        task = self.eventually(lambda: self._first_task(workflow_id), "the workflow has its task")
        return Submitted(workflow_id=workflow_id, task_id=task)

    def task(self, task_id: str) -> TaskView | None:
        answer = self._api.get(f"/tasks/{task_id}")
        if answer.status_code == 404:
            return None
        return self._view(answer.raise_for_status().json())

    def attempts(self, workflow_id: str) -> list[TaskView]:
        tasks = self._workflow(workflow_id)["tasks"]
        return [self._view(task) for task in sorted(tasks, key=lambda task: task["retryCount"])]

    def workflow_status(self, workflow_id: str) -> str:
        return str(self._workflow(workflow_id)["status"])

    def terminate(self, workflow_id: str, reason: str) -> None:
        self._call("DELETE", f"/workflow/{workflow_id}", params={"reason": reason})

    def cancel_task(self, submitted: Submitted) -> None:
        update = {
            "workflowInstanceId": submitted.workflow_id,
            "taskId": submitted.task_id,
            "status": "CANCELED",
        }
        self._call("POST", "/tasks", json=update)

    def rerun(self, submitted: Submitted) -> None:
        self._call(
            "POST",
            f"/workflow/{submitted.workflow_id}/rerun",
            json={
                "reRunFromWorkflowId": submitted.workflow_id,
                "reRunFromTaskId": submitted.task_id,
            },
        )

    def remove(self, workflow_id: str) -> None:
        params = {"archiveWorkflow": False}
        self._call("DELETE", f"/workflow/{workflow_id}/remove", params=params)

    def redeliver(self, task_type: str) -> None:
        self._call("POST", f"/tasks/queue/requeue/{task_type}")

    def until_waiting(self) -> None:
        assert self._poll_begun.wait(_GIVE_UP_S), "no poll has begun"
        self._poll_begun.clear()
        # By the time the server has answered this, the poll, sent before, has reached it.
        self._call("GET", "/tasks/queue/all")

    def pass_time(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def eventually(self, probe: Callable[[], T | None], what: str) -> T:
        deadline = self.clock.now() + _GIVE_UP_S
        while (found := probe()) is None:
            assert self.clock.now() < deadline, f"waited {_GIVE_UP_S:.0f} s in vain: {what}"
            self.pass_time(_ASK_AGAIN_S)
        return found

    def close(self) -> None:
        for queue in self._queues:
            queue.close()
        self._api.close()

    def _call(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self._api.request(method, path, **request).raise_for_status()

    def _workflow(self, workflow_id: str) -> dict[str, Any]:
        workflow: dict[str, Any] = self._call("GET", f"/workflow/{workflow_id}").json()
        return workflow

    def _first_task(self, workflow_id: str) -> str | None:
        tasks = self._workflow(workflow_id)["tasks"]
        return str(tasks[0]["taskId"]) if tasks else None

    def _view(self, record: Mapping[str, Any]) -> TaskView:
        answer = self._call("GET", f"/tasks/{record['taskId']}/log")
        log = answer.json() if answer.content else ()  # no content is how it says "none"
        return TaskView(
            task_id=record["taskId"],
            status=record["status"],
            retry_count=record["retryCount"],
            poll_count=record["pollCount"],
            reason=record.get("reasonForIncompletion") or "",
            output=record.get("outputData") or {},
            log=tuple(entry["log"] for entry in log),
            retried_task_id=record.get("retriedTaskId"),
            worker_id=record.get("workerId"),
        )


def start_request(
    task_type: str, task_input: Mapping[str, Any] | None, domain: str | None
) -> dict[str, Any]:
    """Return what starts a workflow of one task, whose definition comes with the request."""
    task = {
        "name": task_type,
        "taskReferenceName": "task",
        "type": "SIMPLE",
        "inputParameters": dict(task_input or {}),
    }
    definition = {
        "name": f"workflow.{task_type}",
        "version": 1,
        "schemaVersion": 2,
        "ownerEmail": TASKDEF["ownerEmail"],
        "tasks": [task],
    }
    request: dict[str, Any] = {
        "name": definition["name"],
        "version": 1,
        "input": {},
        "workflowDef": definition,
    }
    if domain is not None:
        request["taskToDomain"] = {task_type: domain}
    return request
