"""What the parts of an attempt that does nothing cost, each measured without the others.

`python -m benchmarks.parts URL TASK COUNT FOLDER`, with COUNT tasks waiting at the queue; prints
processor milliseconds a task as JSON. One part is what an attempt costs with it less what it costs
without: its requests, its lines and figures, its body's child process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import count as numbers
from pathlib import Path
from typing import Any, cast

from benchmarks.processes import cpu_seconds
from benchmarks.tasks.contract import RUN_VARIABLE
from perago_worker.adapters.conductor.client import ConductorSettings
from perago_worker.adapters.conductor.queue import ConductorQueue
from perago_worker.adapters.system import SystemClock
from perago_worker.attempt.directories import AttemptDirectories
from perago_worker.bootstrap.attempts import tools_of
from perago_worker.bootstrap.watching import Watching
from perago_worker.config import Redactor, WorkerConfig, load_config
from perago_worker.events import Fanout, Listener
from perago_worker.models import Held, Lease, Observation, Outcome
from perago_worker.ports import TaskQueue, WorkspaceStore
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.slots import SlotPool
from perago_worker.task import TaskDefinition, load_module_tasks
from perago_worker.telemetry.event_log import EventLog
from perago_worker.telemetry.logs import configure_logging

BATCH = 8
WARM_UP = 2 * BATCH
MORE = 5
CONFIG = """
[worker]
modules = ["benchmarks.tasks.noop"]
python_path = ["{root}"]
isolation = "{isolation}"
body_env = ["{run}"]
attempts_per_child = 1000000
[queue]
kind = "local"
[store]
kind = "local"
[http]
listen = ""
[logging]
format = "json"
"""
ROOT = Path(__file__).parents[1]
CLOCK = SystemClock()


class NoQueue:
    """Takes every report at once, so that nothing but the attempt itself is left."""

    def observe(self, lease: Lease) -> Observation:  # noqa: ARG002 -- as the port has it
        """Say that the lease is held."""
        return Held()

    def complete(self, lease: Lease, outcome: Outcome, *, timeout_s: float | None = None) -> None:
        """Take a report."""


def main(url: str, task: str, count: int, folder: Path) -> dict[str, float]:
    """Measure; return the milliseconds of each part."""
    poll, report = _requests(url, task, count)
    many = MORE * count  # they are quick, and processor time is told in hundredths of a second
    bare = _attempts(folder, "thread", many, watched=False)
    watched = _attempts(folder, "thread", many, watched=True)
    in_child = _attempts(folder, "process", many, watched=True)
    return {
        "poll": poll,
        "report": report,
        "core": bare,
        "telemetry": watched - bare,
        "child": in_child - watched,
        "total": poll + report + in_child,
    }


def _requests(url: str, task: str, count: int) -> tuple[float, float]:
    """Return what the requests of a task cost: its part of a poll for eight, and its report."""
    settings = ConductorSettings(url=url)
    outcome = Outcome(kind="completed", code="no_workspace", output={"result": {"files": 0}})
    poll = report = 0.0
    done = 0
    with closing(ConductorQueue.open(settings, clock=CLOCK, worker_id="parts")) as queue:
        while done < count:
            began = time.process_time()
            leases = queue.poll(task, count=BATCH, wait_s=1.0)
            polled = time.process_time()
            for lease in leases:
                queue.complete(lease, outcome)
            poll += polled - began
            report += time.process_time() - polled
            done += len(leases)
    return 1000 * poll / done, 1000 * report / done


def _attempts(folder: Path, isolation: str, count: int, *, watched: bool) -> float:
    """Return what an attempt costs whose requests cost nothing."""
    file = folder / "worker.toml"
    file.write_text(CONFIG.format(root=ROOT, isolation=isolation, run=RUN_VARIABLE))
    config = load_config(file, environ={})
    (definition,) = load_module_tasks("benchmarks.tasks.noop")
    with (folder / "log").open("w") as stream:
        configure_logging("json", "info", stream=stream, redactor=Redactor(), levels={})
        listeners = _listeners(config, definition) if watched else []
        with _pool(config, definition, folder, listeners) as pool:
            _work_off(pool, definition, WARM_UP)
            before = cpu_seconds([os.getpid()])
            _work_off(pool, definition, count)
            return 1000 * (cpu_seconds([os.getpid()]) - before) / count


def _listeners(config: WorkerConfig, definition: TaskDefinition) -> Sequence[Listener]:
    """Return who is told of everything in a worker."""
    watching = Watching.of(config, [definition], worker_id="parts", clock=CLOCK)
    return [EventLog(), *watching.listeners]


@contextmanager
def _pool(
    config: WorkerConfig, definition: TaskDefinition, folder: Path, listeners: Sequence[Listener]
) -> Iterator[SlotPool]:
    listener = Fanout(listeners)
    heartbeats = Heartbeats(clock=CLOCK)
    with closing(AttemptDirectories(folder / "root", owner="parts", warm=0)) as directories:
        directories.open()
        pool = SlotPool(
            definition,
            size=1,
            make_tools=lambda: tools_of(
                config,
                definition,
                queue=cast("TaskQueue", NoQueue()),
                store=cast("WorkspaceStore", None),
                clock=CLOCK,
                listener=listener,
                directories=directories,
                redactor=Redactor(),
                shut_down=threading.Event(),
            ),
            heartbeats=heartbeats,
            clock=CLOCK,
        )
        services = (heartbeats, *pool.slots)
        for service in services:
            service.start()
        try:
            yield pool
        finally:
            for service in services:
                service.stop()
                service.join(5)


def _work_off(pool: SlotPool, definition: TaskDefinition, count: int) -> None:
    for _ in range(count // BATCH):
        while not pool.wait_free(10):
            pass
        for lease in _leases(definition):
            pool.take(lease, may_wait=True)
    while not pool.wait_free(10):
        pass


_numbers = numbers()


def _leases(definition: TaskDefinition) -> list[Lease]:
    return [Lease.model_validate(_delivery(definition.name, next(_numbers))) for _ in range(BATCH)]


def _delivery(task_type: str, number: int) -> Mapping[str, Any]:
    now_ms = round(CLOCK.time() * 1000)
    return {
        "task_type": task_type,
        "workflow_id": f"workflow-{number}",
        "task_id": f"task-{number}",
        "reference_name": "it",
        "retry_count": 0,
        "poll_count": 1,
        "worker_id": "parts",
        "start_time_ms": now_ms,
        "scheduled_time_ms": now_ms,
        "response_timeout_s": 600,
        "input": {"params": {}},
        "granted_at": CLOCK.now(),
    }


if __name__ == "__main__":
    url, name, number, place = sys.argv[1:]
    sys.stdout.write(json.dumps(main(url, name, int(number), Path(place))))
