"""The least a client can do for a backlog: polls in batches, and one update for each task.

`python -m benchmarks.bare_loop URL SLOTS TASK=SECONDS`
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

WORKER_ID = "bare"


def main(url: str, slots: int, task: str, seconds: float) -> None:
    """Work until killed."""
    client = httpx.Client(base_url=url, timeout=60)

    def work(polled: dict[str, Any]) -> None:
        if seconds:
            time.sleep(seconds)
        update = {
            "taskId": polled["taskId"],
            "workflowInstanceId": polled["workflowInstanceId"],
            "workerId": WORKER_ID,
            "status": "COMPLETED",
            "outputData": {"result": {"files": 0}},
        }
        client.post("/tasks", json=update).raise_for_status()

    with ThreadPoolExecutor(slots) as pool:
        while True:
            query: dict[str, str | int] = {
                "count": max(8, slots),
                "timeout": 1000,
                "workerid": WORKER_ID,
            }
            answer = client.get(f"/tasks/poll/batch/{task}", params=query)
            tasks = answer.raise_for_status().json() if answer.content else []
            if slots == 1:
                for polled in tasks:
                    work(polled)
            else:
                list(pool.map(work, tasks))


if __name__ == "__main__":
    name, _, pause = sys.argv[3].partition("=")
    main(sys.argv[1], int(sys.argv[2]), name, float(pause))
