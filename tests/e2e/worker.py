"""The installed command as a process: what an operator starts, reads and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from perago_worker.adapters.local.queue import LocalQueue
from perago_worker.adapters.local.store import LocalStore
from perago_worker.adapters.system import SystemClock
from perago_worker.task import load_module_tasks
from perago_worker.taskdef import build_taskdef

REPOSITORY_ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0

LOCAL_CONFIG = """
[worker]
modules = ["tests.tasks.probe"]
python_path = ["{root}"]
drain_timeout = "{drain_timeout}"
kill_grace = "1s"
[queue]
kind = "local"
[store]
kind = "local"
[http]
listen = "127.0.0.1:0"
[logging]
format = "json"
level = "debug"
[publish]
heartbeat_interval = "1s"
"""


def write_local_config(folder: Path, *, drain_timeout: str = "30s", extra: str = "") -> Path:
    """Write a configuration over the embedded pair, with what it keeps in `folder`."""
    config = folder / "worker.toml"
    config.write_text(
        LOCAL_CONFIG.format(root=REPOSITORY_ROOT, drain_timeout=drain_timeout) + extra
    )
    return config


def run_command(
    config: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout_s: float = DEADLINE_S,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(config, *arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **(env or {})},
        check=False,
    )


def command(config: Path, *arguments: str) -> list[str]:
    """Return the command line of the installed entry point."""
    return [sys.executable, "-m", "perago_worker", "--config", str(config), *arguments]


class Worker:
    """A running worker and the events it has logged so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line)
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_event(self, name: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the nth event of a name with these fields."""

        def found() -> dict[str, Any] | None:
            matching = self.all_events(name, **fields)
            return matching[count - 1] if len(matching) >= count else None

        event: dict[str, Any] = self.wait_for(found, f"event {name} {fields}")
        return event

    def wait_for(
        self, probe: Callable[[], Any], what: str, *, timeout_s: float = DEADLINE_S
    ) -> Any:
        """Wait until `probe` returns something true, looking again at every line of the log."""
        give_up_at = time.monotonic() + timeout_s
        with self._changed:
            while not (result := probe()):
                left = give_up_at - time.monotonic()
                assert left > 0, f"no {what} in {timeout_s} s; log:\n{''.join(self.lines[-60:])}"
                self._changed.wait(min(left, 0.1))
        return result

    def all_events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the events of a name with these fields, in order."""
        return [
            event
            for event in list(self.events)
            if event.get("event") == name and fields.items() <= event.items()
        ]

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait_exit(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for the end and return the exit code; the log is complete then."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code


@contextmanager
def started_worker(
    config: Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Worker]:
    """Start a worker; kill it at the end of the block if it still runs.

    Args:
        cwd: Where to start it, which is also where Python finds the worker's package first.
    """
    process = subprocess.Popen(
        command(config, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )
    try:
        yield Worker(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def submit(
    config: Path,
    task: str,
    params: Mapping[str, Any],
    *,
    files: Path | None = None,
    module: str = "tests.tasks.probe",
) -> str:
    """Queue a task of a module on the embedded queue; return its task id.

    Args:
        files: Directory to import into `repo@main`, whose head becomes the task's workspace.
    """
    task_input: dict[str, Any] = {"params": dict(params)}
    if files is not None:
        root = config.parent / "var/repositories"
        root.mkdir(parents=True, exist_ok=True)
        commit = LocalStore(root).import_directory("repo", "main", files, "input")
        place = {"repository": "repo", "branch": "main", "ref_type": "commit", "ref": commit.id}
        task_input["workspace"] = place
    with local_queue(config) as queue:
        for definition in load_module_tasks(module):
            queue.register_taskdef(build_taskdef(definition))
        return queue.submit(task, task_input).task_id


def recorded_tasks(config: Path) -> list[dict[str, Any]]:
    """Return what the embedded queue knows of its tasks."""
    with local_queue(config) as queue:
        return [record.model_dump(mode="json") for record in queue.tasks(limit=100)]


@contextmanager
def local_queue(config: Path) -> Iterator[LocalQueue]:
    """Open the queue that a worker with this configuration polls."""
    path = config.parent / "var/queue.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(LocalQueue(path, clock=SystemClock(), worker_id="tests")) as queue:
        yield queue


def fetch(url: str) -> tuple[int, str]:
    """GET a page; return status and body, also for error statuses."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 -- an address of ours
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def child_pids(pid: int) -> list[int]:
    """Return the processes whose parent is `pid`."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []
