"""Real workers, each in a process of its own, with taps around their ports.

    python -m tests.rig.worker_main

serves orders from its standard input, one JSON object a line, and forks a worker for each: what
takes time is importing, and that is done once. It answers with the worker's process id and then
with its exit status.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from perago_worker.bootstrap.adapters import open_queue, open_store, register_locally
from perago_worker.bootstrap.run import new_worker_id
from perago_worker.bootstrap.tasks import load_tasks
from perago_worker.bootstrap.wiring import build_supervisor
from perago_worker.config import Redactor, load_config, secret_values
from perago_worker.events import Listener
from perago_worker.models import Lease
from perago_worker.ports import TaskQueue, WorkspaceStore
from perago_worker.telemetry.event_log import EventLog
from perago_worker.telemetry.logs import configure_logging
from tests.rig.clocks import LaterClock
from tests.rig.history import Historian, Journal
from tests.rig.kill_points import Killer, KillPoint
from tests.rig.pausing import Pauser
from tests.rig.taps import Counting, Tap, Tapped, recording, untouched
from tests.rig.tasks import CASE
from tests.support import ROOT

POLL_WAIT_S = 0.02
"""How long polls wait here: a worker that is done ends as soon."""


@dataclass(frozen=True)
class WorkerOrder:
    """How one worker is to be.

    Attributes:
        config: Its configuration file.
        case: Folder of the case: journal, log, and what the bodies are told.
        kill: Where it is killed; empty for nowhere.
        pause: Where it stops until it is continued; empty for nowhere.
        calls: Whether it writes down its calls.
        ahead_s: How far its clock is ahead of the machine's.
        until_idle: Whether it ends by itself when nothing is left to do.
    """

    config: str
    case: str
    kill: str = ""
    pause: str = ""
    calls: bool = False
    ahead_s: float = 0.0
    until_idle: bool = True


class Hasty:
    """A queue whose polls hardly wait."""

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def poll(
        self, task_type: str, *, count: int, wait_s: float, domain: str | None = None
    ) -> list[Lease]:
        """Take tasks, without waiting long for any."""
        return self._queue.poll(
            task_type, count=count, wait_s=min(wait_s, POLL_WAIT_S), domain=domain
        )


class Unswept:
    """A store in which a worker's janitor finds nothing.

    Whether the janitor's first look falls before or after the first attempt's start is chance, and
    cases are told apart by counting requests.
    """

    def __init__(self, store: WorkspaceStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def stages(self, repository: str) -> list[str]:
        """Return no stages."""
        return []


def work(order: WorkerOrder) -> int:
    """Be a worker; return its exit code."""
    case = Path(order.case)
    journal = Journal(case / "journal")
    os.environ[CASE] = order.case
    config = load_config(Path(order.config))
    secrets = secret_values(config)
    configure_logging(config.logging.format, config.logging.level, secrets=secrets)
    definitions = load_tasks(config)
    clock = LaterClock(order.ahead_s)
    tap: Tap = untouched
    listeners: list[Listener] = [EventLog(), Historian(journal)]
    if order.kill:
        killer = Killer(KillPoint(order.kill), journal)
        tap = killer.tap
        listeners.append(killer)
    if order.pause:
        pauser = Pauser(order.pause, journal, case=case, alone=config.queue.kind == "local")
        tap = pauser.tap
        listeners.append(pauser)
    noted, counting = recording(journal, tap, calls=order.calls), Counting()
    with (
        closing(open_queue(config, worker_id=new_worker_id(config), clock=clock)) as queue,
        closing(open_store(config)) as store,
    ):
        if config.queue.kind == "local":
            register_locally(queue, definitions)
        supervisor = build_supervisor(
            config,
            definitions,
            queue=Tapped(Hasty(queue), "queue", noted, counting).as_queue(),
            store=Tapped(Unswept(store), "store", noted, counting).as_store(),
            clock=clock,
            redactor=Redactor(secrets),
            listeners=listeners,
            until_idle=order.until_idle,
        )
        return supervisor.run()


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Fork a worker for every order, one after the other."""
    for line in orders:
        order = WorkerOrder(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            _become(order)
        answers.write(f"{pid}\n")
        answers.flush()
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


def _become(order: WorkerOrder) -> None:
    """Be the worker in a forked process, and never return."""
    code = 70
    try:
        log = os.open(f"{order.case}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = work(order)
    except BaseException:
        logging.getLogger(__name__).exception("the worker failed")
    finally:
        sys.stdout.flush()
        os._exit(code)


# --- the other side -------------------------------------------------------------------------------


class Forker:
    """A process that forks workers. Used by one thread at a time."""

    def __init__(self, *, for_servers: bool = False) -> None:
        """Start it.

        Args:
            for_servers: Whether the workers are for the real servers, whose SDKs take time to load.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rig.worker_main", *(["servers"] if for_servers else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, order: WorkerOrder) -> int:
        """Start a worker and return its process id; `wait` has to follow."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """Wait for the worker's end and return its exit code; that of a killed one is negative."""
        return self._answer()

    def run(self, order: WorkerOrder) -> int:
        """Run a worker to its end and return its exit code."""
        self.start(order)
        return self.wait()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End, once the last worker has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Forkers:
    """One forker for each thread that asks."""

    def __init__(self, *, for_servers: bool = False) -> None:
        self._for_servers = for_servers
        self._lock = threading.Lock()
        self._all: list[Forker] = []
        self._own = threading.local()

    def get(self) -> Forker:
        """Return this thread's forker."""
        if not hasattr(self._own, "forker"):
            self._own.forker = Forker(for_servers=self._for_servers)
            with self._lock:
                self._all.append(self._own.forker)
        forker: Forker = self._own.forker
        return forker

    def close(self) -> None:
        """End them all."""
        for forker in self._all:
            forker.close()


@contextmanager
def forkers(*, for_servers: bool = False) -> Iterator[Forkers]:
    """Offer forkers, and end them."""
    opened = Forkers(for_servers=for_servers)
    try:
        yield opened
    finally:
        opened.close()


def main(arguments: Sequence[str]) -> None:
    """Serve until there are no orders any more.

    Args:
        arguments: `servers` loads the servers' SDKs beforehand.
    """
    if "servers" in arguments:
        for module in ("conductor.queue", "lakefs.api"):
            import_module(f"perago_worker.adapters.{module}")
    serve(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
