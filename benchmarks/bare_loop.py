"""The least a client can do for a backlog: polls, and one update for each task.

`python -m benchmarks.bare_loop WAY URL SLOTS TASK=SECONDS`. Ways: `batch` takes eight tasks or more
with one poll, `one` takes one task with one poll, `next` takes the next with the answer to each
report.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

WORKER_ID = "bare"
BATCH = 8
Task = dict[str, Any]


class Loop:
    """A client at work on one task type."""

    def __init__(self, url: str, task: str, seconds: float) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._task = task
        self._seconds = seconds

    def poll(self, count: int) -> list[Task]:
        """Take up to so many tasks; the server waits for a second when there are fewer."""
        query: dict[str, str | int] = {"count": count, "timeout": 1000, "workerid": WORKER_ID}
        answer = self._client.get(f"/tasks/poll/batch/{self._task}", params=query)
        tasks: list[Task] = answer.raise_for_status().json() if answer.content else []
        return tasks

    def work(self, polled: Task, *, path: str = "/tasks") -> httpx.Response:
        """Do what the task says, and report it."""
        if self._seconds:
            time.sleep(self._seconds)
        update = {
            "taskId": polled["taskId"],
            "workflowInstanceId": polled["workflowInstanceId"],
            "workerId": WORKER_ID,
            "status": "COMPLETED",
            "outputData": {"result": {"files": 0}},
        }
        return self._client.post(path, json=update).raise_for_status()

    def following(self, polled: Task) -> Iterator[Task]:
        """Yield a task and those that the answers to its report and theirs bring."""
        given: Task | None = polled
        while given is not None:
            yield given
            answer = self.work(given, path="/tasks/update-v2")
            given = answer.json() if answer.content else None


def main(way: str, url: str, slots: int, task: str, seconds: float) -> None:
    """Work until killed."""
    loop = Loop(url, task, seconds)
    count = 1 if way == "one" else max(BATCH, slots)
    with ThreadPoolExecutor(slots) as pool:
        while True:
            if way == "next":
                for polled in loop.poll(1):
                    for _ in loop.following(polled):
                        pass
            elif slots == 1:
                for polled in loop.poll(count):
                    loop.work(polled)
            else:
                list(pool.map(loop.work, loop.poll(count)))


if __name__ == "__main__":
    name, _, pause = sys.argv[4].partition("=")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), name, float(pause))
