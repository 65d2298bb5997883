"""Rows of the queue: throughput of a backlog, how soon a task is taken up, what idling costs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from benchmarks.bench import KINDS, Bench
from benchmarks.contenders import PAUSE_S
from benchmarks.processes import cpu_seconds, pss_mib, watched
from benchmarks.relay import relayed
from benchmarks.results import Goal, Metric, Row, Sample
from benchmarks.stats import rate_after_warm_up
from benchmarks.tasks.contract import task_name
from deploy.servers.pair import Addresses

RATE = Metric("rate", "tasks/s", more_is_better=True)
CPU_PER_TASK = Metric("cpu_ms", "CPU ms a task")
_BACKLOG_GOALS = (
    Goal(0, "at least 0.9 x the bare loop", lambda m: 0.9 * m["limit"], at_least=True),
    Goal(1, "at most 1.5 x its CPU per task", lambda m: 1.5 * m["limit"]),
)
BACKLOG_1 = Row("backlog-1", "no-op backlog, 1 slot", (RATE, CPU_PER_TASK), _BACKLOG_GOALS)
BACKLOG_10 = Row("backlog-10", "no-op backlog, 10 slots", (RATE, CPU_PER_TASK), _BACKLOG_GOALS)
PICKUP = Row(
    "pickup",
    "from being scheduled to being polled, worker idle",
    (Metric("ms", "p50 ms"), Metric("ms", "p99 ms", percent=99)),
    (
        Goal(0, "p50 at most 15 ms", lambda _: 15.0),
        Goal(1, "p99 at most 100 ms", lambda _: 100.0),
    ),
)
_IDLE_METRICS = (
    Metric("cpu", "CPU %"),
    Metric("requests", "requests/s"),
    Metric("parent", "parent MiB"),
    Metric("children", "MiB a child"),
    Metric("processes", "processes"),
    Metric("total", "all MiB"),
    Metric("first_poll", "s to first poll"),
)
IDLE_1 = Row(
    "idle-1",
    "idle, 1 task type, 1 slot",
    _IDLE_METRICS,
    (
        Goal(0, "at most 1 % of a core", lambda _: 1.0),
        Goal(1, "at most 0.3 requests/s", lambda _: 0.3),
        Goal(2, "parent at most 90 MiB", lambda _: 90.0),
        Goal(3, "at most 25 MiB a child", lambda _: 25.0),
        Goal(6, "first poll within 1 s", lambda _: 1.0),
    ),
)
IDLE_5 = Row(
    "idle-5",
    "idle, 5 task types, 1 slot each",
    _IDLE_METRICS,
    (
        Goal(0, "at most 1 % of a core", lambda _: 1.0),
        Goal(1, "at most 1.5 requests/s", lambda _: 1.5),
        Goal(2, "parent at most 90 MiB", lambda _: 90.0),
        Goal(3, "at most 25 MiB a child", lambda _: 25.0),
    ),
)
WORKERS = ("worker", "worker-threads", "perago", "perago-threads", "plain")
BACKLOG_TURNS = 4
"""Turns in each round: one varies by a fifth, and takes a few seconds."""

DROPPED_SHARE = 0.5
"""Share of a backlog that does not count, because processes and connections still come about: ten
children take a third of a second each to start."""


def backlog(bench: Bench) -> Iterator[Sample]:
    """Work off no-op tasks that wait."""
    rows = {1: BACKLOG_1, 10: BACKLOG_10}
    for slots in bench.scale.backlog_slots:
        row = rows[slots]
        bare = ("limit", "limit-one", "limit-next") if slots == 1 else ("limit",)
        for name in bench.turns((*WORKERS, *bare), BACKLOG_TURNS * bench.scale.rounds):
            bench.say(f"{row.key}: {name}")
            yield Sample(row.key, name, work_off(bench, name, "noop", slots, bench.scale.backlog))


def work_off(bench: Bench, name: str, kind: str, slots: int, count: int) -> dict[str, float]:
    """Queue tasks, start a contender, and measure it from when it is warm to the last task."""
    params = {"seconds": PAUSE_S} if kind == "pause" else {}
    run = bench.new_run()
    workflows = bench.conductor.start_many(task_name(kind, run), {"params": params}, count)
    with bench.start(name, [kind], slots=slots, run=run) as running, watched(running.pids) as watch:
        ends = [ended.ended_at for ended in bench.conductor.ends(workflows)]
    dropped = max(1, int(count * DROPPED_SHARE))
    ordered = sorted(ends)
    used = watch.cpu_between(ordered[dropped - 1], ordered[-1])
    return {
        "rate": rate_after_warm_up(ends, dropped=dropped),
        "cpu_ms": 1000 * used / (count - dropped),
    }


def pickup(bench: Bench) -> Iterator[Sample]:
    """Start one task at a time, at odd moments."""
    odd = random.Random(bench.run)  # noqa: S311 -- not for secrets
    for name in bench.turns((*WORKERS, "limit-one")):
        bench.say(f"pickup: {name}")
        with bench.start(name, ["noop"]) as running:
            noop = task_name("noop", running.run)
            bench.conductor.run(noop, {"params": {}})
            for _ in range(bench.scale.pickups):
                time.sleep(odd.uniform(0.3, 0.8))
                ended = bench.conductor.run(noop, {"params": {}})
                waited_ms = 1000 * (ended.started_at - ended.scheduled_at)
                yield Sample(PICKUP.key, name, {"ms": waited_ms})


def idle(bench: Bench) -> Iterator[Sample]:
    """Let workers wait for tasks that do not come."""
    for row, kinds in ((IDLE_1, KINDS[:1]), (IDLE_5, KINDS)):
        for name in bench.turns(WORKERS):
            bench.say(f"{row.key}: {name}")
            yield Sample(row.key, name, _idle(bench, name, kinds))


def _idle(bench: Bench, name: str, kinds: tuple[str, ...]) -> dict[str, float]:
    given = bench.setting.addresses
    with relayed(given.conductor_url) as (url, traffic):
        addresses = Addresses(url, given.lakefs)
        with bench.start(name, kinds, addresses=addresses) as running:
            bench.conductor.run(task_name("noop", running.run), {"params": {}})
            time.sleep(min(3.0, bench.scale.idle_s))
            cpu, requests, since = cpu_seconds(running.pids), traffic.count(), time.monotonic()
            time.sleep(bench.scale.idle_s)
            seconds = time.monotonic() - since
            values = {
                "cpu": 100 * (cpu_seconds(running.pids) - cpu) / seconds,
                "requests": (traffic.count() - requests) / seconds,
                **_memory(running.pids),
            }
            polls = [at for at, _, path in traffic.requests if "/poll" in path]
            return values | {"first_poll": min(polls) - running.started_at}


def _memory(pids: list[int]) -> dict[str, float]:
    parents = [pss_mib([pid]) for pid in pids]
    children = [size for sizes in parents for size in sizes[1:]]
    return {
        "parent": sum(sizes[0] for sizes in parents),
        **({"children": sum(children) / len(children)} if children else {}),
        "processes": sum(len(sizes) for sizes in parents),
        "total": sum(map(sum, parents)),
    }
