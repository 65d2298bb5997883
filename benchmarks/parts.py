"""What the parts of an attempt that does nothing cost, at work on a real queue.

`python -m benchmarks.parts URL TASK COUNT FOLDER`, with COUNT tasks, 85 or more, waiting at the
queue; prints processor milliseconds a task as JSON, for the worker and for a bare loop. One part is
what tasks cost with it less what they cost without: an attempt around the requests, its lines and
figures, its body's child process. The ways take turns, a few tasks each, so that all of them meet
the same server and the same neighbours.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

from benchmarks.bare_loop import BATCH, Loop
from benchmarks.processes import cpu_seconds
from benchmarks.tasks.contract import RUN_VARIABLE
from perago_worker.adapters.conductor.client import ConductorSettings
from perago_worker.adapters.conductor.queue import ConductorQueue
from perago_worker.adapters.system import SystemClock
from perago_worker.attempt.body.protocol import Call
from perago_worker.attempt.body.runner import BodyRunner
from perago_worker.attempt.context import Tools
from perago_worker.attempt.directories import AttemptDirectories
from perago_worker.attempt.stop import StopToken
from perago_worker.bootstrap.attempts import tools_of
from perago_worker.bootstrap.watching import Watching
from perago_worker.config import Redactor, WorkerConfig, load_config
from perago_worker.events import Fanout, Listener
from perago_worker.models import Lease, Outcome
from perago_worker.ports import WorkspaceStore
from perago_worker.runtime.heartbeats import Heartbeats
from perago_worker.runtime.slots import SlotPool
from perago_worker.task import TaskDefinition, load_module_tasks
from perago_worker.telemetry.deferred import Deferred
from perago_worker.telemetry.event_log import EventLog
from perago_worker.telemetry.logs import configure_logging

WARM_UP = 2 * BATCH
TURN = 5 * BATCH
"""Tasks that each way works off before it is another's turn, or its share where that is less."""

CONFIG = """
[worker]
modules = ["benchmarks.tasks.noop"]
python_path = ["{root}"]
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


class Measured:
    """Works tasks off in one way, and adds up what that costs."""

    def __init__(self, work: Callable[[int], None]) -> None:
        """Prepare; `work` works off so many tasks."""
        self.work = work
        self._tasks = 0
        self._seconds = 0.0

    def turn(self, count: int) -> None:
        """Work off so many tasks."""
        before = cpu_seconds([os.getpid()])
        self.work(count)
        self._seconds += cpu_seconds([os.getpid()]) - before
        self._tasks += count

    @property
    def ms(self) -> float:
        """Processor milliseconds a task, those of child processes included."""
        return 1000 * self._seconds / self._tasks


def main(url: str, task: str, count: int, folder: Path) -> dict[str, dict[str, float]]:
    """Measure; return contender -> part -> milliseconds."""
    with (
        closing(
            ConductorQueue.open(ConductorSettings(url=url), clock=CLOCK, worker_id="parts")
        ) as queue,
        (folder / "log").open("w") as log,
        ExitStack() as pools,
    ):
        configure_logging("json", "info", stream=log, redactor=Redactor(), levels={})

        def attempts(*, watched: bool) -> Measured:
            work = pools.enter_context(_attempts(queue, task, folder, watched=watched))
            return Measured(work)

        _, tools, _ = _tools(queue, folder, Fanout([]))
        body = pools.enter_context(closing(tools.body))
        ways = {
            "bare": Measured(partial(_bare, Loop(url, task, 0.0))),
            "requests": Measured(partial(_requests, queue, task)),
            "child": Measured(partial(_requests, queue, task, body=body)),
            "core": attempts(watched=False),
            "telemetry": attempts(watched=True),
        }
        for way in ways.values():
            way.work(WARM_UP)
        share = count // len(ways) - WARM_UP
        turn = min(TURN, share)
        for _ in range(share // turn):
            for way in ways.values():
                way.turn(turn)
    ms = {name: way.ms for name, way in ways.items()}
    return {
        "limit": {"requests": ms["bare"], "total": ms["bare"]},
        "worker": {
            "requests": ms["requests"],
            "child": ms["child"] - ms["requests"],
            "core": ms["core"] - ms["child"],
            "telemetry": ms["telemetry"] - ms["core"],
            "total": ms["telemetry"],
        },
    }


def _bare(loop: Loop, count: int) -> None:
    """Poll and report with the bare client."""
    while count:
        for polled in loop.poll(min(BATCH, count)):
            loop.work(polled)
            count -= 1


def _requests(
    queue: ConductorQueue, task: str, count: int, *, body: BodyRunner | None = None
) -> None:
    """Poll and report with the worker's client, and have a body run in between."""
    outcome = Outcome(kind="completed", code="no_workspace", output={"result": {"files": 0}})
    while count:
        for lease in queue.poll(task, count=min(BATCH, count), wait_s=1.0):
            if body is not None:
                body.run(_call(lease), stop=StopToken(), on_output=lambda *_: None)
            queue.complete(lease, outcome)
            count -= 1


def _call(lease: Lease) -> Call:
    return Call(
        workflow_id=lease.workflow_id,
        task_id=lease.task_id,
        retry_count=lease.retry_count,
        params={},
        workspace=None,
        scratch=tempfile.gettempdir(),
    )


def _through_pool(pool: SlotPool, queue: ConductorQueue, task: str, count: int) -> None:
    """Have attempts do it."""
    while count:
        for lease in queue.poll(task, count=min(BATCH, count), wait_s=1.0):
            pool.take(lease, may_wait=True)
            count -= 1
        while not pool.wait_free(10):
            pass


def _config(folder: Path) -> WorkerConfig:
    file = folder / "worker.toml"
    file.write_text(CONFIG.format(root=ROOT, run=RUN_VARIABLE))
    return load_config(file, environ={})


def _listener(folder: Path, definition: TaskDefinition) -> Deferred:
    """Return who is told of everything in a worker."""
    watching = Watching.of(_config(folder), [definition], worker_id="parts", clock=CLOCK)
    return Deferred(Fanout([EventLog(), *watching.listeners]))


def _tools(
    queue: ConductorQueue, folder: Path, listener: Listener
) -> tuple[TaskDefinition, Tools, AttemptDirectories]:
    """Return what a worker's slot has."""
    config = _config(folder)
    (definition,) = load_module_tasks("benchmarks.tasks.noop")
    directories = AttemptDirectories(folder / "root", owner=uuid.uuid4().hex, warm=0)
    tools = tools_of(
        config,
        definition,
        queue=queue,
        store=cast("WorkspaceStore", None),
        clock=CLOCK,
        listener=listener,
        directories=directories,
        redactor=Redactor(),
        shut_down=threading.Event(),
    )
    return definition, tools, directories


@contextmanager
def _attempts(
    queue: ConductorQueue, task: str, folder: Path, *, watched: bool
) -> Iterator[Callable[[int], None]]:
    """Yield what has attempts of one slot work tasks off, with or without anybody who listens."""
    (definition,) = load_module_tasks("benchmarks.tasks.noop")
    with (
        closing(_listener(folder, definition)) as listener,
        _pool(queue, folder, listener if watched else Fanout([])) as pool,
    ):

        def work(count: int) -> None:
            _through_pool(pool, queue, task, count)
            listener.flush()

        yield work


@contextmanager
def _pool(queue: ConductorQueue, folder: Path, listener: Listener) -> Iterator[SlotPool]:
    """Yield a pool of one slot."""
    definition, tools, directories = _tools(queue, folder, listener)
    heartbeats = Heartbeats(clock=CLOCK)
    pool = SlotPool(
        definition,
        size=1,
        make_tools=lambda: tools,
        heartbeats=heartbeats,
        clock=CLOCK,
        take_ahead_s=0.1,
    )
    services = (heartbeats, *pool.helpers, *pool.slots)
    with closing(directories):
        directories.open()
        for service in services:
            service.start()
        try:
            while not pool.wait_free(10):
                pass
            yield pool
        finally:
            for service in reversed(services):
                service.stop()
                service.join(5)


if __name__ == "__main__":
    measured = main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    sys.stdout.write(json.dumps(measured))
