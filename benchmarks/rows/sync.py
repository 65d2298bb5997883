"""Rows of moving workspaces: what an attempt takes, and what it asks of both servers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

from benchmarks.bare import download_seconds, publish_seconds
from benchmarks.bench import KIB, MIB, Bench, workspace
from benchmarks.contenders import Running
from benchmarks.processes import cpu_seconds, pss_mib, watched
from benchmarks.relay import Traffic, relayed
from benchmarks.results import Goal, Metric, Row, Sample
from benchmarks.tasks.contract import PREFIX, task_name
from deploy.servers.pair import Addresses, LakeFSAccess

SECONDS = Metric("seconds", "s")
CPU = Metric("cpu", "CPU s")
PEAK = Metric("peak", "peak MiB over idle")
IDLE = Metric("idle", "idle MiB")
TIMES = (SECONDS, CPU)
MEMORY = (SECONDS, PEAK, IDLE, CPU)

COLD = Row(
    "cold",
    "1,000 files of 10 KiB, one changed, first attempt",
    TIMES,
    (
        Goal(0, "at most 1.5 x the bare download + 0.2 s", lambda m: 1.5 * m["limit"] + 0.2),
        Goal(0, "at least 10 x faster than perago", lambda m: m["perago"] / 10),
    ),
)
WARM = Row(
    "warm",
    "1,000 files of 10 KiB, one changed, later attempts of the same worker",
    TIMES,
    (Goal(0, "at most 0.5 s", lambda _: 0.5),),
)
LARGE = Row(
    "large",
    "4 files of 256 MiB, a small one added, first attempt",
    MEMORY,
    (
        Goal(0, "at most 1.3 x the bare download", lambda m: 1.3 * m["limit"]),
        Goal(0, "at most 1.3 x the same with its MD5", lambda m: 1.3 * m["limit-verified"]),
        Goal(1, "at most 64 MiB over idle", lambda _: 64.0),
    ),
)
LARGE_AGAIN = Row(
    "large-again",
    "4 files of 256 MiB, a small one added, later attempts of the same worker",
    MEMORY,
)
REWRITE = Row(
    "rewrite",
    "200 files of 200 KiB, all changed",
    TIMES,
    (Goal(0, "at most 1.5 x bare download, upload and merge", lambda m: 1.5 * m["limit"]),),
)
HUGE = Row(
    "huge",
    "one file of 2 GiB, changed",
    MEMORY,
    (Goal(1, "at most 64 MiB over idle", lambda _: 64.0),),
)
_TRAFFIC = (
    Metric("lakefs", "lakeFS requests"),
    Metric("conductor", "Conductor requests"),
    Metric("down", "MiB from lakeFS"),
    Metric("up", "MiB to lakeFS"),
)
CALLS = Row("calls", "requests of an attempt on 1,000 files of 10 KiB, one changed", _TRAFFIC)
CALLS_AGAIN = Row(
    "calls-again", "requests of a second attempt of the same worker on these files", _TRAFFIC
)

TOUCH_ONE = {"file": "d000/f00000.bin", "size": 10 * KIB}
WITH_CHECKSUMS = ("worker", "perago", "limit", "limit-verified")
ADD_SMALL = {"file": "small.txt", "size": KIB}


def small_files(bench: Bench) -> Iterator[Sample]:
    """Change one of many small files."""
    sizes = [10 * KIB] * bench.scale.small_files
    yield from attempts(
        bench,
        (COLD, WARM),
        sizes,
        params=TOUCH_ONE,
        changed=[10 * KIB],
        contenders=WITH_CHECKSUMS,
    )


def large_files(bench: Bench) -> Iterator[Sample]:
    """Add a small file beside large ones."""
    sizes = [bench.scale.large_bytes] * 4
    yield from attempts(
        bench,
        (LARGE, LARGE_AGAIN),
        sizes,
        params=ADD_SMALL,
        changed=[KIB],
        memory=True,
        contenders=WITH_CHECKSUMS,
    )


def all_changed(bench: Bench) -> Iterator[Sample]:
    """Change every file."""
    sizes = [200 * KIB] * bench.scale.rewritten_files
    yield from attempts(bench, (REWRITE, REWRITE), sizes, kind="rewrite", changed=sizes)


def huge_object(bench: Bench) -> Iterator[Sample]:
    """Change one file that is larger than memory should ever hold."""
    sizes = [bench.scale.huge_bytes]
    yield from attempts(bench, (HUGE,), sizes, kind="rewrite", changed=sizes, memory=True, rounds=1)


def attempts(
    bench: Bench,
    rows: Sequence[Row],
    sizes: Sequence[int],
    *,
    changed: Sequence[int],
    kind: str = "touch",
    params: Mapping[str, Any] | None = None,
    memory: bool = False,
    contenders: Sequence[str] = ("worker", "perago", "limit"),
    rounds: int | None = None,
    repeats: Mapping[str, int] = MappingProxyType({}),
    x: float | None = None,
) -> Iterator[Sample]:
    """Let every contender work on workspaces of these sizes, each on a branch of its own.

    Args:
        rows: The row of a worker's first attempt, and that of later ones.
        changed: Sizes of what is uploaded, for the bare client.
        repeats: Later attempts of a turn, by contender, where they are not as many as elsewhere.
        memory: Watch the memory too, in turns of their own: to look at a process takes its time.
    """
    repository, commit = bench.repository(sizes)
    small, small_commit = bench.repository([KIB])
    turns = [
        (name, for_memory)
        for name in bench.turns(contenders, rounds)
        for for_memory in ((False, True) if memory and not name.startswith("limit") else (False,))
    ]
    for number, (name, for_memory) in enumerate(turns):
        bench.say(f"{rows[0].key}: {name}{'' if x is None else f' at {x:,.0f}'}")
        branch = f"turn-{number}"
        bench.lakefs.branch(repository, branch, commit)
        if name.startswith("limit"):
            yield from _bare(bench, name, rows, workspace(repository, branch, commit), changed, x=x)
            continue
        bench.lakefs.branch(small, branch, small_commit)
        with bench.start(name, [kind]) as running:
            _warm_up(bench, running, kind, workspace(small, branch, small_commit))
            idle_mib = sum(pss_mib(running.pids))
            ref = commit
            later = list(rows[1:]) * repeats.get(name, bench.scale.repeats)
            for row in [rows[0], *later]:
                given = {"workspace": workspace(repository, branch, ref), "params": params or {}}
                if for_memory:
                    peak_mib, ref = _peak_mib(bench, running, kind, given)
                    values = {"idle": idle_mib, "peak": max(0.0, peak_mib - idle_mib)}
                    yield Sample(row.key, name, values, x=x)
                else:
                    values, steps, ref = _attempt(bench, running, kind, given)
                    yield Sample(row.key, name, values, steps, x)


def _warm_up(bench: Bench, running: Running, kind: str, place: Mapping[str, str]) -> None:
    """Run a task on another repository, which does not count: processes start, pools fill."""
    params = ADD_SMALL if kind == "touch" else {}
    bench.conductor.run(task_name(kind, running.run), {"workspace": dict(place), "params": params})


def _attempt(
    bench: Bench, running: Running, kind: str, given: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, float], str]:
    """Run one task; return what it took, its steps, and the commit it made."""
    before, cpu = running.steps(), cpu_seconds(running.pids)
    ended = bench.conductor.run(task_name(kind, running.run), given)
    values = {"seconds": ended.seconds, "cpu": cpu_seconds(running.pids) - cpu}
    after = running.steps()
    steps = {
        step: seconds - before[step][0]
        for step, (seconds, count) in after.items()
        if count > before[step][1]
    }
    return values, steps, str(ended.output["workspace"]["ref"])


def _peak_mib(
    bench: Bench, running: Running, kind: str, given: Mapping[str, Any]
) -> tuple[float, str]:
    """Run one task; return the most memory it took, and the commit it made."""
    with watched(running.pids, memory=True, interval_s=0.05) as watch:
        ended = bench.conductor.run(task_name(kind, running.run), given)
    return watch.peak_mib, str(ended.output["workspace"]["ref"])


def _bare(
    bench: Bench,
    name: str,
    rows: Sequence[Row],
    place: Mapping[str, str],
    changed: Sequence[int],
    *,
    x: float | None,
) -> Iterator[Sample]:
    """Time what the servers allow: all objects down, then the changed ones up.

    Where first and later attempts are rows of their own, so are the two; else they add up.
    """
    used = time.process_time()
    down = download_seconds(
        bench.lakefs, place["repository"], place["ref"], PREFIX, verified=name == "limit-verified"
    )
    used = time.process_time() - used
    up = publish_seconds(bench.lakefs, place, PREFIX, changed)
    if rows[0] is rows[-1]:
        yield Sample(rows[0].key, name, {"seconds": down + up}, x=x)
        return
    yield Sample(rows[0].key, name, {"seconds": down, "cpu": used}, x=x)
    if name == "limit":
        yield Sample(rows[1].key, name, {"seconds": up}, x=x)


def calls(bench: Bench) -> Iterator[Sample]:
    """Count the requests of a first and a second attempt. Nothing is timed."""
    repository, commit = bench.repository([10 * KIB] * bench.scale.small_files)
    for number, name in enumerate(bench.turns(("worker", "perago"), 1)):
        bench.say(f"calls: {name}")
        branch = f"turn-{number}"
        bench.lakefs.branch(repository, branch, commit)
        given = bench.setting.addresses
        with ExitStack() as stack:
            conductor_url, conductor = stack.enter_context(relayed(given.conductor_url))
            endpoint, lakefs = stack.enter_context(relayed(given.lakefs.endpoint))
            access = given.lakefs
            addresses = Addresses(
                conductor_url,
                LakeFSAccess(endpoint, access.access_key_id, access.secret_access_key),
            )
            running = stack.enter_context(bench.start(name, ["touch"], addresses=addresses))
            ref = commit
            for row in (CALLS, CALLS_AGAIN):
                before = _traffic(conductor, lakefs)
                ended = bench.conductor.run(
                    task_name("touch", running.run),
                    {"workspace": workspace(repository, branch, ref), "params": TOUCH_ONE},
                )
                ref = str(ended.output["workspace"]["ref"])
                after = _traffic(conductor, lakefs)
                yield Sample(row.key, name, {key: after[key] - before[key] for key in after})


def _traffic(conductor: Traffic, lakefs: Traffic) -> dict[str, float]:
    return {
        "lakefs": lakefs.count(),
        "conductor": conductor.count(),
        "down": lakefs.bytes_down / MIB,
        "up": lakefs.bytes_up / MIB,
    }
