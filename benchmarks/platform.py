"""The operator's side of both servers: inputs are made, tasks are started, their ends are read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import urllib3

from deploy.servers.pair import Addresses

THREADS = 8
START_TRIES = 5
"""Conductor on SQLite refuses a workflow now and then when several are started at once."""
DEADLINE_S = 1800.0
UPLOAD_BLOCK_BYTES = 1 << 20
ENDED = frozenset({"COMPLETED", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "TIMED_OUT", "CANCELED"})


class BenchmarkError(Exception):
    """A measurement could not be taken."""


@dataclass(frozen=True)
class Ended:
    """A task that completed, by Conductor's clock.

    Attributes:
        scheduled_at: When it could be polled, in seconds since the epoch.
        started_at: When it was polled.
        ended_at: When its completion was taken.
        output: What it returned.
    """

    scheduled_at: float
    started_at: float
    ended_at: float
    output: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """From the poll that brought it to the report that ended it."""
        return self.ended_at - self.started_at


class LakeFS:
    """A bare client of lakeFS: a pool of connections and nothing else."""

    def __init__(self, addresses: Addresses) -> None:
        access = addresses.lakefs
        self._root = f"{access.endpoint.rstrip('/')}/api/v1"
        self._headers = urllib3.make_headers(
            basic_auth=f"{access.access_key_id}:{access.secret_access_key}"
        )
        self.pool = urllib3.PoolManager(maxsize=THREADS, block=True, timeout=120.0, retries=False)

    def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str] | None = None,
        send: object = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request; fail unless it succeeds."""
        url = "/".join([self._root, *(quote(part, safe="") for part in path)])
        kind = "application/json" if body is None else "application/octet-stream"
        answer = self.pool.request(
            method,
            f"{url}?{urlencode(query)}" if query else url,
            body=json.dumps(send) if send is not None else body,
            headers={**self._headers, "Content-Type": kind, **(headers or {})},
            preload_content=not stream,
        )
        if answer.status >= 400:
            raise BenchmarkError(f"{method} {'/'.join(path)}: {answer.status} {answer.data!r}")
        return answer

    def json(self, method: str, *path: str, **options: Any) -> Any:
        """Send one request and return the JSON of its answer."""
        return json.loads(self.call(method, *path, **options).data)

    def repository(self, name: str) -> None:
        """Create an empty repository."""
        send = {"name": name, "storage_namespace": f"local://{name}"}
        self.call("POST", "repositories", send=send)

    def branch(self, repository: str, name: str, source: str) -> None:
        """Create a branch at a commit."""
        send = {"name": name, "source": source}
        self.call("POST", "repositories", repository, "branches", send=send)

    def upload(self, repository: str, branch: str, key: str, body: Any, size: int) -> None:
        """Put an object on a branch; `body` is bytes or an iterator over them."""
        self.call(
            "POST", "repositories", repository, "branches", branch, "objects",
            query={"path": key}, body=body, headers={"Content-Length": str(size)},
        )  # fmt: skip

    def commit(self, repository: str, branch: str) -> str:
        """Commit what is on a branch; return the commit's id."""
        path = ("repositories", repository, "branches", branch, "commits")
        return str(self.json("POST", *path, send={"message": "input"})["id"])

    def listing(self, repository: str, ref: str, prefix: str) -> list[tuple[str, int]]:
        """Return key and size of every object below a prefix."""
        found: list[tuple[str, int]] = []
        after = ""
        while True:
            page = self.json(
                "GET", "repositories", repository, "refs", ref, "objects", "ls",
                query={"prefix": f"{prefix}/", "amount": "1000", "after": after},
            )  # fmt: skip
            found += [(each["path"], each["size_bytes"]) for each in page["results"]]
            if not page["pagination"]["has_more"]:
                return found
            after = page["pagination"]["next_offset"]

    def seed(self, repository: str, prefix: str, sizes: Sequence[int]) -> str:
        """Put random objects of these sizes on `main` and commit them; return the commit's id."""

        def put(numbered: tuple[int, int]) -> None:
            number, size = numbered
            key = f"{prefix}/d{number // 100:03}/f{number:05}.bin"
            self.upload(repository, "main", key, noise(size), size)

        each(put, enumerate(sizes))
        return self.commit(repository, "main")

    def delete_repository(self, name: str) -> None:
        """Delete a repository; its objects stay on the server's disk."""
        self.call("DELETE", "repositories", name, query={"force": "true"})

    def close(self) -> None:
        """Release the connections."""
        self.pool.clear()


def noise(size: int) -> bytes | Iterable[bytes]:
    """Return random bytes, those of large objects a block at a time and each block the same."""
    if size <= UPLOAD_BLOCK_BYTES:
        return os.urandom(size)
    block = os.urandom(UPLOAD_BLOCK_BYTES)
    whole, rest = divmod(size, UPLOAD_BLOCK_BYTES)
    return (block[: UPLOAD_BLOCK_BYTES if n < whole else rest] for n in range(whole + bool(rest)))


def each(work: Callable[[Any], object], items: Iterable[Any], *, threads: int = THREADS) -> None:
    """Do work for every item in several threads; raise the first failure."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


class Conductor:
    """Starts workflows of one task and reads how they went."""

    def __init__(self, addresses: Addresses) -> None:
        limits = httpx.Limits(max_connections=THREADS * 2)
        self._http = httpx.Client(base_url=addresses.conductor_url, timeout=60, limits=limits)
        self.check: Callable[[], None] = lambda: None
        """Called while waiting; raises when there is nothing to wait for."""

    def register(self, taskdefs: Sequence[Mapping[str, Any]]) -> None:
        """Register task definitions and, under the same names, workflows of one such task."""
        self._http.post("/metadata/taskdefs", json=list(taskdefs)).raise_for_status()
        workflows = [
            {
                "name": taskdef["name"],
                "version": 1,
                "schemaVersion": 2,
                "ownerEmail": "bench@example.com",
                "timeoutSeconds": 0,
                "tasks": [
                    {
                        "name": taskdef["name"],
                        "taskReferenceName": "task",
                        "type": "SIMPLE",
                        "inputParameters": {
                            "workspace": "${workflow.input.workspace}",
                            "params": "${workflow.input.params}",
                        },
                    }
                ],
            }
            for taskdef in taskdefs
        ]
        self._http.put("/metadata/workflow", json=workflows).raise_for_status()

    def start(self, task: str, task_input: Mapping[str, Any]) -> str:
        """Start a workflow of one task; return its id."""
        request = {"name": task, "version": 1, "input": dict(task_input)}
        for _ in range(START_TRIES - 1):
            answer = self._http.post("/workflow", json=request)
            if not answer.is_server_error:
                return answer.raise_for_status().text
        return self._http.post("/workflow", json=request).raise_for_status().text

    def start_many(self, task: str, task_input: Mapping[str, Any], count: int) -> list[str]:
        """Start the same workflow many times; return the ids."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(lambda _: self.start(task, task_input), range(count)))

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request; fail unless it succeeds."""
        return self._http.request(method, path, **options).raise_for_status()

    def poll(self, task: str) -> dict[str, Any]:
        """Poll one task, which has to be there."""
        query = {"count": 1, "timeout": 5000, "workerid": "bare"}
        (polled,) = self.call("GET", f"/tasks/poll/batch/{task}", params=query).json()
        return dict(polled)

    @staticmethod
    def update(polled: Mapping[str, Any]) -> dict[str, Any]:
        """Return what every update of a polled task names."""
        return {
            "taskId": polled["taskId"],
            "workflowInstanceId": polled["workflowInstanceId"],
            "workerId": "bare",
        }

    def task(self, workflow: str) -> dict[str, Any] | None:
        """Return the last attempt of a workflow's task; None before it is scheduled."""
        answer = self._http.get(f"/workflow/{workflow}", params={"includeTasks": True})
        tasks = answer.raise_for_status().json()["tasks"]
        return dict(tasks[-1]) if tasks else None

    def run(self, task: str, task_input: Mapping[str, Any]) -> Ended:
        """Start a workflow of one task and wait for its end."""
        return self.wait(self.start(task, task_input))

    def wait(self, workflow: str, *, interval_s: float = 0.05) -> Ended:
        """Wait for the end of a workflow's task.

        Raises:
            BenchmarkError: The task did not complete.
        """
        give_up_at = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up_at:
            task = self.task(workflow)
            if task and task["status"] in ENDED:
                return _ended(task)
            self.check()
            time.sleep(interval_s)
        raise BenchmarkError(f"a task did not end in {DEADLINE_S:.0f} s")

    def ends(self, workflows: Sequence[str]) -> list[Ended]:
        """Wait for the ends of many tasks, the last started first."""
        self.wait(workflows[-1], interval_s=0.1)
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self.wait, workflows))

    def close(self) -> None:
        """Release the connections."""
        self._http.close()


def _ended(task: Mapping[str, Any]) -> Ended:
    if task["status"] != "COMPLETED":
        raise BenchmarkError(
            f"a task of {task['taskType']} ended {task['status']}: "
            f"{task.get('reasonForIncompletion')}"
        )
    return Ended(
        scheduled_at=task["scheduledTime"] / 1000,
        started_at=task["startTime"] / 1000,
        ended_at=task["endTime"] / 1000,
        output=task["outputData"],
    )
