"""What single requests take at the servers: one connection, one at a time, nothing else going on.

These are what docs/scale.md multiplies. A time holds the client's part too, which is small.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from benchmarks.bench import KIB, Bench
from benchmarks.platform import noise
from benchmarks.results import Metric, Row, Sample
from benchmarks.tasks.contract import PREFIX, task_name

COSTS = Row(
    "costs",
    "single requests of a bare client, ms",
    (
        Metric("empty_poll", "empty poll"),
        Metric("poll", "poll of 1"),
        Metric("look", "look at a task"),
        Metric("extend", "extend a lease"),
        Metric("report", "report"),
        Metric("list", "list 100"),
        Metric("read", "read 10 KiB"),
        Metric("branch", "make a branch"),
        Metric("write", "write 10 KiB"),
        Metric("commit", "commit"),
        Metric("merge", "merge"),
        Metric("drop", "drop a branch"),
    ),
)


def costs(bench: Bench) -> Iterator[Sample]:
    """Time each kind of request, several times over."""
    repository, head = bench.repository([10 * KIB] * 100)
    count = 10 * bench.scale.rounds
    bench.say(f"costs: {count} of each")
    run = bench.new_run()
    task = task_name("noop", run)
    bench.conductor.start_many(task, {"params": {}}, count)
    for number in range(count):
        values = _conductor(bench, task) | _lakefs(bench, repository, head, number)
        yield Sample(COSTS.key, "limit", values)


def _conductor(bench: Bench, task: str) -> dict[str, float]:
    conductor = bench.conductor
    polled = []
    times = {"poll": _ms(lambda: polled.append(conductor.poll(task)))}
    (got,) = polled
    extension = conductor.update(got) | {"extendLease": True, "status": "IN_PROGRESS"}
    report = conductor.update(got) | {"status": "COMPLETED", "outputData": {"result": {}}}
    return times | {
        "look": _ms(lambda: conductor.call("GET", f"/tasks/{got['taskId']}")),
        "extend": _ms(lambda: conductor.call("POST", "/tasks", json=extension)),
        "report": _ms(lambda: conductor.call("POST", "/tasks", json=report)),
        "empty_poll": _ms(
            lambda: conductor.call("GET", f"/tasks/poll/batch/{task}-none?timeout=0")
        ),
    }


def _lakefs(bench: Bench, repository: str, head: str, number: int) -> dict[str, float]:
    lakefs, branch, key = bench.lakefs, f"cost-{number}", f"{PREFIX}/d000/f00000.bin"
    at = ("repositories", repository)
    body = noise(10 * KIB)
    commits: list[str] = []
    return {
        "list": _ms(lambda: lakefs.listing(repository, head, PREFIX)),
        "read": _ms(
            lambda: lakefs.call("GET", *at, "refs", head, "objects", query={"path": key})
        ),
        "branch": _ms(lambda: lakefs.branch(repository, branch, head)),
        "write": _ms(lambda: lakefs.upload(repository, branch, f"{key}.new", body, 10 * KIB)),
        "commit": _ms(lambda: commits.append(lakefs.commit(repository, branch))),
        "merge": _ms(
            lambda: lakefs.call(
                "POST", *at, "refs", commits[0], "merge", "main",
                send={"message": "m", "strategy": "source-wins"},
            )
        ),
        "drop": _ms(lambda: lakefs.call("DELETE", *at, "branches", branch)),
    }  # fmt: skip


def _ms(request: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    request()
    return 1000 * (time.perf_counter() - started_at)
